"""What rank 0 does for all ranks."""

from types import SimpleNamespace
from typing import Any

import pytest

from runtime.all_ranks import RankZeroError, of_rank_zero
from runtime.errors import UserError


def rank_zero(sent: list[Any]) -> Any:
    def broadcast(value: Any) -> Any:
        sent.append(value)
        return value

    return SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(broadcast=broadcast))


def another(sent: list[Any]) -> Any:
    return SimpleNamespace(is_global_zero=False, strategy=SimpleNamespace(broadcast=lambda value: sent[0]))


def never() -> int:
    pytest.fail("only rank 0 does it")


def test_all_ranks_get_the_result() -> None:
    sent: list[Any] = []
    assert of_rank_zero(rank_zero(sent), lambda: 3) == 3
    assert of_rank_zero(another(sent), never) == 3


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("no server"), "no server"),
        (OSError("disk full"), "rank 0: OSError: disk full"),
        (RuntimeError(), "rank 0: RuntimeError"),
    ],
)
def test_no_rank_waits_for_one_that_failed(error: Exception, sentence: str) -> None:
    def work() -> int:
        raise error

    sent: list[Any] = []
    with pytest.raises(type(error)) as raised:
        of_rank_zero(rank_zero(sent), work)
    assert raised.value is error
    with pytest.raises(RankZeroError, match=sentence):
        of_rank_zero(another(sent), never)
