"""What the commands of ``python -m evaluation`` do, see ``evaluation/__main__.py``."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datamodules.reading.annotations import read_rows
from evaluation import contamination
from evaluation.accuracy import check_file, compare_answers, score_run
from evaluation.benchmarks import BENCHMARKS, data_module, read_questions
from evaluation.matcher import LABELLED, matcher_table, misread, read_answers
from evaluation.official_mmau import defects, usable_row, write_official
from evaluation.plots import all_plots
from evaluation.report import pick_examples, write_report
from evaluation.runs import Run, read_file, read_run
from evaluation.tables import PAPER, Scores, all_tables, contamination_table, p_text, percent, read_paper
from records.records import Question
from runtime.errors import UserError

AUDITED = ("avqa:val", "mmau", "music_avqa")


class Data(Mapping[str, Sequence[Question]]):
    """The questions of the benchmarks below one folder, read when they are needed."""

    def __init__(self, root: Path, annotations: Path | None = None) -> None:
        """Look which benchmarks are there.

        Args:
            root: The folder that holds the benchmarks' folders.
            annotations: MMAU's annotation file, where it is another one than usual.

        Raises:
            UserError: None is there.
        """
        self.root = root
        self.annotations = annotations
        here = [name for name in BENCHMARKS if (root / name).is_dir() or (name == "mmau" and annotations is not None)]
        if not here:
            raise UserError(
                f"{root}: none of the folders {', '.join(BENCHMARKS)} is there; set --data or SIGHTSOUND_DATA"
            )
        self._here = here
        self._read: dict[str, Sequence[Question]] = {}

    def __getitem__(self, name: str) -> Sequence[Question]:
        """Return the questions of a benchmark.

        Raises:
            UserError: Its annotation file is unusable.
        """
        if name not in self._here:
            raise KeyError(name)
        if name == "mmau" and not self.mmau_file.exists():
            raise UserError(f"{self.mmau_file}: the annotation file is missing; --annotations names another one")
        if name not in self._read:
            self._read[name] = read_questions(name, self.root, annotations=self.annotations)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names of the benchmarks that are there."""
        return iter(self._here)

    def __len__(self) -> int:
        """Return how many benchmarks are there."""
        return len(self._here)

    @property
    def mmau_file(self) -> Path:
        """MMAU's annotation file."""
        return data_module("mmau", self.root / "mmau", annotations=self.annotations).annotation_file("test")


def score_runs(options: argparse.Namespace, data: Data) -> tuple[list[Run], Scores]:
    """Read and score the runs of the command line.

    Raises:
        UserError: A file is unusable, two runs have one name, or a run answers no benchmark as it is.
    """
    runs = [read_run(text, data) for text in options.runs]
    scores = {}
    for run in runs:
        if run.name in scores:
            raise UserError(f"two runs are called {run.name}: name them NAME=PATH")
        scores[run.name] = score_run(run, data, options.partial, options.resamples)
        for benchmark in {file.benchmark for file in run.files} - scores[run.name].keys():
            raise UserError(
                f"run {run.name}: {benchmark} is answered with probed audio or shuffled options only; "
                "add the predictions without either"
            )
    return runs, scores


def table(options: argparse.Namespace) -> None:
    """Print all tables."""
    _, scores = score_runs(options, Data(options.data, options.annotations))
    print(
        "\n".join(table.markdown() for table in all_tables(scores, read_paper(options.paper or PAPER), options.partial))
    )


def report(options: argparse.Namespace) -> None:
    """Write the report."""
    _, scores = score_runs(options, Data(options.data, options.annotations))
    metrics = []
    for text in options.metrics:
        name, equals, path = text.partition("=")
        metrics.append((name, Path(path)) if equals else (Path(text).parent.name, Path(text)))
    tables = all_tables(scores, read_paper(options.paper or PAPER), options.partial)
    if options.contamination:
        tables.append(contamination_table(options.contamination))
    examples = pick_examples(scores, options.data, options.examples, not options.no_audio)
    write_report(options.output, options.title, scores, tables, all_plots(scores, metrics), examples)
    print(f"{options.output / 'report.html'}: {len(tables)} tables, {len(examples)} examples")


def compare(options: argparse.Namespace) -> None:
    """Print how two files of predictions compare."""
    data = Data(options.data, options.annotations)
    files = [read_file(path, data) for path in (options.first, options.second)]
    if files[0].benchmark != files[1].benchmark:
        raise UserError(
            f"{files[0].path} is of {files[0].benchmark} and {files[1].path} of {files[1].benchmark}: "
            "compare two runs on the same benchmark"
        )
    checked = [check_file(file, data[file.benchmark], partial=True) for file in files]
    found = compare_answers(checked[0], checked[1])
    if not found.questions:
        raise UserError(f"{files[0].path} and {files[1].path} have no question with an answer in common")
    for file, answers in zip(files, checked, strict=True):
        right = [answer.right for answer in answers.answers if answer.labelled]
        print(f"{file.path}: {percent(sum(right) / len(right))}% of {len(right)} questions")
        for kind, count in answers.counts().items():
            print(f"  {count} {kind}")
    print(
        f"difference on {found.questions} common questions: {100 * found.difference:+.1f} points "
        f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]; only the first is right on {found.only_first}, only the "
        f"second on {found.only_second}\nMcNemar's exact test: p {p_text(found.mcnemar)}; "
        f"paired bootstrap: p {p_text(found.bootstrap)}"
    )


def official(options: argparse.Namespace) -> None:
    """Write the file for the official script."""
    data = Data(options.data, options.annotations)
    file = read_file(options.predictions, data)
    if file.benchmark != "mmau":
        raise UserError(f"{file.path}: predictions of {file.benchmark}, where MMAU's are needed")
    counts = check_file(file, data["mmau"]).counts()
    rows, answered = write_official(options.output, data.mmau_file, file.predictions)
    said = "every row has a prediction" if answered == rows else f"{answered} have a prediction"
    problems = "".join(f", {count} {kind}" for kind, count in counts.items())
    print(f"{options.output}: {rows} rows; {said}{problems}")


def audit(options: argparse.Namespace) -> None:
    """Print the clips that a training set and benchmarks share."""
    train = contamination.read_clip_set(options.train, options.data)
    names = options.benchmark or [name for name in AUDITED if (options.data / name.partition(":")[0]).is_dir()]
    lines = []
    for name in names:
        benchmark = contamination.read_clip_set(name, options.data)
        found = contamination.audit(train, benchmark, options.threads, say=lambda line: print(line, file=sys.stderr))
        leaked = {pair.benchmark for pair in found.shared}
        asked = sum(len(benchmark.questions.get(media, ())) for media in leaked)
        print(
            f"{train.name} ({len(train.media)} clips) and {name} ({len(benchmark.media)} clips): {len(leaked)} clips "
            f"of {name} are in the training set" + (f", with {asked} questions" if asked else "")
        )
        for pair in found.shared:
            print(f"  {pair.benchmark} is {pair.train}: {pair.how}, {pair.why}")
            questions = {"questions": list(benchmark.questions.get(pair.benchmark, ()))}
            lines.append(json.dumps({"set": name, **dataclasses.asdict(pair), **questions}, ensure_ascii=False) + "\n")
        if found.unheard:
            first, reason = next(iter(found.unheard.items()))
            print(f"  {len(found.unheard)} clips could not be compared by sound; the first is {first}: {reason}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text("".join(lines), encoding="utf-8")


def list_defects(options: argparse.Namespace) -> None:
    """List the official rule's defects."""
    rows = read_rows(Data(options.data, options.annotations).mmau_file)
    found = defects(rows)
    for defect in found:
        for choice in defect.also_accepted:
            print(f"{defect.id}: {choice!r} is accepted where {defect.right!r} is right")
        for form in defect.refused_forms:
            print(f"{defect.id}: {form!r} is refused although it is right")
    also, refused = sum(bool(d.also_accepted) for d in found), sum(bool(d.refused_forms) for d in found)
    print(f"a wrong choice is accepted in {also} rows, a right one with its letter refused in {refused}")
    if passed := sum(usable_row(row) is None for row in rows):
        print(f"{passed} of {len(rows)} rows were passed over: they have no id, no choices or no answer among them")


def matcher(options: argparse.Namespace) -> None:
    """Print how well completions are read."""
    readings = read_answers(options.answers or LABELLED)
    print(matcher_table(readings).markdown())
    if options.misread:
        print("\n".join(misread(readings)))
