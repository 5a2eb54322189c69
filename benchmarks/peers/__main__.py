"""The learner against those of ms-swift and TRL: ``python -m benchmarks.peers DIR``.

DIR has their environments, made by ``benchmarks/peers/install.sh DIR``; they are given the same checkpoint and sizes.
All that ``python -m benchmarks.learner`` measures is measured first, with the same options, and written to the same
files, the peers' rows beside it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.learner.cases import cases_of, setting_of
from benchmarks.learner.command import options_of, run, world_of
from benchmarks.learner.report import table, write
from benchmarks.measuring.learner_steps import Ours
from benchmarks.measuring.learner_world import World
from benchmarks.measuring.run_record import spread
from benchmarks.peers.data import write_data

HERE = Path(__file__).parent
ROUNDS = 2


def compare(options: argparse.Namespace, world: World, whole: Any = None) -> list[dict[str, Any]]:
    """Run a peer and then our own steps, twice for each task.

    Args:
        options: The peers' folder, sizes and rounds.
        world: Where the questions come from.
        whole: What was measured of our whole GRPO step, if it was.

    Returns:
        The rows of the table. In the peer's batches each of eight traces is a row of its own, so that the same step is
        set against ours with cached audio and with four traces of each question.
    """
    ours = Ours(setting_of(options), world)
    cases = cases_of(options, world)
    rows = []
    for task in ("grpo", "sft"):
        mine = {case: batch for case, batch in cases.items() if case.split()[0] == task}
        theirs: list[float] = []
        own: dict[str, list[float]] = {case: [] for case in mine}
        ratios: dict[str, list[float]] = {case: [] for case in mine}
        for _ in range(ROUNDS if mine else 0):
            measured = swift_steps(options, task)
            theirs += measured
            for case, batch in mine.items():
                seconds = ours.take(case, batch, options.rounds).seconds
                own[case] += seconds
                ratios[case].append(median(measured) / median(seconds))
        rows += [row_of(f"ms-swift, {case}", median(theirs), median(own[case]), ratios[case]) for case in mine]
    if whole:
        measured = swift_steps(options, "whole")
        seconds = whole["seconds"]["median"]
        rows.append(row_of("ms-swift, whole GRPO step", median(measured), seconds, [one / seconds for one in measured]))
    return rows


def row_of(name: str, seconds: float, own: float, ratios: list[float]) -> dict[str, Any]:
    """Return and print a row of the table."""
    row = {"name": name, "seconds": seconds, "ours": own, "ratio": spread(ratios, 2)}
    print(row, flush=True)
    return row


def swift_steps(options: argparse.Namespace, task: str) -> list[float]:
    """Return the seconds of ms-swift's steps: those of SFT, of GRPO without its sampling, or the whole of GRPO."""
    batch = 8 if task == "sft" else options.questions * options.group
    settings = {"data": str(options.peers / "data"), "steps": options.rounds, "threads": options.threads}
    settings |= {"group": options.group, "tokens": options.tokens, "batch": batch}
    return list(script(options.peers / "swift", HERE / "swift_steps.py", task, json.dumps(settings)))


def trl_hears(folder: Path) -> dict[str, Any]:
    """Return whether TRL's learner gets the audio."""
    return dict(script(folder / "trl", HERE / "trl_hears.py", str(folder / "data")))


def script(environment: Path, *command: str | Path) -> Any:
    """Run a script in a peer's environment and return the JSON on its last line."""
    python = str(environment / "bin" / "python")
    done = subprocess.run([python, *map(str, command)], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed in {environment}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", type=Path, metavar="DIR", help="folder of the peers' environments")
    options = options_of(parser, args)
    missing = [name for name in ("swift", "trl") if not (options.peers / name / "bin" / "python").exists()]
    if missing:
        parser.error(f"{options.peers} has no environment {missing[0]}: make them with benchmarks/peers/install.sh DIR")
    world = world_of(options)
    command = ["python -m benchmarks.peers", *(sys.argv[1:] if args is None else args)]
    report = run(options, world, " ".join(command))
    write_data(options.peers / "data", setting_of(options).shape, world)
    report["peers"] = compare(options, world, report.get("whole_step", {}).get("ours"))
    report["trl"] = trl_hears(options.peers)
    write(report, options)
    print(table(report))


if __name__ == "__main__":
    main()
