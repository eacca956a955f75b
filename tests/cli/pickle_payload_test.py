"""Nothing in a pickle runs: payloads that create a file under Python's pickle create none here, whatever opcode they use.

usage: pickle_payload_test.py PEAKCAST [DATA]
"""
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
import tempfile
import unittest

PEAKCAST = sys.argv.pop(1)
del sys.argv[1:]  # the data, which it does not need


def text(word):
    """SHORT_BINUNICODE."""
    raw = word.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def payloads(command):
    """Pickles that run `command` in a shell, by every way to call something."""
    line = command.encode()
    body = b"cposix\nsystem\n" + text(command) + b"\x85R."
    return {
        "GLOBAL, REDUCE": b"cposix\nsystem\n(" + text(command) + b"tR.",
        "GLOBAL, REDUCE, protocol 0": b"cposix\nsystem\n(S'" + line + b"'\ntR.",
        "STACK_GLOBAL, REDUCE": b"\x80\x04" + text("posix") + text("system") + b"\x93" + text(command) + b"\x85R.",
        "INST": b"(S'" + line + b"'\niposix\nsystem\n.",
        "OBJ": b"(cposix\nsystem\nS'" + line + b"'\no.",
        "NEWOBJ": b"\x80\x02csubprocess\nPopen\n(S'/bin/sh'\nS'-c'\nS'" + line + b"'\nl\x85\x81.",
        "BUILD": b"\x80\x04cposix\nsystem\n" + text(command) + b"\x85R}b.",
        "in a snapshot's place": b"\x80\x04}" + text("segments") + b"cposix\nsystem\n" + text(command) + b"\x85Rs.",
        "memoised": b"\x80\x04cposix\nsystem\n\x94h\x00" + text(command) + b"\x85R.",
        "framed": b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body,
    }


def argument(opcode):
    """Bytes that stand for an opcode's argument."""
    kind = opcode.arg
    if kind is None:
        return b""
    if kind.n >= 0:
        return b"\x01" + b"\x00" * (kind.n - 1)
    if kind.n == pickletools.UP_TO_NEWLINE:
        return b"1\n1\n" if kind.name == "stringnl_noescape_pair" else b"1\n"
    size = {pickletools.TAKEN_FROM_ARGUMENT1: "<B", pickletools.TAKEN_FROM_ARGUMENT4: "<i",
            pickletools.TAKEN_FROM_ARGUMENT4U: "<I", pickletools.TAKEN_FROM_ARGUMENT8U: "<Q"}[kind.n]
    return struct.pack(size, 1) + b"1"


class PicklePayload(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.mark = pathlib.Path(scratch.name) / "made"
        self.file = pathlib.Path(scratch.name) / "x.pickle"

    def read(self, content):
        self.file.write_bytes(content)
        done = subprocess.run([PEAKCAST, "trace", "validate", str(self.file)], capture_output=True, text=True,
                              errors="replace", timeout=60, check=False)
        self.assertIn(done.returncode, (0, 1, 2), content)
        if done.returncode == 2:
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertFalse(self.mark.exists(), content)

    def test_what_pythons_pickle_runs_does_not_run(self):
        for title, content in payloads(f": > {self.mark}").items():
            with self.subTest(title):
                self.read(content)
                if title == "NEWOBJ":  # makes the object, but its __init__ is what runs the command
                    continue
                try:  # it is a payload: Python runs it
                    pickle.loads(content)
                except (pickle.UnpicklingError, AttributeError, TypeError):
                    pass
                self.assertTrue(self.mark.exists())
                self.mark.unlink()

    def test_no_opcode_before_or_behind_a_call_makes_it_run(self):
        call = b"cposix\nsystem\n(S': > " + str(self.mark).encode() + b"'\ntR"
        for opcode in pickletools.opcodes:
            code = opcode.code.encode("latin-1") + argument(opcode)
            self.read(b"(((NNN" + code + call + b".")
            self.read(b"\x80\x05]}" + call + code + b".")


if __name__ == "__main__":
    unittest.main()
