"""Tests the synthetic world's students on its benchmarks: ``python -m mini.evaluation --help``."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from cli.console import is_verbose
from mini.progress_file import ProgressFile

BENCHMARKS = {"avqa": "AVQA-mini val", "mmau": "MMAU-mini", "music_avqa": "MUSIC-AVQA-mini"}
STUDENTS = {
    "untrained": "untrained",
    "sft": "SFT on all traces",
    "agfv": "AGFV + SFT",
    "tts": "TTS + AGFV + SFT",
    "grpo": "TTS + AGFV + SFT + GRPO",
}
"""Row of each student in the table, by its folder."""
PROBES = ("silence", "swap", "noise")
"""What a student's audio is replaced by: one that hears must lose what it has learnt to hear."""


def evaluate(weights: Path, name: str, folder: Path, probe: str = "") -> float:
    """Test a student on one benchmark through the server, and write its predictions.

    Args:
        weights: The student.
        name: The benchmark, a key of ``BENCHMARKS``.
        folder: Where predictions go.
        probe: What its audio is replaced by, or empty.

    Returns:
        The accuracy.
    """
    from train import main as train_main

    (folder / "predictions.jsonl").unlink(missing_ok=True)
    cli = train_main(
        [
            *("test", "--config", f"benchmark/{name}.yaml", "--config", f"mini/{name}.yaml"),
            f"--model.init_args.weights={weights}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.enable_progress_bar=false",  # it takes seconds
            *([f"--data.init_args.probe={probe}"] if probe else []),
        ]
    )
    return float(cli.trainer.callback_metrics["test/accuracy"])


def accuracies_file(folder: Path) -> ProgressFile:
    """Return the accuracies that were found so far, by folder of the predictions below ``folder``."""
    return ProgressFile(folder / "accuracies.json", {})


def main(args: Sequence[str] | None = None) -> None:
    """Test students one after another and append each accuracy to a file."""
    parser = argparse.ArgumentParser(prog="python -m mini.evaluation", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of predictions and accuracies")
    parser.add_argument("student", nargs="+", help="NAME=WEIGHTS, the name of its folder and its weights")
    parser.add_argument(
        "--probes", action="store_true", help="on AVQA-mini with the audio replaced, in place of all three"
    )
    options = parser.parse_args(args)
    if not is_verbose():
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # a test's result is one line here
    found = accuracies_file(options.output)
    found.read()
    for name, _, weights in (each.partition("=") for each in options.student):
        for benchmark, probe in [("avqa", p) for p in PROBES] if options.probes else [(b, "") for b in BENCHMARKS]:
            folder = f"{name}/{benchmark}-{probe}" if probe else f"{name}/{benchmark}"
            if folder in found.done:
                continue
            print(f"{name} on {BENCHMARKS[benchmark]}" + (f", audio: {probe}" if probe else ""), flush=True)
            accuracy = evaluate(Path(weights), benchmark, options.output / folder, probe)
            found.finish(folder, accuracy)


if __name__ == "__main__":
    main()
