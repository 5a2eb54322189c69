"""What the teacher is sent of the student's completion."""

import math
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.teacher_tokens import AnswerTokens, TeacherTokens, refuse_strangers
from inference.token_bytes import token_bytes
from inference.token_spans import spread
from runtime.errors import UserError
from tests.support.tiny_model import CHAT, SPECIAL, build_tokenizer
from tests.support.tiny_vision_model import SPECIAL as OTHERS
from tests.support.tiny_vision_model import of_student

STUDENT = build_tokenizer(SPECIAL, CHAT)
END, AUDIO = STUDENT.convert_tokens_to_ids("<|im_end|>"), STUDENT.convert_tokens_to_ids("<|AUDIO|>")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def other(merges: list[tuple[str, str]], special: list[str] = OTHERS) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with merges of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = [*special, *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def test_ids_go_as_they_are_and_end_before_what_the_teacher_takes_for_a_picture() -> None:
    tokens = TeacherTokens(STUDENT, of_student())
    said = [*ids_of(STUDENT, "yes, rain"), END]
    assert tokens.agree
    assert tokens.translate(said).ids == said
    assert tokens.translate([*said[:3], AUDIO, *said]).ids == said[:3]  # 3 begins a picture there
    assert tokens.translate([AUDIO]).ids == [] and tokens.translate([99_999, *said]).ids == []


def test_other_vocabularies_are_aligned_by_bytes() -> None:
    teacher = other([("r", "a"), ("ra", "i"), ("y", "e")])
    tokens = TeacherTokens(STUDENT, teacher)
    said = [*ids_of(STUDENT, "yes rain"), END]  # yes|<space>|r|a|i|n|end
    assert not tokens.agree and len(said) == 7
    read = tokens.translate(said)
    letters = teacher.convert_ids_to_tokens(read.ids)
    assert letters == ["ye", "s", "\u0120", "rai", "n", "<|im_end|>"]
    # yes = ye + s: -3 - 1; r, a, i share rai: -4 - (-1 -1 -1) = -1 each beside their own -1
    found = spread(read.spans, [-2.0, -1.0, -1.0, -1.0, -1.0, -1.0, -5.0], [-3.0, -1.0, -7.0, -4.0, -8.0, -9.0])
    assert found == [-4.0, -7.0, -2.0, -2.0, -2.0, -8.0, -9.0]


def test_bytes_that_are_no_whole_letter_end_what_is_sent() -> None:
    tokens = TeacherTokens(STUDENT, other([]))
    half = ids_of(STUDENT, "aé")[:2]  # the letter has two bytes, one of which is there
    assert len(tokens.translate([*half, END]).ids) == 1
    assert math.isnan(spread(tokens.translate([*half, END]).spans, [-1.0] * 3, [-2.0])[2])


def test_control_tokens_without_a_namesake_end_what_is_sent() -> None:
    tokens = TeacherTokens(STUDENT, other([]))
    said = ids_of(STUDENT, "no")
    assert len(tokens.translate([*said, AUDIO, *said]).spans) == 1
    assert tokens.translate([*said, END]).ids[-1] == OTHERS.index("<|im_end|>")


def test_vocabularies_of_another_kind_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1, "<|im_end|>": 2}, unk_token="?"))
    strange = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>", unk_token="?")
    with pytest.raises(UserError, match="the teacher's tokenizer has no byte-level vocabulary"):
        TeacherTokens(STUDENT, strange)
    deaf = other([], special=["<|x|>"])
    with pytest.raises(UserError, match="has no tokens for what the student writes"):
        refuse_strangers(SilentTokens(STUDENT, deaf), STUDENT, "http://x")


class SilentTokens(TeacherTokens):
    """A teacher that reads nothing."""

    def translate(self, completion: Any) -> Any:
        """Return nothing."""
        return super().translate([])


def test_bytes_of_tokens() -> None:
    found = token_bytes(STUDENT, "it")
    assert b"".join(found[token] for token in ids_of(STUDENT, "yes é\n")) == "yes é\n".encode()
    assert END not in found and len(set(found.values())) == len(found) == 256 + 3


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<think>no</think><answer>a dog</answer> so", "a dog"),
        ("<answer>rain", "rain"),
        ("rain", ""),
        ("é<Answer>no</Answer>", "no"),
    ],
)
def test_tokens_of_the_answer(text: str, inside: str) -> None:
    ids = ids_of(STUDENT, text)
    places = AnswerTokens(STUDENT).places([*ids])
    assert STUDENT.decode([ids[at] for at in places]) == inside
