#!/usr/bin/env python3
"""Measures the workspaces that cuDNN takes for patch embeddings and prints workloads/convolutions/*.json.

usage: measure_convolutions.py > workloads/convolutions/NAME.json

Needs PyTorch and a GPU. cuDNN's choice of kernels is closed, so the sizes are data: for each geometry, type and
direction the allocator's own trace of one call is read at growing batches, and batches whose workspaces lie on one
line become a piece [first batch, bytes per image, bytes]. Between two measured batches the earlier piece holds.
"""
import json
import sys
from datetime import date

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"measure_convolutions.py: {error}; it needs PyTorch and a GPU")

# (channels out, patch, image) of ViT-B/16, L/16, H/14, B/32, L/16 at 384, SO400M/14 at 384, Ti/16, S/16, G/14,
# L/14, L/14 at 336, B/16 at 384, B/32 at 384, L/32, L/32 at 384, S/32, H/14 at 336, B/14.
GEOMETRIES = [
    (768, 16, 224), (1024, 16, 224), (1280, 14, 224), (768, 32, 224), (1024, 16, 384),
    (1152, 14, 384), (192, 16, 224), (384, 16, 224), (1664, 14, 224),
    (1024, 14, 224), (1024, 14, 336), (768, 16, 384), (768, 32, 384), (1024, 32, 224),
    (1024, 32, 384), (384, 32, 224), (1280, 14, 336), (768, 14, 224),
]
BATCHES = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256]
LARGEST_OUTPUT_BYTES = 6_000_000_000


def allocations(call):
    """Requested sizes of what `call` allocates, in order."""
    torch.cuda.synchronize()
    torch.cuda.memory._record_memory_history(enabled=None)
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=10_000)
    call()
    torch.cuda.synchronize()
    events = torch.cuda.memory._snapshot()["device_traces"][0]
    return [e["size"] for e in events if e["action"] == "alloc"]


def workspaces(channels, patch, image, dtype, batch):
    """Bytes of workspace of the forward pass and of the weight's gradient."""
    x = torch.randn(batch, 3, image, image, device="cuda").to(dtype)
    weight = torch.randn(channels, 3, patch, patch, device="cuda").to(dtype).requires_grad_()
    bias = torch.zeros(channels, device="cuda", dtype=dtype).requires_grad_()
    out = []
    forward = allocations(lambda: out.append(F.conv2d(x, weight, bias, stride=patch)))
    grad = torch.ones_like(out[0])
    backward = allocations(lambda: out[0].backward(grad))
    # Forward: the output, the workspace. Backward: the weight's gradient, the workspace, the bias's gradient ...
    bias_bytes = bias.numel() * bias.element_size()
    return sum(forward[1:]), backward[1] if backward[1] != bias_bytes else 0


def pieces(points):
    """Greedily cuts (batch, bytes) into straight pieces; a point that fits no line stands alone, with slope 0."""
    result, i = [], 0

    def end_of_line(start):
        end = start + 1
        while end + 1 < len(points) and slope(start, end + 1) == slope(start, start + 1):
            end += 1
        return end

    def slope(a, b):
        return (points[b][1] - points[a][1]) / (points[b][0] - points[a][0])

    while i < len(points):
        batch, size = points[i]
        if i + 1 == len(points):
            result.append([batch, 0, size])
            break
        end = end_of_line(i)
        next_is_a_longer_line = end == i + 1 and i + 2 < len(points) and end_of_line(i + 1) > i + 2
        if next_is_a_longer_line or slope(i, end) != int(slope(i, end)):
            result.append([batch, 0, size])
            i += 1
            continue
        per_image = int(slope(i, end))
        result.append([batch, per_image, size - per_image * batch])
        i = end + 1
    return result


def main():
    torch.backends.cuda.matmul.allow_tf32 = True
    rows = []
    for channels, patch, image in GEOMETRIES:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            forward, gradient = [], []
            for batch in BATCHES:
                if batch * (image // patch) ** 2 * channels * 4 > LARGEST_OUTPUT_BYTES:
                    continue
                sizes = workspaces(channels, patch, image, dtype, batch)
                forward.append((batch, sizes[0]))
                gradient.append((batch, sizes[1]))
            rows.append({"out_channels": channels, "patch": patch, "image": image,
                         "type": str(dtype).removeprefix("torch."),
                         "forward": pieces(forward), "weight_gradient": pieces(gradient)})
    print("{")
    print(f' "source": "{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, '
          f'cuDNN {torch.backends.cudnn.version()}, {date.today()}; again: cuda_check/measure_convolutions.py",')
    print(' "convolutions": [')
    print(",\n".join("  " + json.dumps(row) for row in rows))
    print(" ]\n}")


if __name__ == "__main__":
    sys.exit(main())
