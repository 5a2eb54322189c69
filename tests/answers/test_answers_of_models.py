"""Answers as models write them, and what a careful reader makes of them: the tables are in ``answer_cases``."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from answers.answers import match_option


def cases() -> Iterator[tuple[str, tuple[str, ...], int | None]]:
    """What is said, the options, and the option that is meant."""
    for table in sorted((Path(__file__).parent / "answer_cases").glob("*.txt")):
        options: tuple[str, ...] = ()
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.endswith(" |"):
                options = tuple(line.removesuffix(" |").split(" | "))
            elif line.startswith("    "):
                said, _, meant = line.strip().rpartition(" => ")
                yield said.replace("⏎", "\n"), options, None if meant == "-" else options.index(meant)


@pytest.mark.parametrize(("said", "options", "choice"), list(cases()))
def test_what_a_careful_reader_reads(said: str, options: tuple[str, ...], choice: int | None) -> None:
    assert match_option(said, options) == choice


def test_there_are_many_cases() -> None:
    assert len(list(cases())) >= 700


@pytest.mark.parametrize(
    "said",
    [
        *("x" * 50_000, "<think>" * 5000, "<answer>" * 5000, "(A) " * 5000, "\\boxed{" * 3000, "a " * 20_000),
        *("answer is " * 3000, "not " * 5000 + "dog " * 3000, '"answer": "' * 3000, "1,000" * 4000, "9" * 20_000),
        *("one hundred and " * 3000, "whether " * 4000 + "dog", "\\text{" * 3000 + "}" * 3000, "~~" * 5001),
    ],
    ids=lambda said: said[:12],
)
def test_endless_repetitions_take_no_time(said: str) -> None:
    """What a broken model repeats is read within a second, where the usual answer takes 50 to 100 microseconds."""
    begun = time.process_time()
    match_option(said, ("dog", "cat", "one", "100"))
    assert time.process_time() - begun < 1


def test_odd_characters_are_read() -> None:
    """Half an emoji, control characters and digits of other scripts raise nothing."""
    for odd in ("\ud83d", "\x00", "\u2028", "٣", "²", "½", "①", "\u202e", "İ", "ß", "Ⅳ", "𝐁"):
        for said in (odd, f"{odd} dog", f"The answer is {odd}", f"<answer>{odd}</answer>", f"more than {odd}"):
            match_option(said, ("dog", odd, "3"))
    assert match_option("dog \ud83d", ("dog", "cat")) == 0
