"""Something that takes long says so, and how long it has taken."""

import time

import pytest

from cli.heartbeat import under_way


def test_says_what_is_under_way_until_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with under_way("planning", every_seconds=0.01):
        while len(said) < 3:
            time.sleep(0.01)
            said += capsys.readouterr().err.splitlines()
    assert said[:2] == ["planning", "planning: 0 s"]
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_fails_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), under_way("planning", every_seconds=60):
        raise ValueError("no")
    assert capsys.readouterr().err == "planning\n"
