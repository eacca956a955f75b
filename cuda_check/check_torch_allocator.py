#!/usr/bin/env python3
"""What PyTorch offers with its own allocator, with a policy of libpeakcast_allocator.so in its place.

usage: check_torch_allocator.py build/cuda/libpeakcast_allocator.so [--policy peakcast]

A line a check. Exit status: 0 all hold, 1 some do not, 77 no GPU.
"""
import argparse
import os
import pathlib
import pickle
import sys
import tempfile
import traceback

import torch

import torch_allocator

MIB = 1 << 20


def statistics():
    """memory_stats and its relatives count what is there; peaks are reset."""
    held = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() >= 64 * MIB
    gone = torch.empty(128 * MIB, dtype=torch.uint8, device="cuda")
    del gone
    stats = torch.cuda.memory_stats()
    assert stats["allocated_bytes.all.peak"] >= 192 * MIB
    assert stats["requested_bytes.all.current"] >= 64 * MIB
    assert torch.cuda.max_memory_reserved() >= torch.cuda.memory_reserved() > 0
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == torch.cuda.memory_allocated() == held.numel()
    summary = torch.cuda.memory_summary()
    assert "Allocated memory" in summary and "65536 KiB" in summary, summary
    return f"{torch.cuda.memory_allocated() // MIB} MiB allocated, {torch.cuda.memory_reserved() // MIB} reserved"


def empty_cache():
    """What nothing lives in goes back to the driver."""
    block = torch.empty(1024 * MIB, dtype=torch.uint8, device="cuda")
    del block
    before, free_before = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
    torch.cuda.empty_cache()
    after, free_after = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
    assert before - after >= 1000 * MIB and free_after - free_before >= 1000 * MIB, (before, after)
    return f"{before // MIB} to {after // MIB} MiB reserved"


def out_of_memory():
    """torch.OutOfMemoryError with the native words, and the run goes on."""
    try:
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        text = str(error)
        assert text.startswith("CUDA out of memory. Tried to allocate 1024.00 GiB. GPU 0 has a total capacity of"), text
        assert "is allocated by PyTorch, and" in text and "is reserved by PyTorch but unallocated" in text, text
    else:
        raise AssertionError("1 TiB fitted")
    assert float(torch.ones(10, device="cuda").sum()) == 10
    assert torch.cuda.memory_stats()["num_ooms"] == 1
    return "torch.OutOfMemoryError"


def snapshot():
    """A snapshot with history and stacks that PyTorch's own converter (_memory_viz) reads."""
    from torch.cuda import _memory_viz
    torch.cuda.memory._record_memory_history(max_entries=1000)
    kept = [torch.empty((i + 1) * MIB, dtype=torch.uint8, device="cuda") for i in range(5)]
    del kept[2]
    path = pathlib.Path(tempfile.mkdtemp()) / "snapshot.pickle"
    torch.cuda.memory._dump_snapshot(str(path))
    torch.cuda.memory._record_memory_history(enabled=None)
    taken = pickle.loads(path.read_bytes())
    allocations = [entry for entry in taken["device_traces"][0] if entry["action"] == "alloc"]
    assert len(allocations) == 5 and any("snapshot" == frame["name"] for frame in allocations[0]["frames"])
    for segment in taken["segments"]:
        assert sum(block["size"] for block in segment["blocks"]) == segment["total_size"]
    assert sum(s["allocated_size"] for s in taken["segments"]) == torch.cuda.memory_allocated()
    page = _memory_viz.trace_plot(taken)
    assert "html" in page and _memory_viz.segsum(taken)
    return f"{len(taken['device_traces'][0])} entries, {len(taken['segments'])} segments, a page of {len(page)} bytes"


def graphs():
    """A captured training step replays right while others allocate; its pool goes when the graph does."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = torch.randn(256, 1024, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            model(data).square().mean().backward()
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    weights = [p.detach().clone() for p in model.parameters()]
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss = model(data).square().mean()
        loss.backward()
        optimizer.step()
    in_pool = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] != (0, 0)]
    assert in_pool, "nothing came from the graph's pool"
    replayed = []
    for step in range(5):
        noise = [torch.full((step + 1, MIB), 7.0, device="cuda") for _ in range(20)]  # must not get into the graph's memory
        graph.replay()
        replayed.append(loss.item())
        assert all(bool((block == 7).all()) for block in noise)
    with torch.no_grad():
        for parameter, weight in zip(model.parameters(), weights):
            parameter.copy_(weight)
    eager = []
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        value = model(data).square().mean()
        value.backward()
        optimizer.step()
        eager.append(value.item())
    assert max(abs(a - b) / abs(b) for a, b in zip(replayed, eager)) < 1e-3, (replayed, eager)
    for parameter in model.parameters():
        parameter.grad = None
    del loss, graph
    torch.cuda.synchronize()
    left = sum(s["total_size"] for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] != (0, 0))
    return f"{len(in_pool)} segments in the pool; 5 losses as eager's; {left // MIB} MiB left in pools"


def mem_pool():
    """torch.cuda.MemPool keeps its blocks apart."""
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        block = torch.ones(8 * MIB, dtype=torch.uint8, device="cuda")
    inside = [s for s in torch.cuda.memory_snapshot() if s["segment_pool_id"] == tuple(pool.id)]
    assert sum(s["allocated_size"] for s in inside) >= 8 * MIB and int(block.sum()) == 8 * MIB
    del block, pool
    return "apart"


def record_stream():
    """A block that another stream reads is not handed out before it has."""
    side = torch.cuda.Stream()
    wrong = 0
    for round_ in range(20):
        block = torch.full((32 * MIB,), round_ % 100, dtype=torch.uint8, device="cuda")
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(5_000_000)
            total = block.sum(dtype=torch.int64)
        block.record_stream(side)
        del block
        over = torch.full((32 * MIB,), 255, dtype=torch.uint8, device="cuda")
        torch.cuda.current_stream().wait_stream(side)
        wrong += int(total) != 32 * MIB * (round_ % 100)
        del over, total
    assert wrong == 0, f"{wrong} of 20 read what came later"
    return "20 rounds"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", help="libpeakcast_allocator.so")
    parser.add_argument("--policy", default="peakcast")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU")
        sys.exit(77)
    torch_allocator.install(args.library, policy=args.policy, folder=tempfile.mkdtemp())
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, policy {args.policy}")
    failed = 0
    for check in (statistics, empty_cache, out_of_memory, snapshot, mem_pool, record_stream, graphs):
        try:
            answer = check()
        except Exception as error:  # pylint: disable=broad-except
            failed += 1
            answer = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
            traceback.print_exc()
        print(f"{check.__name__:15} {answer}", flush=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # without destructors: an allocator must outlive its blocks


if __name__ == "__main__":
    main()
