"""What a terminal gets beyond what a file gets: colours, tables, progress; and --help's width."""
import os
import pty
import subprocess
import sys
import unittest

PEAKCAST = sys.argv.pop(1)
FITS = ["predict", "--model", "bert-tiny", "--batch", "1", "--seq", "16"]
FAILS = ["predict", "--model", "bert-large", "--batch", "512", "--seq", "512", "--gpu", "l4-24g", "--iterations", "1"]
GRID = ["sweep", "--model", "bert-tiny", "--batch", "1,2", "--seq", "16"]
GREEN, RED, PLAIN = "\033[1;32m", "\033[1;31m", "\033[0m"


def on_terminal(words, stream, **variables):
    """What `words` write to "stdout" or "stderr" where that one is a terminal."""
    main, side = pty.openpty()
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **variables}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: side}
    process = subprocess.Popen([PEAKCAST, *words], env=environment, stdin=subprocess.DEVNULL, **streams)
    os.close(side)
    seen = b""
    while True:
        try:
            piece = os.read(main, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    process.wait()
    os.close(main)
    return seen.decode().replace("\r\n", "\n")


def in_file(words):
    return subprocess.run([PEAKCAST, *words], capture_output=True, text=True).stdout


class Terminal(unittest.TestCase):
    def test_verdicts_have_colours_on_a_terminal_alone(self):
        self.assertIn(f"{GREEN}FITS{PLAIN}", on_terminal(FITS, "stdout"))
        self.assertIn(f"{RED}OUT OF MEMORY{PLAIN}", on_terminal(FAILS, "stdout"))
        self.assertNotIn("\033", in_file(FITS))
        self.assertEqual(on_terminal(FITS, "stdout").replace(GREEN, "").replace(PLAIN, ""), in_file(FITS))

    def test_no_color_and_dumb_terminals_are_honoured(self):
        self.assertEqual(on_terminal(FITS, "stdout", NO_COLOR="1"), in_file(FITS))
        self.assertIn(GREEN, on_terminal(FITS, "stdout", NO_COLOR=""))
        self.assertEqual(on_terminal(FITS, "stdout", TERM="dumb"), in_file(FITS))

    def test_json_has_no_colours(self):
        self.assertNotIn("\033", on_terminal([*FITS, "--format", "json"], "stdout"))

    def test_a_sweep_is_a_table_on_a_terminal_and_rows_elsewhere(self):
        self.assertIn("on the card", on_terminal(GRID, "stdout"))
        self.assertTrue(in_file(GRID).startswith("batch,"))
        self.assertEqual(on_terminal([*GRID, "--format", "csv"], "stdout"), in_file(GRID))

    def test_long_work_shows_how_far_it_is(self):
        # More than half a second on any machine.
        long = ["sweep", "--model", "gpt2", "--batch", "1..120:1", "--seq", "256", "--jobs", "1"]
        self.assertRegex(on_terminal(long, "stderr"), r"points \[#* *\] \d+ %")
        self.assertEqual(on_terminal([*long, "-q"], "stderr"), "")


class Help(unittest.TestCase):
    def test_every_help_fits_eighty_columns(self):
        listed = [line.split()[0] for line in in_file(["--help"]).split("\n\n")[2].splitlines() if line[2:3].strip()]
        self.assertIn("predict", listed)
        traces = [["trace", word] for word in ("info", "validate", "convert", "generate", "diff")]
        for command in [[], *[[word] for word in listed], *traces]:
            for line in in_file([*command, "--help"]).splitlines():
                self.assertLessEqual(len(line), 80, f"{command}: {line}")

    def test_flags_stand_by_topic_and_the_words_are_explained(self):
        text = in_file(["predict", "--help"])
        titles = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
        self.assertEqual(titles, ["model and batches:", "training:", "fine-tuning:", "ranks:", "card and allocator:",
                                  "engine:", "host:", "this command:", "output:", "what the words mean:"])
        for word in ("requested", "allocated", "reserved", "on the card", "nvidia-smi"):
            self.assertRegex(text, rf"\n  {word}  ")
            self.assertRegex(in_file(["--help"]), rf"\n  {word}  ")


if __name__ == "__main__":
    unittest.main()
