from corpus.gates.given_away import answer_in_question
from tests.support.written_questions import asked


def test_the_answer_stands_in_the_question() -> None:
    text = "Which sound does the barking dog make in the audio?"
    assert "a barking dog" in answer_in_question(asked(text, "a barking dog", "a cat", "rain"))
    assert "Dogs" in answer_in_question(asked("What is heard of the dog?", "Dogs", "a cat", "rain"))


def test_a_choice_that_the_question_names_gives_nothing_away() -> None:
    assert answer_in_question(asked("Which is first, the bell or the drum?", "the bell", "the drum")) == ""


def test_a_wrong_option_in_the_question_gives_nothing_away() -> None:
    assert answer_in_question(asked("What is heard after the bell?", "a drum", "a bell", "rain")) == ""


def test_a_part_of_the_answer_is_not_the_answer() -> None:
    assert answer_in_question(asked("What does the dog do?", "the dog growls", "the dog barks")) == ""


def test_words_that_say_nothing_are_no_answer() -> None:
    assert answer_in_question(asked("Is the sound heard in the audio?", "one", "two")) == ""
    assert answer_in_question(asked("Which dog?", "a dog", "a cat", answer=None)) == ""
