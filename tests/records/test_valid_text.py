"""Half an emoji, wherever it comes from, becomes U+FFFD; what belongs together is joined."""

from typing import Any

import pytest

from records.valid_text import valid_text, valid_texts


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a dog \ud83d", "a dog \ufffd"),
        ("\ude00 a dog", "\ufffd a dog"),
        ("\ud83d\ude00", "\N{GRINNING FACE}"),  # cut in two by a stream, and put together again
        ("\ud83d\ud83d\ude00x", "\ufffd\N{GRINNING FACE}x"),
        ("日本語 \N{GRINNING FACE} e\u0301", "日本語 \N{GRINNING FACE} e\u0301"),
    ],
)
def test_text(text: str, right: str) -> None:
    assert valid_text(text) == right
    valid_text(text).encode("utf-8")


def test_values() -> None:
    row: dict[str, Any] = {"id": 1, "choices": ["a", "\ud83d", None], "more": {"\udfff": [2.5, "x"]}}
    assert valid_texts(row) == {"id": 1, "choices": ["a", "\ufffd", None], "more": {"\ufffd": [2.5, "x"]}}
    good = {"id": 1, "choices": ["a", "b"], "more": {"k": [2.5, "x"]}}
    assert valid_texts(good) is good  # so that who asks can tell that nothing was wrong
