"""The teacher's reasoning as a hint in the student's prompt: distillation at test time, without training."""

import dataclasses
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.reading.annotations import without_control_tokens
from records.changed_questions import without_changed
from records.record_files import read_records
from records.records import Question, RecordError, Trace


def read_hints(files: Sequence[str], questions: Sequence[Question]) -> dict[str, str]:
    """Return a hint for each question that has one: the reasoning of its first trace that has any.

    Args:
        files: Files of traces and folders of such files.
        questions: The questions.

    Raises:
        RecordError: A file is missing or malformed, or no trace is of these questions.
    """
    asked = {question.id for question in questions}
    first: dict[str, Trace] = {}
    traces, changed = without_changed(read_records(files, Trace), questions)
    if changed:
        rank_zero_warn(
            f"{', '.join(files)}: {len(changed)} traces are of questions that have changed since "
            f"({changed[0].question_id} is the first) and are no hints"
        )
    for trace in traces:
        if trace.question_id in asked and trace.reasoning.strip():
            known = first.get(trace.question_id)
            if known is None or trace.sample < known.sample:
                first[trace.question_id] = trace
    if not first:
        raise RecordError(
            f"{', '.join(files)}: no trace is of a question that is asked; the teacher writes traces of AVQA's "
            "validation split with --data.init_args.predict_split=val"
        )
    return {name: without_control_tokens(trace.reasoning).strip() for name, trace in first.items()}


def with_hint(question: Question, hint: str | None) -> Question:
    """Return a question that carries a hint for the prompt; without one it is as it was.

    Args:
        question: The question.
        hint: The teacher's reasoning, or None.
    """
    if not hint:
        return question
    return dataclasses.replace(question, metadata={**question.metadata, "hint": hint})
