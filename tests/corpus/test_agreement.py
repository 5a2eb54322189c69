"""Agreement of a checker with a person, by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from corpus.__main__ import main
from corpus.agreement import agreement, cohens_kappa, on_same_traces
from records.records import Verdict, write_jsonl
from runtime.errors import UserError


def test_kappa_by_hand() -> None:
    # 20 and 15 of 50 alike: observed 0.7, expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    assert cohens_kappa(np.array([20.0, 5.0, 10.0, 15.0])) == pytest.approx(0.4)
    assert cohens_kappa(np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])).tolist() == [1.0, -1.0]
    assert math.isnan(cohens_kappa(np.array([3.0, 0.0, 0.0, 0.0])))


def test_counts_and_interval() -> None:
    checker = [True] * 25 + [False] * 25
    person = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    found = agreement(checker, person, range(50))
    assert (found.both_accept, found.only_checker, found.only_person, found.both_reject) == (20, 5, 10, 15)
    assert found.share == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)
    # the share's deviation is sqrt(0.7 * 0.3 / 50) = 0.065
    assert found.share_interval == pytest.approx((0.573, 0.827), abs=0.03)
    assert found.kappa_interval[0] < 0.4 < found.kappa_interval[1]


def test_only_traces_that_both_judged_count_and_the_last_word() -> None:
    checker = [Verdict("a", 0, True, "c", question_fingerprint="x"), Verdict("b", 0, True, "c")]
    person = [
        Verdict("a", 0, True, "p", question_fingerprint="x"),
        Verdict("a", 0, False, "p", question_fingerprint="x"),
        Verdict("b", 0, True, "p", question_fingerprint="another question"),
        Verdict("c", 0, True, "p"),
    ]
    assert on_same_traces(checker, person) == ([True], [False], ["a"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, accepted in (("checker", [1, 1, 0, 0]), ("ann", [1, 0, 0, 0])):
        verdicts = [Verdict(f"q{number}", 0, bool(yes), name) for number, yes in enumerate(accepted)]
        write_jsonl(tmp_path / f"{name}.jsonl", verdicts)
    command = ["agreement", "--labels", str(tmp_path / "ann.jsonl"), "--verdicts", str(tmp_path / "checker.jsonl")]
    main(command)
    # observed 0.75, expected 0.5 * 0.25 + 0.5 * 0.75 = 0.5
    said = capsys.readouterr().out
    assert "4 traces: 1 accepted by both, 1 by the checker alone, 0 by the person alone, 2 rejected by both" in said
    assert "agreement      0.750" in said and "Cohen's kappa  0.500" in said
    write_jsonl(tmp_path / "ann.jsonl", [])
    with pytest.raises(UserError, match="no trace has been judged by both"):
        main(command)
