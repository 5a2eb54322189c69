"""What a careful reader would say to answers as models give them."""

import pytest

from answers.answers import answer_in_words, extract_answer, match_option

ANIMALS = ("dog", "cat", "a dog barking", "rain")
COUNTS = ("one", "two", "three", "more than ten")
NUMBERS = ("1", "2", "10", "12")
YES_NO = ("yes", "no")
VEHICLES = ("motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car")
CHORDS = ("C", "Gm", "Cm7b5", "Eb/G")
LETTERS = ("A minor", "B flat major", "C major", "D")


@pytest.mark.parametrize(
    ("completion", "options", "choice"),
    [
        # letters
        ("A", ANIMALS, 0),
        ("b", ANIMALS, 1),
        ("(C)", ANIMALS, 2),
        ("D.", ANIMALS, 3),
        ("B)", ANIMALS, 1),
        ("B. cat", ANIMALS, 1),
        ("(B) cat", ANIMALS, 1),
        ("B: cat", ANIMALS, 1),
        ("[B] cat", ANIMALS, 1),
        ("The answer is (B)", ANIMALS, 1),
        ("The answer is B.", ANIMALS, 1),
        ("The correct answer is option C", ANIMALS, 2),
        ("Answer: D", ANIMALS, 3),
        ("I would go with (D), because water is heard.", ANIMALS, 3),
        ("（Ｂ）", ANIMALS, 1),  # full-width brackets and letter
        ("答案是（B）", ANIMALS, 1),
        ("E", ANIMALS, None),
        ("(Z)", ANIMALS, None),
        ("(A) or (B)", ANIMALS, None),
        # option texts
        ("dog", ANIMALS, 0),
        ("Dog.", ANIMALS, 0),
        ("the dog", ANIMALS, 0),
        ("a dog barking", ANIMALS, 2),
        ("A dog barking.", ANIMALS, 2),
        ("dog barking", ANIMALS, 2),
        ("It is a dog barking loudly", ANIMALS, 2),
        ("a cat", ANIMALS, 1),
        ("It is rain", ANIMALS, 3),
        ("heavy rain on a roof", ANIMALS, 3),
        ("a whale", ANIMALS, None),
        ("cat and rain", ANIMALS, None),
        ("", ANIMALS, None),
        ("motor boat", VEHICLES, 0),
        ("Sailboat set sial", VEHICLES, 2),
        ("yacht", VEHICLES, 1),
        ("consignment", VEHICLES, None),
        # tags
        ("<think>a cat, or rain?</think><answer>dog</answer>", ANIMALS, 0),
        ("<think>a cat</think><answer>(D) rain</answer>", ANIMALS, 3),
        ("<think>a cat</think>\nrain", ANIMALS, 3),
        ("<answer>rain", ANIMALS, 3),
        ("<ANSWER> rain </ANSWER>", ANIMALS, 3),
        ("<answer><answer>rain</answer></answer>", ANIMALS, 3),
        ("<answer>dog</answer> no wait <answer>rain</answer>", ANIMALS, 3),
        ("<answer></answer>", ANIMALS, None),
        ("<think>dog", ANIMALS, None),
        # numbers
        ("2", COUNTS, 1),
        ("Two", COUNTS, 1),
        ("three times", COUNTS, 2),
        ("more than 10", COUNTS, 3),
        ("1", NUMBERS, 0),
        ("ten", NUMBERS, 2),
        ("12", NUMBERS, 3),
        ("3", NUMBERS, None),
        ("yes", YES_NO, 0),
        ("No.", YES_NO, 1),
        ("Yes, there is.", YES_NO, 0),
        ("yes and no", YES_NO, None),
        # option texts that begin with letters
        ("A minor", LETTERS, 0),
        ("D", LETTERS, 3),
        ("C major", LETTERS, 2),
        ("(B) B flat major", LETTERS, 1),
        ("B flat major", LETTERS, 1),
        # markup, and letters in other places
        ("**B**", ANIMALS, 1),
        ("**Answer:** B", ANIMALS, 1),
        ("Final answer: **(B) cat**", ANIMALS, 1),
        ("<answer> *rain* </answer>", ANIMALS, 3),
        ("`cat`", ANIMALS, 1),
        (r"\boxed{B}", ANIMALS, 1),
        (r"$\boxed{\text{B}}$", ANIMALS, 1),
        (r"The answer is \boxed{rain}.", ANIMALS, 3),
        ("【B】", ANIMALS, 1),
        ("B\n\nBecause something meows.", ANIMALS, 1),
        ("I think it's B", ANIMALS, 1),
        ("I pick D.", ANIMALS, 3),
        ("A and B", ANIMALS, None),
        ("either A or B", ANIMALS, None),
        ("not A but B", ANIMALS, 1),
        ("Both (A) and (B)", ANIMALS, None),
        ("None of the above", ANIMALS, None),
        ("the vitamin is C", ("vitamin B", "vitamin C"), 1),
        # option texts that are letters
        ("C", CHORDS, 0),
        ("<answer>C</answer>", CHORDS, 0),
        ("(C)", CHORDS, 2),
        ("C)", CHORDS, 2),
        ("[C].", CHORDS, 2),
        ("(C) Cm7b5", CHORDS, 2),
        ("The answer is (C)", CHORDS, 2),
        ("(E)", CHORDS, None),
    ],
)
def test_match(completion: str, options: tuple[str, ...], choice: int | None) -> None:
    assert match_option(completion, options) == choice


@pytest.mark.parametrize("options", [ANIMALS, COUNTS, NUMBERS, YES_NO, VEHICLES, LETTERS])
def test_every_option_is_recognised_in_every_form(options: tuple[str, ...]) -> None:
    for index, option in enumerate(options):
        letter = chr(ord("A") + index)
        for said in (
            option,
            option.lower(),
            f"({letter}) {option}",
            f"{letter}. {option}",
            f"<think>hm</think><answer>{option}</answer>",
            f"<answer>{option.lower()}</answer>",
            f"The answer is ({letter})",
            f"({letter})",
        ):
            assert match_option(said, options) == index, said


def test_extract_answer() -> None:
    assert extract_answer("<think>x</think> <answer> dog </answer>") == "dog"
    assert extract_answer("just text") == "just text"
    assert extract_answer("<think>x</think> so: rain") == "so: rain"
    assert extract_answer("<think>x so: rain") == ""
    assert extract_answer("<answer>rain", finished=False) == ""
    assert extract_answer("<answer>rain</answer> and", finished=False) == "rain"
    assert extract_answer("<think>Is it <answer>rain</answer>, or", finished=False) == ""
    assert extract_answer("<think>x</think><answer>rain</answer> and", finished=False) == "rain"
    assert extract_answer("<think>x<answer>rain</answer>", finished=False) == "rain"
    assert extract_answer(r"\[\boxed{\text{B}}\]") == "B"
    assert extract_answer('{"reasoning": "a dog?", "answer": "B"}') == "B"


def test_answer_in_words() -> None:
    assert answer_in_words("<answer>(B)</answer>", ANIMALS) == "cat"
    assert answer_in_words("<answer>(B) cat</answer>", ANIMALS) == "cat"
    assert answer_in_words("<think>(A)</think><answer>Rain.</answer>", ANIMALS) == "rain"
    assert answer_in_words("<answer>heavy rain</answer>", ANIMALS) == "heavy rain"
    assert answer_in_words("", ANIMALS) == ""
    assert answer_in_words("The correct answer is B. Option A is wrong because no dog is heard.", ANIMALS) == "cat"
    assert answer_in_words("I think it's B", ANIMALS) == "cat"
    assert answer_in_words("cat, not dog", ANIMALS) == "cat, not dog"
    assert answer_in_words("motor boat", VEHICLES) == "motor boat"
    assert answer_in_words("(A) or (B)", ANIMALS) == "(A) or (B)"
    assert answer_in_words("The answer is (B)", ANIMALS, finished=False) == ""
    assert answer_in_words("<answer>(B)</answer> and", ANIMALS, finished=False) == "cat"
