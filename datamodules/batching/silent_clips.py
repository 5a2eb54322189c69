"""Questions with what is seen in their clips, as the teacher is asked them."""

from dataclasses import dataclass

from datamodules.media.audio import MediaError
from datamodules.media.media_files import is_lasting
from datamodules.media.video import FrameFolder, jpeg_base64
from records.records import Question


@dataclass(frozen=True)
class TeacherExample:
    """A question with what is seen in its clip.

    Attributes:
        question: The question.
        images: The frames in order, JPEG in base64.
        rate: How many of these frames there are in a second of the clip, or None when that cannot be said.
        error: Why there are none, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    images: tuple[str, ...] = ()
    rate: float | None = None
    error: str | None = None
    lasting: bool = True


def silent_clip(question: Question, clips: FrameFolder) -> TeacherExample:
    """Return a question with its frames, or with the reason why there are none.

    Args:
        question: The question.
        clips: Where its clip is and how it is sampled.
    """
    try:
        frames = clips.frames(question.media)
    except MediaError as error:
        return TeacherExample(question, error=str(error), lasting=is_lasting(error))
    return TeacherExample(question, tuple(jpeg_base64(frames.pixels, clips.sampling.quality)), frames.rate)
