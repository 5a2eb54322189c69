"""A run: all prediction files of one model. What each file is of can be read from the predictions themselves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from records.records import Prediction, Question, read_jsonl
from runtime.errors import UserError


@dataclass(frozen=True)
class PredictionFile:
    """Predictions of one run on one benchmark under one condition.

    Attributes:
        path: Where they are.
        benchmark: The benchmark's name.
        probe: What was done to the audio, or empty.
        shuffled: The options were shown in another order than that of the benchmark's file.
        predictions: The predictions.
    """

    path: Path
    benchmark: str
    probe: str
    shuffled: bool
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Run:
    """All prediction files of one model.

    Attributes:
        name: As the user calls it.
        files: The files.
    """

    name: str
    files: tuple[PredictionFile, ...]

    def plain(self, benchmark: str) -> PredictionFile | None:
        """Return the answers to a benchmark as it is.

        Raises:
            UserError: There are two such files.
        """
        found = [f for f in self.files if f.benchmark == benchmark and not f.probe and not f.shuffled]
        if len(found) > 1:
            raise UserError(
                f"run {self.name}: {found[0].path} and {found[1].path} both answer {benchmark} as it is: "
                "name one of them, or give each a run of its own"
            )
        return found[0] if found else None

    def probes(self, benchmark: str) -> dict[str, PredictionFile]:
        """Return the answers to a benchmark with probed audio, by probe.

        Raises:
            UserError: There are two files of one probe.
        """
        found: dict[str, PredictionFile] = {}
        for file in self.files:
            if file.benchmark == benchmark and file.probe and not file.shuffled:
                if file.probe in found:
                    raise UserError(
                        f"run {self.name}: {found[file.probe].path} and {file.path} are both of the probe {file.probe}"
                    )
                found[file.probe] = file
        return found

    def orders(self, benchmark: str) -> list[PredictionFile]:
        """Return the answers to a benchmark with shuffled options."""
        return [f for f in self.files if f.benchmark == benchmark and f.shuffled and not f.probe]


def read_run(text: str, questions: Mapping[str, Sequence[Question]]) -> Run:
    """Read a run.

    Args:
        text: ``NAME=PATH`` or ``PATH``: a file of predictions, or a folder in whose depth every file is taken whose
            name ends in ``predictions.jsonl``. Several paths are separated by commas.
        questions: The questions of each benchmark.

    Raises:
        UserError: There is no such file, a test that writes to the folder has not ended, a file is unusable, or its
            predictions are of several benchmarks or probes.
    """
    name, equals, places = text.partition("=")
    if not equals:
        name, places = Path(text).name.removesuffix(".jsonl"), text
    paths: list[Path] = []
    for place in map(Path, filter(None, places.split(","))):
        if place.is_dir():
            if shards := sorted(place.rglob("*predictions.jsonl.rank*")):
                raise UserError(f"run {name}: {shards[0]} is of a test that has not ended: end it, or remove the file")
            paths += sorted(place.rglob("*predictions.jsonl"))
        elif place.is_file():
            paths.append(place)
        else:
            raise UserError(f"run {name}: {place} is missing")
    if not paths:
        raise UserError(f"run {name}: there is no predictions.jsonl in {places}")
    return Run(name, tuple(read_file(path, questions) for path in paths))


def read_file(path: Path, questions: Mapping[str, Sequence[Question]]) -> PredictionFile:
    """Read a file of predictions and find out what it is of.

    Args:
        path: The file.
        questions: The questions of each benchmark.

    Raises:
        UserError: The file is unusable or empty, its predictions are of several benchmarks or probes, or none is of a
            question that is here.
    """
    predictions = tuple(read_jsonl(path, Prediction))
    if not predictions:
        raise UserError(f"{path}: there is no prediction in the file")
    benchmarks = Counter(prediction.question_id.partition("/")[0] for prediction in predictions)
    if len(benchmarks) > 1:
        raise UserError(f"{path}: predictions of several benchmarks ({', '.join(sorted(benchmarks))}): split the file")
    (benchmark,) = benchmarks
    if benchmark not in questions:
        raise UserError(
            f"{path}: predictions of {benchmark!r}, whose questions are not here; here are {', '.join(questions)}"
        )
    probes = sorted({prediction.probe for prediction in predictions})
    if len(probes) > 1:
        named = ", ".join(probe or "none" for probe in probes)
        raise UserError(f"{path}: predictions with several probes of the audio ({named}): split the file")
    known = {question.id for question in questions[benchmark]}
    if not any(prediction.question_id in known for prediction in predictions):
        asked, here = (name.rpartition("/")[0] for name in (predictions[0].question_id, next(iter(known))))
        raise UserError(
            f"{path}: no prediction is of a question of {benchmark} that is here (asked was {asked}, here is {here}); "
            "for another annotation file of MMAU set --annotations"
        )
    return PredictionFile(path, benchmark, probes[0], _shuffled(predictions, questions[benchmark]), predictions)


def _shuffled(predictions: Sequence[Prediction], questions: Sequence[Question]) -> bool:
    """Return whether any prediction has the options of the benchmark's file in another order."""
    options = {question.id: question.options for question in questions}
    return any(
        prediction.options != options[prediction.question_id]
        and sorted(prediction.options) == sorted(options[prediction.question_id])
        for prediction in predictions
        if prediction.question_id in options
    )
