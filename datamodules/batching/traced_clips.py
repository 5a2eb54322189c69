"""Traces with the true sound of the clip that they are about, as the checker is asked them."""

from dataclasses import dataclass

from datamodules.media.audio import ClipFolder, MediaError, WavFormat, wav_base64
from datamodules.media.media_files import is_lasting
from records.records import Question, Trace


@dataclass(frozen=True)
class TracedClip:
    """The traces of one question with the sound of its clip.

    Attributes:
        question: The question.
        traces: Its traces.
        wav: The clip as a WAV file in base64.
        error: Why there is none, or None.
        lasting: Whether the same would be found later: False where the machine was at fault and not the file.
    """

    question: Question
    traces: tuple[Trace, ...]
    wav: str = ""
    error: str | None = None
    lasting: bool = True


def traced_clip(
    question: Question, traces: dict[str, list[Trace]], clips: ClipFolder, wav_format: WavFormat
) -> TracedClip:
    """Return the traces of a question with its clip, or with the reason why there is none.

    Args:
        question: The question.
        traces: Traces by their question's id.
        clips: Where its clip is.
        wav_format: How samples are written.
    """
    these = tuple(traces[question.id])
    try:
        waveform = clips.load(question.media)
    except MediaError as error:
        return TracedClip(question, these, error=str(error), lasting=is_lasting(error))
    return TracedClip(question, these, wav_base64(waveform, wav_format))
