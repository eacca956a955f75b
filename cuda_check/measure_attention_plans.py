#!/usr/bin/env python3
"""Measures how long the host builds cuDNN's execution plans for attention, which it does once per shape and thread.

usage: measure_attention_plans.py

Needs PyTorch and a GPU on which cuDNN's attention runs. Each line is one shape: milliseconds of the first and the
third call's host time, forward and backward, and of the first forward on another thread. The first shape also loads
the libraries and stands apart. Run it twice: the first run on a machine reads kernels from disk (a second and more per
kind of kernel). The second one's medians are HostWork::attention_plan in workloads/card_costs.cpp.
"""
import statistics
import sys
import threading
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"measure_attention_plans.py: {error}; it needs PyTorch and a GPU")
from torch.nn.attention import SDPBackend, sdpa_kernel

# batch, heads, queries, width, type, causal, with a mask, dropout: BERT, GPT-2 and Llama at several lengths.
SHAPES = [(28, 16, 288, 64, torch.bfloat16, False, False, 0.1)] + [
    (batch, 16, length, 64, torch.bfloat16, False, False, 0.1)
    for batch, length in ((85, 96), (128, 64), (21, 384), (16, 512), (51, 160))
] + [
    (batch, 12, length, 64, torch.float16, True, False, 0.1) for batch, length in ((4, 1024), (1, 16384), (7, 520))
] + [
    (batch, 32, length, width, torch.bfloat16, True, False, 0.0)
    for batch, length, width in ((1, 4096, 64), (1, 32768, 64), (3, 1000, 128), (2, 2048, 128))
] + [(8, 16, 128, 64, torch.bfloat16, False, True, 0.0), (5, 16, 200, 64, torch.float16, False, True, 0.0)]


def milliseconds(call):
    """Host time until `call` returns, the card being idle before; its result too."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    result = call()
    return (time.perf_counter() - begin) * 1e3, result


def measure(batch, heads, length, width, dtype, causal, masked, dropout):
    q, k, v = (torch.randn(batch, length, heads, width, device="cuda", dtype=dtype).transpose(1, 2).requires_grad_()
               for _ in range(3))
    mask = torch.zeros(batch, 1, length, length, device="cuda", dtype=dtype) if masked else None

    def forward():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)

    forwards, backwards = [], []
    for _ in range(3):
        took, out = milliseconds(forward)
        forwards.append(took)
        grad = torch.ones_like(out)
        backwards.append(milliseconds(lambda: out.backward(grad))[0])
    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(milliseconds(forward)[0]))
    thread.start()
    thread.join()
    return forwards[0], forwards[2], backwards[0], backwards[2], elsewhere[0]


def main():
    print(torch.cuda.get_device_name(), torch.__version__, "cuDNN", torch.backends.cudnn.version())
    rows = []
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for shape in SHAPES:
            rows.append(measure(*shape))
            print(*shape[:4], str(shape[4])[6:], *("causal" if shape[5] else "", "mask" if shape[6] else ""),
                  *(f"{ms:.2f}" for ms in rows[-1]), flush=True)
    columns = list(zip(*rows[1:]))
    print("median", *(f"{statistics.median(column):.2f}" for column in columns))


if __name__ == "__main__":
    main()
