"""Whether all prompts of a run fit into the servers: found out before the first step, without decoding clips twice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.audio_qa import AudioQADataModule, Role
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.collate import Collator
from datamodules.media.audio import SAMPLE_RATE, MediaError
from inference.vllm.pooled_server import PooledServer
from records.records import Question
from runtime.errors import UserError

_ROUNDED = 0.005
"""Seconds by which a remembered length may be wrong."""


@dataclass(frozen=True)
class TooLong:
    """A prompt that does not fit.

    Attributes:
        question: The question.
        tokens: Tokens of its prompt, audio included.
    """

    question: Question
    tokens: int


def check_questions(data: AudioQADataModule, role: Role, new_tokens: int, servers: Sequence[PooledServer]) -> None:
    """Refuse a dataset some of whose prompts no server has room for; all ranks find the same.

    Args:
        data: The DataModule.
        role: What its questions are for.
        new_tokens: Longest completion.
        servers: The servers.

    Raises:
        UserError: There are such questions; it says which and what can be done.
    """
    if not (limits := _limits(servers)):
        return
    limit, url = min(limits)
    questions = data.asked(role)
    if found := too_long(questions, data.collator, limit - new_tokens, data.clip_seconds, data.load):
        raise UserError(sentence(found, len(questions), limit - new_tokens, new_tokens, url))


def check_batch(batch: AudioQABatch, new_tokens: int, servers: Sequence[PooledServer]) -> None:
    """Refuse a batch that does not fit into every server.

    Args:
        batch: The batch.
        new_tokens: Longest completion.
        servers: The servers.

    Raises:
        UserError: It does not fit.
    """
    longest = int(batch.prompt_lengths.max())
    needed = longest + new_tokens
    for limit, url in _limits(servers):
        if needed > limit:
            raise UserError(
                f"a prompt of {longest} tokens and {new_tokens} new ones do not fit into the {limit} tokens of {url}: "
                f"lower max_new_tokens or start the server with --max-model-len {needed}"
            )


def too_long(
    questions: Sequence[Question],
    collator: Collator,
    most: int,
    seconds: Callable[[Question], float | None],
    load: Callable[[Question], np.ndarray],
) -> list[TooLong]:
    """Return the questions whose prompts have more tokens than fit, the longest first.

    A token of a byte-level tokenizer has a byte at least, so that most prompts are seen to fit without being tokenized.
    A clip is decoded only where its length decides and is not known well enough.

    Args:
        questions: The questions as they are asked.
        collator: Makes the prompts.
        most: Tokens that a prompt may have.
        seconds: Length of a question's clip as far as it is used, to a hundredth; None where it is unknown.
        load: Decodes a question's clip.
    """
    if not questions:
        return []
    around = _bytes(collator.text(questions[0])) - _bytes(collator.prompt.render(questions[0]))  # of the chat template
    longest_audio = collator.num_audio_tokens(collator.max_samples)
    found = []
    for question in questions:
        if around + _bytes(collator.prompt.render(question)) + longest_audio <= most:
            continue
        text = len(collator.request_ids(question)) - 1  # without the placeholder
        known = seconds(question)
        if known is None:
            least, largest = 1, longest_audio
        else:
            least, largest = (
                collator.num_audio_tokens(round((known + wrong) * SAMPLE_RATE)) for wrong in (-_ROUNDED, _ROUNDED)
            )
        if text + largest <= most:
            continue
        if text + least <= most:
            try:
                largest = collator.num_audio_tokens(len(load(question)))
            except MediaError:
                continue  # named by the loader
        if text + largest > most:
            found.append(TooLong(question, text + largest))
    return sorted(found, key=lambda one: -one.tokens)


def sentence(found: Sequence[TooLong], total: int, most: int, new_tokens: int, url: str) -> str:
    """Say which prompts are too long and what can be done.

    Args:
        found: The prompts.
        total: Of so many.
        most: Tokens that a prompt may have.
        new_tokens: Longest completion.
        url: The server whose limit it is.
    """
    names = ", ".join(one.question.id for one in found[:5]) + (", ..." if len(found) > 5 else "")
    needed = found[0].tokens + new_tokens
    return (
        f"{len(found)} of {total} questions do not fit into the {most + new_tokens} tokens of {url} ({names}): the "
        f"longest prompt has {found[0].tokens} tokens, audio included, and max_new_tokens is {new_tokens}. Start the "
        f"server with --max-model-len {needed}, lower max_new_tokens, or leave these questions out of the data"
    )


def _limits(servers: Sequence[PooledServer]) -> list[tuple[int, str]]:
    """Return how many tokens each server has room for, where it says so, and its address."""
    return [(s.info.max_model_len, s.url) for s in servers if s.info and s.info.max_model_len]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
