import pytest

from corpus.gates.words_of_sight import word_of_sight
from tests.support.written_questions import asked

OPTIONS = ("a dog", "a cat", "a violin", "rain")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("What is heard in the video?", "video"),
        ("Which animal do you SEE?", "see"),
        ("What happens in the last frame?", "frame"),
        ("Which sound fits the image?", "image"),
        ("What colour is the loud thing?", "colour"),
        ("What is the man wearing while he sings?", "wearing"),
        ("Which instrument is shown?", "shown"),
        ("What is visible and loud?", "visible"),
    ],
)
def test_questions_about_sight(text: str, word: str) -> None:
    assert word_of_sight(asked(text, *OPTIONS)).startswith(f"'{word}' in")


@pytest.mark.parametrize(
    "text",
    [
        "Which sound is heard in the audio?",
        "What does the engine sound like at the end?",
        "What seems to make the sound off-screen?",
        "Is the sea heard, or a seesaw?",
        "Which sound framed by silence is longest?",
        "Who imagines a picturesque place?",
    ],
)
def test_questions_about_sound_pass(text: str) -> None:
    assert word_of_sight(asked(text, *OPTIONS)) == ""


def test_options_count_too() -> None:
    assert "camera" in word_of_sight(asked("What clicks?", "a camera", "a dog"))
