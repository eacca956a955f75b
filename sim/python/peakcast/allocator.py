"""One of peakcast's policies as the allocator of PyTorch, on a real GPU."""
import ctypes
import json
import os
from typing import Any, Dict, Optional, Union

from ._program import Error, run
from .results import Result

_HOOKS = (("set_record_stream_fn", "peakcast_record_stream"), ("set_reset_fn", "peakcast_reset"),
          ("set_memory_fraction_fn", "peakcast_memory_fraction"), ("set_init_fn", "peakcast_init"))


class Allocator:
    """A policy that runs inside PyTorch."""

    def __init__(self, library: "ctypes.CDLL", wrapper: Any):
        self._library = library
        self._wrapper = wrapper  # PyTorch borrows it

    def statistics(self, device: int = 0) -> Result:
        """The policy's books of a device, in bytes; empty before its first allocation."""
        text = ctypes.create_string_buffer(1 << 16)
        self._library.peakcast_statistics.restype = ctypes.c_size_t
        self._library.peakcast_statistics(device, text, ctypes.c_size_t(len(text)))
        data: Dict[str, Any] = json.loads(text.value or b"{}")
        return Result(data)


def _find(library: Optional[str]) -> str:
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libpeakcast_allocator.so")
    path = library or os.environ.get("PEAKCAST_ALLOCATOR") or beside
    if not os.path.exists(path):
        raise Error(f"{path}: there is no such file; libpeakcast_allocator.so comes of a build with the CUDA Toolkit "
                    "(cmake --preset cuda), and library=PATH or PEAKCAST_ALLOCATOR=PATH names it")
    return path


def use_allocator(policy: str = "pytorch", *, alloc_conf: str = "", limit: Union[int, str, None] = None,
                  library: Optional[str] = None) -> Allocator:
    """Makes PyTorch allocate by `policy`. Call it before anything is on the GPU; it imports torch.

    `alloc_conf` is PyTorch's settings string or the policy's own, `limit` what the allocator may reserve
    (bytes). `library` is libpeakcast_allocator.so, which a build with the CUDA Toolkit makes.

        allocator = peakcast.use_allocator("gmlake", library="build/cuda/libpeakcast_allocator.so")
        ...
        print(allocator.statistics())
    """
    run(["policies", policy.split("@")[0].split("+")[0], "--quiet"])  # a name that is not known says so before torch is loaded
    path = _find(library)
    import torch

    loaded = ctypes.CDLL(path)
    message = ctypes.create_string_buffer(1000)
    most = -1 if limit is None else int(limit)
    if loaded.peakcast_configure(policy.encode(), alloc_conf.encode(), ctypes.c_int64(most), message,
                                 ctypes.c_size_t(len(message))) != 0:
        raise Error(message.value.decode())
    wrapper = torch.cuda.memory.CUDAPluggableAllocator(path, "peakcast_malloc", "peakcast_free")
    hooks = wrapper.allocator()
    for setter, name in _HOOKS:
        getattr(hooks, setter)(ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value)
    torch.cuda.memory.change_current_allocator(wrapper)
    return Allocator(loaded, wrapper)
