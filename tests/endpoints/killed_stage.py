"""Runs the teacher's stage in a process of its own, to be killed or to be one of several ranks."""

import sys

from train import main

if __name__ == "__main__":
    main(sys.argv[1:])
