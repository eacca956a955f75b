"""What is stopped while it writes leaves the old file or the new one, never half of it; so do two writers of one file.

usage: interrupted_writes_test.py PEAKCAST DATA
"""
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PEAKCAST, DATA = sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
TRACE = str(DATA / "fuzz_060.csv.zst")
OTHER = str(DATA / "fuzz_048.csv.zst")
OLD = b"what was there\n"
KILLS = 3  # moments a command and signal, spread over what the command takes

# Every command that writes, with what it writes ({} is the folder).
COMMANDS = {
    "convert to csv": (["trace", "convert", TRACE, "{}/a.csv", "--force"], ["a.csv", "a.json"]),
    "convert to pkt": (["trace", "convert", TRACE, "{}/a.pkt", "--force"], ["a.pkt"]),
    "convert to pickle": (["trace", "convert", TRACE, "{}/a.pickle", "--force"], ["a.pickle"]),
    "generate": (["trace", "generate", "{}/a.pkt", "--model", "bert-tiny", "--force"], ["a.pkt"]),
    "replay": (["replay", TRACE, "--events-out", "{}/e.csv", "--pickle", "{}/p.pickle", "--report", "{}/r.html",
                "--timeline", "{}/t.json", "--force"], ["e.csv", "p.pickle", "r.html", "t.json"]),
    "predict": (["predict", "--model", "bert-tiny", "--timeline", "{}/t.json", "--report", "{}/r.html", "--force"],
                ["t.json", "r.html"]),
}


def start(words, folder):
    words = [word.replace("{}", str(folder)) for word in words]
    return subprocess.Popen([PEAKCAST, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


class InterruptedWrites(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def whole_run(self, words, files):
        """What the command writes when nothing stops it, and how long it takes."""
        for name in files:
            (self.folder / name).write_bytes(OLD)
        begin = time.monotonic()
        run = start(words, self.folder)
        _, said = run.communicate()
        self.assertIn(run.returncode, (0, 1), said)  # 1: what was recorded ran out of memory
        return {name: (self.folder / name).read_bytes() for name in files}, time.monotonic() - begin

    def test_a_signal_leaves_the_old_file_or_the_new_one(self):
        for title, (words, files) in COMMANDS.items():
            new, takes = self.whole_run(words, files)
            for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                for i in range(KILLS):
                    with self.subTest(title, signal=stop.name, moment=i):
                        for leftover in self.folder.iterdir():
                            leftover.unlink()
                        for name in files:
                            (self.folder / name).write_bytes(OLD)
                        run = start(words, self.folder)
                        time.sleep(takes * (i + 1) / KILLS)
                        run.send_signal(stop)
                        run.communicate()
                        self.assertIn(run.returncode, (0, 1, -stop))
                        for name in files:
                            self.assertIn((self.folder / name).read_bytes(), (OLD, new[name]), name)
                        if stop != signal.SIGKILL:  # after which nobody can tidy up
                            self.assertEqual({f.name for f in self.folder.iterdir()}, set(files))

    def test_two_writers_leave_one_whole_file(self):
        for name in ("a.csv", "a.pkt"):
            wanted = set()
            for trace in (TRACE, OTHER):
                words = ["trace", "convert", trace, "{}/" + name, "--force"]
                wanted.add(self.whole_run(words, [name])[0][name])
            self.assertEqual(len(wanted), 2)
            for _ in range(4):
                runs = [start(["trace", "convert", trace, "{}/" + name, "--force"], self.folder)
                        for trace in (TRACE, OTHER)]
                for run in runs:
                    _, said = run.communicate()
                    self.assertEqual(run.returncode, 0, said)
                self.assertIn((self.folder / name).read_bytes(), wanted)


if __name__ == "__main__":
    unittest.main()
