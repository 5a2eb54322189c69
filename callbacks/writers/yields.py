"""Counting what a stage yielded and what it took; nothing here reads or writes."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.reading.self_consistency import answered_option, by_question, is_unanimous
from datamodules.traces import thought
from records.records import Question, Trace, Verdict
from records.request_records import RequestError, Usage

TOTAL = "all"


@dataclass(frozen=True)
class Yield:
    """What questions of one type yielded.

    Attributes:
        type: The question type, or ``all``.
        questions: Questions seen.
        complete: Questions with all their samples.
        traces: Traces of them.
        unreadable: Traces whose answer is none of the options.
        thoughtless: Traces without a thought, of which SFT could learn no reasoning.
        unanimous: Questions whose traces all chose the same option.
        unanimous_traces: Traces of these.
        accepted: Traces that the checker accepted; None before it was asked.
        rejected: Traces that it rejected.
        unanimous_accepted: Accepted traces of unanimous questions.
        traces_right: Part of the traces whose answer is right; None where there is no right answer.
        unanimous_right: The same, of the traces of unanimous questions.
        accepted_right: The same, of the accepted traces.
    """

    type: str
    questions: int
    complete: int
    traces: int
    unreadable: int
    thoughtless: int
    unanimous: int
    unanimous_traces: int
    accepted: int | None
    rejected: int | None
    unanimous_accepted: int | None
    traces_right: float | None
    unanimous_right: float | None
    accepted_right: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the values by their names."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Spending:
    """What a stage took, all runs together.

    Attributes:
        requests: Requests that were answered.
        retries: Attempts that failed and were repeated.
        prompt_tokens: Tokens of the requests.
        completion_tokens: Tokens generated.
        cost: Money at the configured prices.
        seconds: Wall time from the first request of a run to its last answer, added over runs.
        errors: What could not be had, counted by kind.
    """

    requests: int
    retries: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    seconds: float
    errors: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the values by their names."""
        return dataclasses.asdict(self)

    def sentence(self) -> str:
        """Return it in one line."""
        errors = ", ".join(f"{count} {kind}" for kind, count in self.errors.items()) or "none"
        return (
            f"{self.requests} requests in {self.seconds:.0f} s ({self.retries} attempts repeated), "
            f"{self.prompt_tokens} tokens read and {self.completion_tokens} generated, cost {self.cost:.2f}; "
            f"errors: {errors}"
        )


def yields(
    questions: Sequence[Question],
    traces: Iterable[Trace],
    verdicts: Iterable[Verdict] | None = None,
    samples: int | None = None,
) -> list[Yield]:
    """Return what each question type yielded, by name, and the total at the end.

    Args:
        questions: The questions.
        traces: Their traces; those of other questions are not counted.
        verdicts: The checker's verdicts; None before it was asked.
        samples: Traces that a complete question has; None counts every question with a trace.
    """
    known = by_question(traces)
    accepted = None if verdicts is None else {(v.question_id, v.sample): v.accepted for v in verdicts}
    types: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        types[question.category].append(question)
    rows = [_yield(name, types[name], known, accepted, samples) for name in sorted(types)]
    return [*rows, _yield(TOTAL, questions, known, accepted, samples)]


def _yield(
    name: str,
    questions: Sequence[Question],
    traces: dict[str, list[Trace]],
    accepted: dict[tuple[str, int], bool] | None,
    samples: int | None,
) -> Yield:
    counts: Counter[str] = Counter()
    right: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        some = traces.get(question.id, [])
        answers = {trace.sample: answered_option(trace, question) for trace in some}
        unanimous = is_unanimous(some, question)
        counts["complete"] += len(some) >= (samples or 1)
        counts["traces"] += len(some)
        counts["unreadable"] += sum(answer is None for answer in answers.values())
        counts["thoughtless"] += sum(not thought(trace) for trace in some)
        counts["unanimous"] += unanimous
        counts["unanimous_traces"] += unanimous * len(some)
        for sample, answer in answers.items():
            verdict = None if accepted is None else accepted.get((question.id, sample))
            counts["accepted"] += verdict is True
            counts["rejected"] += verdict is False
            counts["unanimous_accepted"] += unanimous and verdict is True
            if question.answer_text is not None:
                is_right = answer == question.answer_text
                right["traces"].append(is_right)
                if unanimous:
                    right["unanimous"].append(is_right)
                if verdict is True:
                    right["accepted"].append(is_right)
    checked = accepted is not None
    return Yield(
        type=name,
        questions=len(questions),
        complete=counts["complete"],
        traces=counts["traces"],
        unreadable=counts["unreadable"],
        thoughtless=counts["thoughtless"],
        unanimous=counts["unanimous"],
        unanimous_traces=counts["unanimous_traces"],
        accepted=counts["accepted"] if checked else None,
        rejected=counts["rejected"] if checked else None,
        unanimous_accepted=counts["unanimous_accepted"] if checked else None,
        traces_right=_mean(right["traces"]),
        unanimous_right=_mean(right["unanimous"]),
        accepted_right=_mean(right["accepted"]),
    )


def spending(usage: Iterable[Usage], errors: Iterable[RequestError]) -> Spending:
    """Return what all runs took, and what could not be had.

    Args:
        usage: What each question took.
        errors: What could not be had; of several about the same sample the last one counts.
    """
    spans: dict[str, tuple[float, float]] = {}
    totals: Counter[str] = Counter()
    cost = 0.0
    for one in usage:
        for name in ("requests", "retries", "prompt_tokens", "completion_tokens"):
            totals[name] += vars(one)[name]
        cost += one.cost
        begin, end = spans.get(one.run, (one.started, one.ended))
        spans[one.run] = (min(begin, one.started), max(end, one.ended))
    kinds = Counter({(e.question_id, e.sample): e.kind for e in errors}.values())
    return Spending(
        requests=totals["requests"],
        retries=totals["retries"],
        prompt_tokens=totals["prompt_tokens"],
        completion_tokens=totals["completion_tokens"],
        cost=round(cost, 6),
        seconds=round(_covered(spans.values()), 3),
        errors=dict(kinds.most_common()),
    )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of some spans of time lasted: ranks run side by side, restarts one after another."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
