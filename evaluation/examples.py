"""Examples for the report: what was heard, what the model thought and chose, what is right."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import soundfile

from answers.answers import extract_answer
from datamodules.media.audio import SAMPLE_RATE, ClipFolder, MediaError
from evaluation.checked import Answer
from records.reasoning_tags import shown_thoughts

_LONGEST_SECONDS = 30.0


@dataclass(frozen=True)
class Example:
    """One answered question, ready to be shown.

    Attributes:
        run: The run.
        benchmark: The benchmark's title.
        category: The question's category.
        verdict: ``right``, ``wrong``, ``unparseable`` or ``unknown``.
        id: The question's id.
        question: The question's text.
        options: The options as the model was shown them.
        chosen: The option that it chose, or None.
        correct: The right option, or None.
        reasoning: What it said inside of ``<think>``.
        answer: What it said in answer.
        audio: The clip as a data URL, or empty.
        silence: Why there is no clip, or empty.
    """

    run: str
    benchmark: str
    category: str
    verdict: str
    id: str
    question: str
    options: tuple[str, ...]
    chosen: str | None
    correct: str | None
    reasoning: str
    answer: str
    audio: str
    silence: str


def pick(answers: Sequence[Answer], count: int) -> list[Answer]:
    """Return some answers, as many right as wrong ones of each category as there are, in the file's order.

    Args:
        answers: The answers.
        count: How many.
    """
    buckets: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        if answer.prediction is not None:
            buckets.setdefault((answer.question.category, verdict(answer)), []).append(answer)
    turns = zip_longest(*(buckets[key] for key in sorted(buckets)))
    picked = [answer for turn in turns for answer in turn if answer is not None][:count]
    places = {answer.question.id: place for place, answer in enumerate(answers)}
    return sorted(picked, key=lambda answer: places[answer.question.id])


def verdict(answer: Answer) -> str:
    """Return ``right``, ``wrong``, ``unparseable``, or ``unknown`` where the right answer is not known."""
    if answer.chosen is None:
        return "unparseable"
    return "unknown" if not answer.labelled else "right" if answer.right else "wrong"


def make_example(run: str, title: str, answer: Answer, root: Path, embed_audio: bool = True) -> Example:
    """Return an answer ready to be shown.

    Args:
        run: The run.
        title: The benchmark's title.
        answer: The answer; it has a prediction.
        root: The benchmark's folder with its clips.
        embed_audio: Put the clip into the example.
    """
    assert answer.prediction is not None
    audio, silence = audio_url(root, answer.question.media) if embed_audio else ("", "clips were left out")
    completion = answer.prediction.completion
    return Example(
        run=run,
        benchmark=title,
        category=answer.question.category,
        verdict=verdict(answer),
        id=answer.question.id,
        question=answer.question.text,
        options=answer.prediction.options,
        chosen=answer.chosen,
        correct=answer.question.answer_text,
        reasoning=shown_thoughts(completion),
        answer=extract_answer(completion, answer.prediction.finished),
        audio=audio,
        silence=silence,
    )


def audio_url(root: Path, media: str) -> tuple[str, str]:
    """Return a clip as an MP3 in a data URL, or empty and the reason why there is none.

    Args:
        root: The benchmark's folder.
        media: The clip's path in it.
    """
    try:
        waveform = ClipFolder(root, _LONGEST_SECONDS, follow_links=True).load(media)
    except MediaError as error:
        return "", str(error).removeprefix(f"{root}/")
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), ""
