from corpus.gates.option_places import answers_at_places, in_drawn_order
from tests.support.written_questions import asked


def test_the_answer_follows_and_the_order_is_always_the_same() -> None:
    for number in range(20):
        question = asked("Which?", "right", "b", "c", "d", id=f"avqa/train/{number}")
        drawn = in_drawn_order(question)
        assert drawn.answer_text == "right" and sorted(drawn.options) == ["b", "c", "d", "right"]
        assert drawn == in_drawn_order(question)
    assert in_drawn_order(asked("Which?", "a", "b", answer=None)).answer is None


def test_answers_stand_at_each_place_about_equally_often() -> None:
    drawn = [in_drawn_order(asked("Which?", "r", "b", "c", "d", id=str(number))) for number in range(400)]
    counts = answers_at_places(drawn)
    assert sum(counts) == 400 and all(70 <= count <= 130 for count in counts)  # 100 each, 3.5 standard deviations
