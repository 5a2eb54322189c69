"""The student's completion in the teacher's tokens: as it is where their vocabularies agree, else by its bytes."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from inference.token_bytes import control_tokens, token_bytes
from inference.token_spans import Span, byte_spans
from records.reasoning_tags import answer_places
from runtime.errors import UserError


class Translation(NamedTuple):
    """A completion as a teacher reads it.

    Attributes:
        ids: Its tokens in the teacher's vocabulary, up to what the teacher has no token for.
        spans: Which of the student's tokens are which of these.
    """

    ids: list[int]
    spans: list[Span]


class TeacherTokens:
    """Puts the student's completions into the teacher's tokens.

    Attributes:
        agree: The student's ordinary tokens have the same ids in the teacher's vocabulary.
    """

    def __init__(self, student: Any, teacher: Any) -> None:
        """Compare the vocabularies.

        Args:
            student: The student's tokenizer.
            teacher: The teacher's.

        Raises:
            UserError: They disagree, and one of them is not byte-level, so that there is no common ground.
        """
        own, others = student.get_vocab(), teacher.get_vocab()
        special = control_tokens(student)
        self._same = {number for token, number in own.items() if others.get(token) == number}
        self.agree = all(number in self._same or number in special for number in own.values())
        self._teacher = teacher
        self._control = {number: others[token] for number, token in special.items() if token in others}
        self._bytes = {} if self.agree else token_bytes(student, "the student's tokenizer")
        self._their_bytes = {} if self.agree else token_bytes(teacher, "the teacher's tokenizer")

    def translate(self, completion: Sequence[int]) -> Translation:
        """Return a completion as the teacher reads it.

        Args:
            completion: The student's tokens. What follows the first control token that the teacher does not have, such
                as an audio placeholder, is left out: the teacher would read another token, or a picture.
        """
        if not self.agree:
            return self._by_bytes(completion)
        ids = list(itertools.takewhile(self._same.__contains__, completion))
        return Translation(ids, [Span(slice(at, at + 1), slice(at, at + 1)) for at in range(len(ids))])

    def _by_bytes(self, completion: Sequence[int]) -> Translation:
        """Write text anew in the teacher's tokens, and end where it does not come out as the same bytes."""
        written = [self._bytes[token] for token in itertools.takewhile(self._bytes.__contains__, completion)]
        end, said = len(written), b"".join(written)
        ids: list[int] = self._teacher(_whole_letters(said), add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        read = [self._their_bytes[token] for token in itertools.takewhile(self._their_bytes.__contains__, ids)]
        differs = (at for at, (one, other) in enumerate(zip(said, b"".join(read), strict=False)) if one != other)
        known = next(differs, len(said))
        spans, place = [], 0
        for span in byte_spans([len(token) for token in written], [len(token) for token in read]):
            place += sum(map(len, written[span.ours]))
            if place > known:
                break
            spans.append(span)
        whole = (spans[-1].ours.stop if spans else 0) == end
        ids = ids[: spans[-1].theirs.stop] if spans else []
        if whole and end < len(completion) and completion[end] in self._control:  # the end token, as a rule
            spans.append(Span(slice(end, end + 1), slice(len(ids), len(ids) + 1)))
            ids.append(self._control[completion[end]])
        return Translation(ids, spans)


class AnswerTokens:
    """Finds the tokens of a completion that are inside of its answer's tags."""

    def __init__(self, student: Any) -> None:
        """Learn what the student's tokens are as text.

        Args:
            student: Its tokenizer.

        Raises:
            UserError: It is not byte-level.
        """
        self._bytes = token_bytes(student, "the student's tokenizer")
        self._bytes |= {number: token.encode() for number, token in control_tokens(student).items()}

    def places(self, completion: Sequence[int]) -> list[int]:
        """Return where tokens are that have a byte inside of the answer's tags.

        Args:
            completion: The student's tokens.
        """
        written = [self._bytes.get(token, b"") for token in completion]
        inside = answer_places(b"".join(written).decode("latin-1"))  # a letter is a byte
        found, begin = [], 0
        for at, token in enumerate(written):
            end = begin + len(token)
            if any(begin < last and first < end for first, last in inside):
                found.append(at)
            begin = end
        return found


def _whole_letters(said: bytes) -> str:
    """Return bytes as text, up to a letter that they do not hold whole."""
    try:
        return said.decode()
    except UnicodeDecodeError as error:
        return said[: error.start].decode()


def refuse_strangers(tokens: TeacherTokens, student: Any, url: str) -> None:
    """Refuse a teacher that cannot read what the student writes.

    Args:
        tokens: How completions are put into its tokens.
        student: The student's tokenizer.
        url: Address of its server.

    Raises:
        UserError: Nothing of a plain text, or not its end token, can be scored.
    """
    ids: list[int] = [*student("A dog barks.", add_special_tokens=False)["input_ids"], student.eos_token_id]
    if len(tokens.translate(ids).spans) < 2:
        raise UserError(
            f"the teacher at {url} has no tokens for what the student writes: its tokenizer "
            "(model.distillation.tokenizer) is not that of a model which reads the same text"
        )
