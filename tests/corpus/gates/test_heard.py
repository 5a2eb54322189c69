from corpus.gates.heard import not_heard
from tests.support.written_questions import heard


def test_one_rejection_is_enough() -> None:
    assert not_heard(heard("q", True)) == ""
    assert "(0.100)" in not_heard([*heard("q", True), *heard("q", False)])
