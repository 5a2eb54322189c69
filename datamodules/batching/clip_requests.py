"""Questions with what is sent of their clips to a model behind an endpoint: sound, silent frames, or both."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from datamodules.media.audio import MediaError, WavFormat, wav_base64
from datamodules.media.media_files import is_lasting
from datamodules.media.probes import Clips
from datamodules.media.video import FrameFolder, FrameSampling, jpeg_base64
from datamodules.prompts.questions import Modalities, Prompt
from records.records import Question


@dataclass(frozen=True)
class RequestSettings:
    """What is sent of a clip.

    Attributes:
        modalities: The sound (``audio``), silent frames (``video``), or both (``audio_video``).
        frames: Which frames of a clip are sent, and how large.
        wav_format: How the samples are sent: 16-bit integers, which every server reads, or 32-bit floats.
    """

    modalities: Modalities = "audio"
    frames: FrameSampling = field(default_factory=FrameSampling)
    wav_format: WavFormat = "pcm16"

    @property
    def hears(self) -> bool:
        """True where the sound is sent."""
        return self.modalities != "video"

    @property
    def sees(self) -> bool:
        """True where frames are sent."""
        return self.modalities != "audio"


@dataclass(frozen=True)
class ClipRequest:
    """A question as it is sent to an endpoint.

    Attributes:
        question: The question.
        text: The text that asks it.
        wav: The clip's sound as a WAV file in base64, or empty.
        images: Frames of the clip in order, JPEG in base64.
        rate: How many of these frames there are in a second of the clip, or None when that cannot be said.
        error: Why the clip cannot be sent, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    text: str
    wav: str = ""
    images: tuple[str, ...] = ()
    rate: float | None = None
    error: str | None = None
    lasting: bool = True


@dataclass
class ClipRequests:
    """A batch: questions for an endpoint.

    Attributes:
        items: The questions.
    """

    items: list[ClipRequest]

    @property
    def questions(self) -> list[Question]:
        """The questions alone."""
        return [item.question for item in self.items]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.items)

    def to(self, device: Any, non_blocking: bool = False) -> "ClipRequests":
        """Return the batch as it is: it goes to another machine."""
        return self


def clip_request(
    question: Question,
    prompt: Prompt,
    settings: RequestSettings,
    heard: Clips,
    seen: FrameFolder,
    answered: Collection[str] = (),
) -> ClipRequest:
    """Return a question with its clip, or with the reason why there is none.

    Args:
        question: The question.
        prompt: How it is asked.
        settings: What is sent of a clip.
        heard: Gives the sound of a clip.
        seen: Gives its frames; never opens its sound.
        answered: Ids of questions that were answered before: their clips are not decoded.
    """
    text = prompt.render(question)
    if question.id in answered:
        return ClipRequest(question, text)
    wav = ""
    images: tuple[str, ...] = ()
    rate: float | None = None
    try:
        if settings.sees:
            frames = seen.frames(question.media)
            images, rate = tuple(jpeg_base64(frames.pixels, settings.frames.quality)), frames.rate
        if settings.hears:
            wav = wav_base64(heard.load(question.media), settings.wav_format)
    except MediaError as error:
        return ClipRequest(question, text, error=str(error), lasting=is_lasting(error))
    return ClipRequest(question, text, wav, images, rate)
