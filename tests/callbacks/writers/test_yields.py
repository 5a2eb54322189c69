"""What a stage yielded, counted."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from callbacks.writers.yield_report import terminal_table, write_report
from callbacks.writers.yields import spending, yields
from records.records import Question, Trace
from runtime.errors import UserError

QUESTIONS = [Question(f"avqa/train/{n}", "avqa", "a.mp4", "What?", ("a dog", "rain"), 0, "Which") for n in range(2)]


def titles(traces: Iterable[Trace]) -> list[str]:
    return [str(column.header) for column in terminal_table(yields(QUESTIONS, traces)).columns]


def test_traces_that_cannot_be_learned_from_are_counted_and_shown() -> None:
    good = Trace("avqa/train/0", 0, "It barks.", "a dog", "t")
    silent = Trace("avqa/train/0", 1, "<think> </think>", "a dog", "t")
    unclear = Trace("avqa/train/1", 0, "Who knows?", None, "t")
    total = yields(QUESTIONS, [good, silent, unclear])[-1]
    assert (total.traces, total.thoughtless, total.unreadable) == (3, 1, 1)
    assert total.as_dict()["thoughtless"] == 1, "report.json has it"
    assert titles([good]) == [
        *("type", "questions", "with traces", "traces", "unanimous"),
        *("traces right", "unanimous right", "accepted right"),
    ]
    assert {"unreadable", "no thought"} < set(titles([good, silent, unclear]))


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "report.png").mkdir()  # as a full disk does, it fails when the picture is written
    with pytest.raises(UserError, match=r"report cannot be written to .*directory.*the records are complete"):
        write_report(tmp_path, yields(QUESTIONS, []), spending([], []))
