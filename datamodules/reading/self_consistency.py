"""A question's traces: by their sample, which option each chose, and whether they agree."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from records.records import Question, Trace


def by_question(traces: Iterable[Trace]) -> dict[str, list[Trace]]:
    """Return traces by their question's id, in the order of their samples; of two of the same sample the first counts.

    Args:
        traces: The traces of any questions.
    """
    found: dict[str, dict[int, Trace]] = defaultdict(dict)
    for trace in traces:
        found[trace.question_id].setdefault(trace.sample, trace)
    return {question: [samples[sample] for sample in sorted(samples)] for question, samples in found.items()}


def answered_option(trace: Trace, question: Question) -> str | None:
    """Return the option that a trace chose, or None when its answer is none of the options."""
    if trace.answer is None:
        return None
    answer = trace.answer.strip().casefold()
    return next((option for option in question.options if option.casefold() == answer), None)


def is_unanimous(traces: Sequence[Trace], question: Question) -> bool:
    """Return True when all traces chose the same option (|unique(A)| = 1)."""
    answers = {answered_option(trace, question) for trace in traces}
    return len(answers) == 1 and None not in answers
