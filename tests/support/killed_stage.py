"""Runs the teacher's stage in a process of its own, to be killed or to be one of several ranks."""

from train import run

if __name__ == "__main__":
    run()
