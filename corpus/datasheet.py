"""The datasheet of a corpus: what is in it, where it comes from, and what was left out at which gate."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.writers.yields import Spending
from corpus.evidence import Evidence
from corpus.gates.answer_length import length_bias
from corpus.gates.option_places import answers_at_places
from corpus.judged_questions import Judged, counts_at_gates
from records.records import Question
from runtime.errors import UserError
from runtime.whole_file import write_whole

Row = Sequence[object]


@dataclass(frozen=True)
class Datasheet:
    """What a corpus's datasheet is made of.

    Attributes:
        name: The corpus's name.
        evidence: What the stages have written.
        judged: What became of each proposal.
        spent: What each stage took.
        leakage: What was found of benchmarks' clips in the corpus, in a sentence.
    """

    name: str
    evidence: Evidence
    judged: Sequence[Judged]
    spent: Mapping[str, Spending]
    leakage: str = ""

    @property
    def kept(self) -> list[Judged]:
        """Questions that passed all gates."""
        return [one for one in self.judged if one.passed]

    def gates(self) -> list[str]:
        """Return the table of gates in Markdown."""
        counts = counts_at_gates(one.outcome for one in self.judged)
        rows = [
            (gate, came, stopped, waiting, came - stopped - waiting)
            for gate, (came, stopped, waiting) in counts.items()
        ]
        return table(("gate", "came", "stopped", "waiting", "passed"), rows)

    def write(self, path: Path) -> None:
        """Write it in Markdown.

        Args:
            path: The file.

        Raises:
            UserError: It cannot be written.
        """
        try:
            write_whole(path, (line + "\n" for line in self.lines()))
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None

    def lines(self) -> Iterator[str]:
        """Yield its lines."""
        kept = self.kept
        questions = [one.question for one in kept if one.question is not None]
        splits = Counter(one.outcome.split for one in kept)
        clips = len({one.outcome.clip for one in kept})
        yield f"# Datasheet of {self.name}"
        yield ""
        yield (
            f"{len(kept)} multiple-choice questions about the sound of {clips} clips, "
            f"{splits['train']} for training and {splits['val']} for validation, with no clip in both. A model wrote "
            "them from silent frames; no person has read them. What became of each proposal is in `outcomes.jsonl`."
        )
        yield from _section("Sources and licences", self._terms(kept))
        yield from _section("Gates", self.gates())
        yield from _section("Completions that were no question", self._faults())
        yield from _section("Kinds of question", self._kinds(kept))
        yield from _section("Habits of the answers", _habits(questions))
        yield from _section("Models and prompts", self._models())
        yield from _section("Cost", self._cost())
        yield from _section("Leakage", [self.leakage or NOT_AUDITED])

    def _terms(self, kept: Iterable[Judged]) -> list[str]:
        counts = Counter((one.outcome.license or "not known", one.outcome.source or "not known") for one in kept)
        rows = [(license_, source, count) for (license_, source), count in counts.most_common(_MOST_SOURCES)]
        rest = len(counts) - len(rows)
        more = [f"and {rest} other sources, each named in `outcomes.jsonl`"] if rest else []
        return table(("licence", "source", "questions"), rows) + more

    def _faults(self) -> list[str]:
        counts = Counter(one.fault for one in self.evidence.proposals if one.fault)
        if not counts:
            return [f"none of {len(self.evidence.proposals)}"]
        return table(("fault", "completions"), counts.most_common())

    def _kinds(self, kept: Iterable[Judged]) -> list[str]:
        passed = Counter(one.outcome.kind for one in kept)
        proposed = Counter(one.outcome.kind for one in self.judged)
        return table(("kind", "proposed", "kept"), [(kind, proposed[kind], passed[kind]) for kind in sorted(proposed)])

    def _models(self) -> list[str]:
        evidence = self.evidence
        rows: list[tuple[str, str, str, str]] = []
        rows += sorted(
            {("questions", one.model, one.prompt_version, _said(one.sampling)) for one in evidence.proposals}
        )
        for stage, answers in (("prior", evidence.prior), ("teacher", evidence.teacher)):
            traces = [trace for some in (answers or {}).values() for trace in some]
            rows += sorted({(stage, one.model, one.prompt_version, _said(one.sampling)) for one in traces})
        for stage, found in (("grounding", evidence.grounding), ("verify", evidence.verified)):
            verdicts = [verdict for some in (found or {}).values() for verdict in some]
            said = {
                (stage, one.checker, one.prompt_version, f"mode {one.mode}, threshold {one.threshold}")
                for one in verdicts
            }
            rows += sorted(said)
        return table(("stage", "model", "prompt", "settings"), rows)

    def _cost(self) -> list[str]:
        rows = []
        for stage, one in self.spent.items():
            errors = ", ".join(f"{count} {kind}" for kind, count in one.errors.items()) or "none"
            numbers = (one.requests, one.prompt_tokens, one.completion_tokens, f"{one.seconds:.0f}", f"{one.cost:.2f}")
            rows.append((stage, *numbers, errors))
        return table(("stage", "requests", "tokens read", "tokens generated", "seconds", "cost", "errors"), rows)


NOT_AUDITED = (
    "Not audited: nobody has looked for clips of the benchmarks in this corpus. `python -m evaluation audit --train "
    "FOLDER` compares the sound of a folder's clips with that of each benchmark."
)
"""What the datasheet says where no audit was handed to it."""

_MOST_SOURCES = 100


def table(header: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Return a table in Markdown.

    Args:
        header: Titles of the columns.
        rows: The rows.
    """
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _habits(questions: Sequence[Question]) -> list[str]:
    places = ", ".join(f"{count} at place {place}" for place, count in enumerate(answers_at_places(questions), 1))
    return [f"Answers: {places or 'none'}.", "", f"Length: {length_bias(questions).sentence()}."]


def _said(sampling: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sampling.items())


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield from lines
