"""The whole paper on the synthetic world: ``python -m mini`` (``make mini``).

Synthesises the corpus, builds the small student, lets the embedded teacher watch and the embedded checker hear, runs
SFT on all traces, on the verified ones and on the verified ones of unanimous questions, runs GRPO from the last (with
rollouts from a real vLLM server and weight updates into it), tests every student on the three benchmarks' formats and
the last one also with other audio, prints the table, writes the report and stops the servers. Each stage is
``train.py`` in a process of its own.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.swallowed_ending import raised_again
from mini.pipeline import Pipeline
from mini.world.scale import SCALES
from runtime.errors import UserError


def main(args: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Run everything and return the accuracies: ``{student: {benchmark: accuracy}}``."""
    parser = argparse.ArgumentParser(
        prog="python -m mini",
        description="The whole paper on a synthetic world: corpus, teacher, checker, SFT on what each filter leaves, "
        f"GRPO with a real vLLM server, benchmarks, report; {SCALES['standard'].minutes} minutes on two cores.",
    )
    parser.add_argument("--output", default="runs/mini", help="folder of everything that is written (runs/mini)")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus, student and training (0)")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="standard",
        help=f"tiny: everything runs in {SCALES['tiny'].minutes} minutes and next to nothing is learnt",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run instead of starting anew")
    parser.add_argument("--verbose", action="store_true", help="show all that the libraries print")
    options = parser.parse_args(args)
    pipeline = Pipeline(Path(options.output).resolve(), options.seed, options.scale, options.verbose)
    return pipeline.run(options.resume)


def again(args: Sequence[str]) -> str:
    """Return the command that goes on with a run.

    Args:
        args: The arguments that it was started with.
    """
    python = os.path.relpath(sys.executable) if sys.executable.startswith(os.getcwd()) else sys.executable
    return shlex.join([python, "-m", "mini", *(arg for arg in args if arg != "--resume"), "--resume"])


def _exit(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that servers and stage are stopped too
        signal.signal(number, _exit)
    try:
        with raised_again(lambda error: isinstance(error, (KeyboardInterrupt, SystemExit)), lambda: False):
            main()
    except UserError as error:
        sys.exit(f"mini: {error}\nmini: `{again(sys.argv[1:])}` goes on from there")
    except (KeyboardInterrupt, SystemExit) as ended:
        status = 130 if isinstance(ended, KeyboardInterrupt) else ended.code
        if isinstance(status, int) and status > 128:
            name = signal.Signals(status - 128).name
            print(f"mini: ended by {name}; `{again(sys.argv[1:])}` goes on from there", file=sys.stderr, flush=True)
        sys.exit(status)
