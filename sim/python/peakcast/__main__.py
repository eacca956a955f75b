"""The program `peakcast`, as the wheel brings it."""
import os
import sys


def program() -> str:
    """The path of the program beside this package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "peakcast")


def main() -> None:
    """Becomes the program: its exit status and streams are this process's."""
    os.execv(program(), ["peakcast", *sys.argv[1:]])


if __name__ == "__main__":
    main()
