"""The bytes that tokens stand for, in byte-level vocabularies (GPT-2's way, which Qwen's and Llama 3's are of)."""

from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from runtime.errors import UserError


def token_bytes(tokenizer: Any, name: str) -> dict[int, bytes]:
    """Return the bytes of each ordinary token by its id; control tokens such as ``<|im_end|>`` are none.

    Args:
        tokenizer: A tokenizer of transformers.
        name: What it is called in messages.

    Raises:
        UserError: Its vocabulary is not byte-level.
    """
    if not is_byte_level(tokenizer):
        raise UserError(
            f"{name} has no byte-level vocabulary, so that its tokens' bytes are not known and the teacher's scores "
            "cannot be aligned with the student's tokens: use a teacher with the student's vocabulary"
        )
    special = control_tokens(tokenizer)
    letters = _letters()
    return {
        number: bytes(letters[letter] for letter in token)
        for token, number in tokenizer.get_vocab().items()
        if number not in special and all(letter in letters for letter in token)
    }


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Return tokens that were added to the vocabulary, such as ``<|im_end|>``, by id.

    Args:
        tokenizer: A tokenizer of transformers.
    """
    return {int(number): str(token) for number, token in tokenizer.added_tokens_decoder.items()}


def is_byte_level(tokenizer: Any) -> bool:
    """Tell whether each ordinary token stands for bytes of the text, spaces included.

    Args:
        tokenizer: A tokenizer of transformers.
    """
    fast = isinstance(tokenizer, PreTrainedTokenizerFast)
    return fast and "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)


def _letters() -> dict[str, int]:
    """Which byte each letter of a byte-level vocabulary stands for.

    Printable bytes are their own letters; the others have, in their order, letters beyond the 255th.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = {letter: ord(letter) for letter in alphabet if ord(letter) < 256}
    hidden = sorted(set(range(256)) - set(known.values()))
    return known | dict(zip((letter for letter in alphabet if ord(letter) >= 256), hidden, strict=True))
