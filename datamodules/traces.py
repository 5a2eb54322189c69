"""The teacher's traces as targets of SFT and labels of GRPO.

The filters of the paper are switches here: the files keep the raw traces.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.avqa import AVQADataModule, AVQASettings
from datamodules.batching.items import Item
from datamodules.reading.annotations import without_control_tokens
from datamodules.reading.self_consistency import answered_option, by_question, is_unanimous
from datamodules.settings import refuse_none
from records.changed_questions import without_changed
from records.reasoning_tags import tagged_answer, tagged_thought, without_tags
from records.record_files import listed, read_records
from records.records import Question, Trace, Verdict
from runtime.errors import UserError
from runtime.settings import takes

Target = Literal["cot", "teacher_label", "ground_truth_label"]
Label = Literal["teacher", "ground_truth"]

CHANGED = "traces of questions that have changed since"
CHANGED_VERDICTS = "verdicts on questions that have changed since"
NOT_IN_DATA = "traces of questions that are not in the data"
UNREADABLE = "traces with an unreadable answer"
NO_THOUGHT = "traces without a thought"


@dataclass(frozen=True)
class TraceFilter:
    """Which traces are used.

    Attributes:
        unanimous: Use only questions whose traces all chose the same option (self-consistency, section 3.1).
        verified: Use only traces that the checker accepted (AGFV, section 3.2).
        max_traces: Use so many traces of a question at most, lowest sample numbers first; None for all.
        thoughtful: Use only traces with a thought before the answer; one without teaches to think nothing.
    """

    unanimous: bool = True
    verified: bool = False
    max_traces: int | None = None
    thoughtful: bool = False


@dataclass(frozen=True)
class TracedQuestion:
    """A question with the traces that passed.

    Attributes:
        question: The question.
        traces: The traces, by sample number.
        teacher_label: The option that most of the question's traces chose before any were filtered.
    """

    question: Question
    traces: tuple[Trace, ...]
    teacher_label: str


@dataclass(frozen=True, kw_only=True)
class TracesSettings(AVQASettings):
    """The teacher's traces, beside what is said in :class:`.avqa.AVQASettings`.

    Attributes:
        traces: A file of traces, a folder of such files, or a list of files and folders.
        verdicts: The checker's verdicts on the traces, in the same ways; needed for ``verified``.
        unanimous: Use only questions whose traces all chose the same option (self-consistency).
        verified: Use only traces that the checker accepted.
        max_traces_per_question: Use so many traces of a question at most; null for all.
        use: ``sft`` puts targets into the batches; ``prompts`` leaves completions to be sampled (GRPO).
        target: What SFT learns: the trace and its answer (traces without a thought are left out and counted), the
            teacher's label alone, or the true label alone.
        label: What GRPO rewards: the option that the teacher chose (the majority of its traces), or the true one.
        traces_per_item: Of SFT, so many traces of a question at most come into a batch together, which computes their
            prompt once; the others come on their own. With 1, ``batch_size`` counts traces, as the paper's does; null
            keeps each question's traces together.
    """

    traces: str | list[str]
    verdicts: str | list[str] | None = None
    unanimous: bool = True
    verified: bool = False
    max_traces_per_question: int | None = None
    use: Literal["sft", "prompts"] = "sft"
    target: Target = "cot"
    label: Label = "teacher"
    traces_per_item: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verified and not self.verdicts:
            raise UserError("data.verified needs the checker's verdicts: set data.verdicts, or data.verified to false")
        refuse_none(max_traces_per_question=self.max_traces_per_question, traces_per_item=self.traces_per_item)

    @property
    def filter(self) -> TraceFilter:
        """Which traces are used."""
        learns_thoughts = self.use == "sft" and self.target == "cot"
        return TraceFilter(self.unanimous, self.verified, self.max_traces_per_question, learns_thoughts)


class TracesDataModule(AVQADataModule):
    """AVQA whose training questions are those with traces of the teacher; validation and test are plain AVQA.

    Reads traces and verdicts as JSON lines (``records.records.Trace``, ``Verdict``), and AVQA as AVQADataModule
    describes. For SFT one item is one question with its traces as targets.
    """

    settings: TracesSettings

    @takes(TracesSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`TracesSettings` does; nothing is read before ``setup``."""
        self.describe(TracesSettings(*root, **settings))

    def train_items(self, questions: list[Question]) -> list[Item]:
        """Return the questions whose traces pass, each with its label and targets, in as many items as these need.

        Raises:
            UserError: A file is missing or malformed, or nothing passes the filters.
        """
        traces = list(read_records(listed(self.settings.traces), Trace))
        verdicts = list(read_records(listed(self.settings.verdicts), Verdict))
        counts: Counter[str] = Counter()
        traced = select_traces(questions, traces, verdicts, self.settings.filter, counts)
        unlabelled = 0
        items: list[Item] = []
        asked = 0
        for one in traced:
            label = one.teacher_label if self.settings.label == "teacher" else one.question.answer_text
            targets = sft_targets(one, self.settings.target) if self.settings.use == "sft" else ()
            if label is None or (self.settings.use == "sft" and not targets):
                unlabelled += 1
                continue
            asked += 1
            room = self.settings.traces_per_item or max(len(targets), 1)
            items += [Item(one.question, label, targets[at : at + room]) for at in range(0, max(len(targets), 1), room)]
        if unlabelled:
            counts["questions without a true label"] = unlabelled
        tokens = sum(without_control_tokens(t.reasoning) != t.reasoning for one in traced for t in one.traces)
        if tokens and self.settings.use == "sft" and self.settings.target == "cot":
            rank_zero_warn(f"{tokens} traces have control tokens such as <|im_end|> in their text, which are taken out")
        used = sum(len(one.traces) for one in traced)
        removed = ", ".join(f"{count} {what}" for what, count in counts.items()) or "none"
        summary = f"{len(traces)} traces; {used} of them on {asked} questions are used; left out: {removed}"
        if not items:
            raise UserError(f"no question with traces remains ({summary}): relax the filters or check data.traces")
        strange = any(what in counts for what in (NOT_IN_DATA, UNREADABLE, NO_THOUGHT))
        say = rank_zero_warn if strange and self.settings.limit is None else rank_zero_info
        strange = any(what in counts for what in (CHANGED, CHANGED_VERDICTS, NOT_IN_DATA, UNREADABLE, NO_THOUGHT))
        say = rank_zero_warn if strange and self.settings.limit is None else rank_zero_info
        say(f"{self.dataset} traces: {summary}")
        return items


def select_traces(
    questions: Iterable[Question],
    traces: Iterable[Trace],
    verdicts: Iterable[Verdict],
    chosen: TraceFilter,
    counts: Counter[str],
) -> list[TracedQuestion]:
    """Return the questions with the traces that pass, in the questions' order.

    Unanimity is asked of all traces of a question, before the checker's verdicts are applied. A trace whose answer is
    none of the options cannot be learned from, and its question is not unanimous.

    Args:
        questions: The questions.
        traces: The teacher's traces.
        verdicts: The checker's verdicts.
        chosen: The filters.
        counts: Gets the number of traces that each filter left out.
    """
    questions = list(questions)
    traces, changed = without_changed(traces, questions)
    counts[CHANGED] += len(changed)
    verdicts, changed_verdicts = without_changed(verdicts, questions)
    counts[CHANGED_VERDICTS] += len(changed_verdicts)
    remaining = by_question(traces)
    if repeated := len(traces) - sum(map(len, remaining.values())):
        counts["traces with the same question and sample as another"] = repeated
    accepted = {(verdict.question_id, verdict.sample): verdict.accepted for verdict in verdicts}

    selected = []
    for question in questions:
        in_order = remaining.pop(question.id, None)
        if not in_order:
            counts["questions without traces"] += 1
            continue
        readable = [trace for trace in in_order if answered_option(trace, question) is not None]
        answers = Counter(answered_option(trace, question) for trace in readable)
        if chosen.unanimous and not is_unanimous(in_order, question):
            counts["traces of questions that are not unanimous"] += len(in_order)
            continue
        counts[UNREADABLE] += len(in_order) - len(readable)
        passed = []
        for trace in readable:
            verdict = accepted.get((trace.question_id, trace.sample))
            if chosen.verified and verdict is not True:
                counts["traces that the checker rejected" if verdict is False else "traces without a verdict"] += 1
                continue
            if chosen.thoughtful and not thought(trace):
                counts[NO_THOUGHT] += 1
                continue
            passed.append(trace)
        if not passed:
            continue
        if chosen.max_traces is not None and len(passed) > chosen.max_traces:
            counts["traces beyond max_traces_per_question"] += len(passed) - chosen.max_traces
            passed = passed[: chosen.max_traces]
        label = answers.most_common(1)[0][0]
        assert label is not None
        selected.append(TracedQuestion(question, tuple(passed), label))
    if unknown := sum(map(len, remaining.values())):
        counts[NOT_IN_DATA] = unknown
    for what in [what for what, count in counts.items() if not count]:
        del counts[what]
    return selected


def thought(trace: Trace) -> str:
    """Return what a trace thinks, without tags and control tokens, which are no part of it; empty where it does not."""
    return without_tags(without_control_tokens(trace.reasoning))


def sft_targets(traced: TracedQuestion, target: Target) -> tuple[str, ...]:
    """Return the completions that SFT learns for a question; none where the true label is asked for and unknown."""
    if target == "cot":
        return tuple(
            tagged_thought(thought(t)) + tagged_answer(str(answered_option(t, traced.question))) for t in traced.traces
        )
    label = traced.teacher_label if target == "teacher_label" else traced.question.answer_text
    return () if label is None else (tagged_answer(label),)
