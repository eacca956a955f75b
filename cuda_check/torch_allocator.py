#!/usr/bin/env python3
"""A peakcast policy as PyTorch's whole allocator, before the first allocation on a device:

    import torch_allocator
    torch_allocator.install("build/cuda/libpeakcast_allocator.so", policy="peakcast")

From then on torch.cuda's memory_stats, memory_summary, reset_peak_memory_stats, empty_cache, memory_snapshot,
_record_memory_history and _dump_snapshot, CUDA graphs, MemPool and record_stream mean the policy, and what does not fit is
a torch.OutOfMemoryError in PyTorch's words. Compiles torch_allocator.cpp once for each PyTorch (a C++ compiler and the
toolkit's headers; a minute) and keeps it beside the library.
"""
import ctypes
import os
import pathlib
import subprocess

import torch
from torch.utils import cpp_extension

SOURCE = pathlib.Path(__file__).resolve().with_name("torch_allocator.cpp")


def cuda_headers():
    """Folders in which cuda_runtime_api.h may be."""
    nvidia = pathlib.Path(torch.__file__).resolve().parent.parent / "nvidia"
    folders = [*nvidia.glob("cu*/include"), *nvidia.glob("cuda_runtime/include")]
    if cpp_extension.CUDA_HOME:
        folders.append(pathlib.Path(cpp_extension.CUDA_HOME) / "include")
    return [folder for folder in folders if (folder / "cuda_runtime_api.h").exists()]


def compiled(library, folder=None):
    """The bridge between `library` and this PyTorch, compiled unless it is there and newer than its sources."""
    target = pathlib.Path(folder or library.parent) / f"libpeakcast_torch-{torch.__version__}.so"
    sources = [SOURCE, SOURCE.with_name("pluggable_allocator.h"), library]
    if target.exists() and all(target.stat().st_mtime > source.stat().st_mtime for source in sources):
        return target
    root = pathlib.Path(torch.__file__).resolve().parent
    headers = [root / "include", root / "include/torch/csrc/api/include", *cuda_headers()]
    fresh = target.with_suffix(f".{os.getpid()}")
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-fPIC", "-shared", f"-I{SOURCE.parent.parent}",
               *(word for folder in headers for word in ("-isystem", str(folder))),
               f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", str(SOURCE), "-o", str(fresh),
               str(library), f"-L{root / 'lib'}", "-lc10", "-lc10_cuda", "-ltorch_cuda", "-ltorch_cpu",
               f"-Wl,-rpath,{root / 'lib'}", f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"cannot compile {SOURCE.name} for PyTorch {torch.__version__}:\n{done.stderr[-3000:]}")
    fresh.replace(target)
    return target


def install(library, policy="peakcast", alloc_conf="", limit=None, folder=None):
    """Makes `policy` of `library` (libpeakcast_allocator.so) PyTorch's allocator. `limit`: bytes it may reserve.

    `folder` keeps what is compiled; the library's own unless given. Raises ValueError for a name or settings that are
    wrong and RuntimeError when it is too late or does not compile.
    """
    library = pathlib.Path(library).resolve()
    policies = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    message = ctypes.create_string_buffer(1000)
    if policies.peakcast_configure(policy.encode(), alloc_conf.encode(), ctypes.c_int64(-1 if limit is None else limit),
                                   message, ctypes.c_size_t(len(message))) != 0:
        raise ValueError(message.value.decode())
    bridge = ctypes.CDLL(str(compiled(library, folder)))
    bridge.peakcast_install.restype = ctypes.c_char_p
    reason = bridge.peakcast_install()
    if reason is not None:
        raise RuntimeError(reason.decode())
