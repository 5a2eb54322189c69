"""Every option of MMAU's and MUSIC-AVQA's real questions, said in many ways, is read as that option."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from answers.answers import match_option
from datamodules.music_avqa import answers_of
from datamodules.reading.annotations import read_rows
from tests.support.dataset_files import SHARED, needs_shared

TEXTS = (
    "{text}",
    "{lower}",
    "**{text}**",
    '"{text}"',
    "({letter})",
    "({letter}) {text}",
    "{letter}. {text}",
    "{letter}: {text}",
    "{letter}) {text}",
    "Option {letter}",
    "The answer is {text}.",
    "The correct answer is ({letter}) {text}.",
    "The answer is {letter}. {text}",
    "Answer: {text}",
    "I choose {text}",
    "<answer>{text}</answer>",
    "<think>It is heard.</think><answer>{letter}. {text}</answer>",
)
LETTERS = (
    "{letter}",
    "{letter}.",
    "The answer is {letter}.",
    r"\boxed{{{letter}}}",
    r"\[\boxed{{{letter}}}\]",
    '{{"answer": "{letter}"}}',
    "答案是{letter}",
)
REFUSALS = (
    "I'm sorry, but no audio was provided.",
    "I'm sorry, but I can't listen to audio. Please describe the sound, yes or no.",
    "As an AI language model, I cannot hear the clip, so there is no way to tell which one is right.",
    "There is no audio.",
    "There is only one clip and I can't play it.",
)


def mmau() -> list[tuple[str, ...]]:
    """The options of each row, as the data module shows them: each once."""
    rows = read_rows(SHARED / "mmau" / "mmau-test-mini.json")
    return [tuple({choice.strip().lower(): choice.strip() for choice in row["choices"]}.values()) for row in rows]


@cache
def music_avqa() -> tuple[tuple[tuple[str, ...], str], ...]:
    """The options of each question that is not purely visual, and its answer."""
    rows = json.loads(Path(SHARED / "music_avqa" / "avqa-test.json").read_text(encoding="utf-8"))
    heard = [row for row in rows if json.loads(row["type"])[0] != "Visual"]
    return tuple((answers_of(row["question_content"]), row["anser"].replace("_", " ")) for row in heard)


def readings(form: str, questions: Sequence[tuple[str, ...]]) -> Counter[str]:
    """How often an option that is said is read as itself, as another one, or as none."""
    found: Counter[str] = Counter()
    for options in questions:
        for index, text in enumerate(options):
            said = form.format(text=text, lower=text.lower(), letter="ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index])
            choice = match_option(said, options)
            found["right" if choice == index else "none" if choice is None else "wrong"] += 1
    return found


@needs_shared
@pytest.mark.parametrize("form", TEXTS)
def test_every_option_of_mmau_is_read(form: str) -> None:
    assert readings(form, mmau()) == Counter(right=3947)


@needs_shared
def test_an_article_before_an_option_is_no_label() -> None:
    """None is the option "Sharp and percussive" after "a": "A sharp" is a note."""
    assert readings("The answer is a {text}.", mmau()) == Counter(right=3946, none=1)


@needs_shared
def test_letters_of_mmau_are_labels_unless_options_are_notes() -> None:
    """8 letters are another option's whole text (a chord), 19 begin another one ("A" and "A:maj7")."""
    questions = mmau()
    assert {form: readings(form, questions) for form in LETTERS} == {
        form: Counter(right=3920, none=19, wrong=8) for form in LETTERS
    }


@needs_shared
def test_every_answer_of_music_avqa_is_read() -> None:
    kinds = sorted({options for options, _ in music_avqa()})
    for form in (*TEXTS, *LETTERS, "The answer is a {text}.", "It is {text}."):
        assert set(readings(form, kinds)) == {"right"}, form


@needs_shared
@pytest.mark.parametrize("said", REFUSALS)
def test_a_model_that_refuses_scores_nothing(said: str) -> None:
    read = Counter(match_option(said, options) for options, _ in music_avqa())
    assert read == Counter({None: 6758})
    assert Counter(match_option(said, options) for options in mmau()) == Counter({None: 1000})
