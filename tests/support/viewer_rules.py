#!/usr/bin/env python3
"""Holds snapshot pickles against what PyTorch's memory viewer does with them.

usage: viewer_rules.py [--memory-viz _memory_viz.py] SNAPSHOT.pickle...

The viewer (torch/utils/viz/MemoryViz.js) reads a pickle with an unpickler of its own, which knows
some opcodes only and hands each APPENDS to one call, and runs the entries backwards from the final
segments, where each block has to lie in a segment. Here the same is done in the same order; what
would throw there is an error here. With --memory-viz, PyTorch's own script (from its wheel) also
has to make its pages and texts of each file.
"""
import bisect
import importlib.util
import pickle
import pickletools
import sys

# The opcodes of its unpickler.
KNOWN = set("""APPENDS BINGET BININT BININT1 BININT2 EMPTY_DICT EMPTY_LIST FRAME LONG1 LONG_BINGET MARK MEMOIZE PROTO
SETITEMS SHORT_BINUNICODE STOP TUPLE2 APPEND NEWFALSE BINPUT BINUNICODE EMPTY_TUPLE NEWTRUE NONE BINFLOAT TUPLE TUPLE1
TUPLE3 LONG_BINPUT LIST DICT SETITEM""".split())
MOST_APPENDED = 1000  # what Python's own writer appends at once; the viewer's limit is some 125 000


class Wrong(Exception):
    """What the viewer would stop at."""


def read(data):
    """The snapshot, if the viewer's unpickler could read it."""
    marks, depth = [], 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in KNOWN:
            raise Wrong(f"byte {position}: opcode {opcode.name} is not known to the viewer")
        if opcode.name == "PROTO" and not 2 <= argument <= 4:
            raise Wrong(f"protocol {argument}")
        if isinstance(argument, int) and abs(argument) >= 1 << 53:
            raise Wrong(f"byte {position}: {argument} is beyond 2^53")
        if opcode.name == "MARK":
            marks.append(depth)
        elif opcode.name in ("APPENDS", "SETITEMS", "TUPLE", "LIST", "DICT"):
            begin = marks.pop()
            if opcode.name == "APPENDS" and depth - begin > MOST_APPENDED:
                raise Wrong(f"byte {position}: {depth - begin} items in one APPENDS")
            depth = begin + (1 if opcode.name in ("TUPLE", "LIST", "DICT") else 0)
        else:
            depth += len(opcode.stack_after) - len(opcode.stack_before)
    return pickle.loads(data)


class Segments:
    """Address ranges in order, with the viewer's ways of taking them back."""

    def __init__(self, segments):
        self.ranges = sorted([s["address"], s["total_size"], s["stream"]] for s in segments)

    def holds(self, address):
        at = bisect.bisect_right(self.ranges, [address, float("inf"), 0]) - 1
        return at >= 0 and address < self.ranges[at][0] + self.ranges[at][1]

    def give(self, merge, address, size, stream):
        at = bisect.bisect_right(self.ranges, [address, float("inf"), 0])
        self.ranges.insert(at, [address, size, stream])
        if not merge:
            return
        for left in (at, at - 1):
            if 0 <= left and left + 1 < len(self.ranges):
                a, b = self.ranges[left], self.ranges[left + 1]
                if a[0] + a[1] == b[0] and a[2] == b[2]:
                    a[1] += b[1]
                    del self.ranges[left + 1]

    def take(self, merge, address, size):
        at = bisect.bisect_right(self.ranges, [address, float("inf"), 0]) - 1
        begin, length, stream = self.ranges[at] if at >= 0 else (0, 0, 0)
        if not merge:
            if at < 0 or begin != address or length != size:
                raise Wrong(f"no segment of {size} bytes at {address:#x} to take back")
            del self.ranges[at]
            return
        if at < 0 or begin + length < address + size:
            raise Wrong(f"nothing mapped at {address:#x} of {size} bytes to take back")
        rest = []
        if begin < address:
            rest.append([begin, address - begin, stream])
        if address + size < begin + length:
            rest.append([address + size, begin + length - address - size, stream])
        self.ranges[at:at + 1] = rest


def check(snapshot):
    """Runs the entries of each device backwards; returns how many there were."""
    count = 0
    for device, trace in enumerate(snapshot["device_traces"]):
        mine = [s for s in snapshot["segments"] if s["device"] == device]
        segments = Segments(mine)
        live = set()
        for segment in mine:
            address = segment["address"]
            for block in segment["blocks"]:
                # What PyTorch writes of a block that nobody has is what was last asked of it.
                inside = block["state"] == "inactive" or block["requested_size"] <= block["size"]
                if block["size"] <= 0 or not inside:
                    raise Wrong(f"block at {address:#x}: {block}")
                if block["state"] != "inactive":
                    live.add(address)
                address += block["size"]
            if address != segment["address"] + segment["total_size"]:
                raise Wrong(f"the blocks of segment {segment['address']:#x} do not fill it")
        times = [entry["time_us"] for entry in trace]
        if times != sorted(times):
            raise Wrong("time runs backwards")
        for index in range(len(trace) - 1, -1, -1):
            entry = trace[index]
            action, address = entry["action"], entry.get("addr")
            if action == "free_completed":
                live.add(address)
            elif action == "free_requested" and address not in live:
                raise Wrong(f"entry {index}: nothing lives at {address:#x} that was dropped")
            elif action == "alloc":
                if address not in live:
                    raise Wrong(f"entry {index}: nothing lives at {address:#x} to be handed out")
                live.remove(address)
            elif action in ("segment_free", "segment_unmap"):
                segments.give(action == "segment_unmap", address, entry["size"], entry["stream"])
            elif action in ("segment_alloc", "segment_map"):
                segments.take(action == "segment_map", address, entry["size"])
            elif action == "oom" and "device_free" not in entry:
                raise Wrong(f"entry {index}: an oom without device_free")
            # The viewer looks every block up at every step; those that an entry touches will do.
            if action in ("alloc", "free_completed") and not segments.holds(address):
                raise Wrong(f"entry {index}: the block at {address:#x} lies in no segment")
        count += len(trace)
    return count


def memory_viz(path):
    """PyTorch's own script, without importing torch."""
    spec = importlib.util.spec_from_file_location("memory_viz", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    words = sys.argv[1:]
    viz = None
    if words[:1] == ["--memory-viz"]:
        viz = memory_viz(words[1])
        words = words[2:]
    if not words:
        sys.exit(__doc__)
    failed = False
    for name in words:
        try:
            with open(name, "rb") as file:
                data = file.read()
            snapshot = read(data)
            entries = check(snapshot)
            size = sum(s["total_size"] for s in snapshot["segments"])
            if viz is not None:
                for page in (viz.trace_plot(snapshot), viz.segment_plot(snapshot)):
                    if "add_local_files" not in page:
                        raise Wrong("no page")
                if "total_reserved" not in viz.segsum(snapshot):
                    raise Wrong("no summary")
                if viz.trace(snapshot).count("\n") < entries // 2:
                    raise Wrong("entries are missing in the text")
            print(f"{name}: {entries} entries, {len(snapshot['segments'])} segments of {size} bytes")
        except Wrong as wrong:
            print(f"{name}: {wrong}")
            failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
