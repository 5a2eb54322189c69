"""Clips as the one waveform that everything else uses: mono float32 at 16 kHz.

The trainer's feature extractor and the rollout server get these very samples, so a clip is decoded in one way only.
"""

import base64
import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from datamodules.media.media_files import MediaError as MediaError
from datamodules.media.media_files import PastTheEndError, undecodable, unreadable
from datamodules.media.media_files import resolve_media as resolve_media
from datamodules.media.resampling import SAMPLE_RATE as SAMPLE_RATE
from datamodules.media.resampling import resample
from datamodules.media.segments import Place, Segment, file_of, key_of, segment_of
from datamodules.media.sound_decoding import decode_sound
from datamodules.media.sound_segment import decode_sound_segment
from records.clips import Clip
from runtime.whole_file import whole_file

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".au", ".w64", ".wma", ".ac3"}
)
"""By which audio files are found in a folder. How a file is read depends on its content alone."""

WavFormat = Literal["pcm16", "float32"]
"""How the samples of a WAV file are written: as 16-bit integers, which every server reads, or as 32-bit floats."""

MIN_SAMPLES = 400
"""Fewest samples that can be heard: one analysis window of 25 ms."""

_CACHE_VERSION = 2
"""Raise it when the same file gives other samples than before."""


def load_waveform(path: str | os.PathLike[str], max_seconds: float | None = None) -> np.ndarray:
    """Decode a clip to mono float32 at 16 kHz.

    The same sound gives the same samples whatever holds it; channels are mixed to mono by their mean.

    Args:
        path: An audio file (wav, flac, ogg, mp3, ...) or a container with an audio track (mp4, mkv, webm, ...). Its
            name tells nothing: the content decides.
        max_seconds: Keep only so much of the beginning.

    Raises:
        MediaError: The file is missing, is corrupt, has no audio track, is empty, contains NaN or infinite samples, or
            is kept at a rate that cannot be right.
    """
    path = Path(path)
    pieces = decode_sound(path, max_seconds)
    if not all(np.isfinite(samples).all() for samples, _ in pieces):
        raise MediaError(f"{path}: the audio contains NaN or infinite samples")
    try:
        samples = np.concatenate([resample(samples, rate) for samples, rate in pieces])
    except (ValueError, RuntimeError, MemoryError) as error:
        raise undecodable(path, "audio", error) from None
    if max_seconds is not None:
        samples = samples[: round(max_seconds * SAMPLE_RATE)]
    if len(samples) < MIN_SAMPLES:
        raise MediaError(f"{path}: the audio is too short to be heard ({len(samples) / SAMPLE_RATE * 1000:.1f} ms)")
    return np.ascontiguousarray(samples, dtype=np.float32)


def load_segment(segment: Segment, max_seconds: float | None = None) -> np.ndarray:
    """Decode a part of a file to mono float32 at 16 kHz; what lies before and behind it is not decoded.

    Args:
        segment: The part.
        max_seconds: Keep only so much of its beginning.

    Raises:
        MediaError: As for :func:`load_waveform`, or the file has no sound there.
    """
    seconds = segment.seconds if max_seconds is None else min(segment.seconds, max_seconds)
    with segment.opened() as path:
        samples = decode_sound_segment(path, segment.start, segment.start + seconds)
    if len(samples) < MIN_SAMPLES:
        raise PastTheEndError(f"{segment}: the file has no sound there that can be heard ({len(samples)} samples)")
    return samples


def load_place(place: Place, max_seconds: float | None = None) -> np.ndarray:
    """Decode a file or a part of one, as :func:`load_waveform` and :func:`load_segment` do.

    Raises:
        MediaError: As they do.
    """
    return load_segment(place, max_seconds) if isinstance(place, Segment) else load_waveform(place, max_seconds)


def wav_bytes(waveform: np.ndarray, wav_format: WavFormat = "float32") -> bytes:
    """Return a waveform as a WAV file at 16 kHz; from 32-bit floats soundfile reads the samples back exactly.

    16-bit integers cannot hold samples beyond 1, which lossy codecs make: such a clip is made as quiet as it takes,
    since cutting its peaks off would be heard as distortion.

    Args:
        waveform: Mono float32 at 16 kHz.
        wav_format: How samples are written.
    """
    buffer = io.BytesIO()
    subtype = {"pcm16": "PCM_16", "float32": "FLOAT"}[wav_format]
    waveform = waveform.astype(np.float32, copy=False)
    if wav_format == "pcm16" and (peak := np.abs(waveform).max(initial=0.0)) > 1.0:
        waveform = waveform / peak
    soundfile.write(buffer, waveform, SAMPLE_RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


def wav_base64(waveform: np.ndarray, wav_format: WavFormat) -> str:
    """Return a waveform as a WAV file in base64.

    Args:
        waveform: Mono float32 at 16 kHz.
        wav_format: How samples are written.
    """
    return base64.b64encode(wav_bytes(waveform, wav_format)).decode("ascii")


def audio_part(wav: str) -> dict[str, Any]:
    """Return a WAV file (base64) as a part of a message in the terms of the chat API."""
    return {"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}}


class WaveformCache:
    """Decoded waveforms on disk, found again by the clip's path, size and time of change.

    For students that are quicker than the decoder: ten seconds of an MP4 file take 80 ms of a core to decode and one to
    read here, and ``make mini`` reads the same clips in ten stages. Several processes may use one folder.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Use a folder.

        Args:
            directory: Where the waveforms are kept; about 640 kB for ten seconds.
        """
        self.directory = Path(directory)

    def load(self, clip: Place, max_seconds: float | None = None) -> np.ndarray:
        """Do the same as :func:`load_place`, decoding only what is not kept yet.

        Raises:
            MediaError: As :func:`load_place` does.
        """
        place = self.place(clip, max_seconds)
        if place.exists():
            with contextlib.suppress(ValueError, OSError, EOFError):  # a damaged file is decoded and written again
                waveform = np.load(place, allow_pickle=False)
                if waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) >= MIN_SAMPLES:
                    return waveform
        waveform = load_place(clip, max_seconds)
        with whole_file(place) as partial, open(partial, "wb") as file:
            np.save(file, waveform)
        return waveform

    def place(self, clip: Place, max_seconds: float | None = None) -> Path:
        """Return where a clip's waveform is kept.

        Raises:
            MediaError: The clip is missing or cannot be read.
        """
        try:
            stat = os.stat(file_of(clip))
        except OSError as error:
            raise unreadable(file_of(clip), error) from None
        what = (_CACHE_VERSION, key_of(clip), stat.st_size, stat.st_mtime_ns, max_seconds)
        key = hashlib.sha256(repr(what).encode()).hexdigest()
        return self.directory / key[:2] / f"{key[2:]}.npy"


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a dataset, and how they are read.

    Attributes:
        root: The folder that the clips' paths are relative to.
        max_seconds: Seconds of a clip that are used; None for all.
        cache_dir: Folder that keeps decoded waveforms; None decodes each time.
        follow_links: Accept symbolic links that lead out of ``root``.
        corpus: Clips of a corpus by their ids. Clips are then named by these, and are parts of files below ``root``;
            None where each clip is a file of its own.
    """

    root: Path
    max_seconds: float | None = None
    cache_dir: str | None = None
    follow_links: bool = False
    corpus: Mapping[str, Clip] | None = None

    def path(self, media: str) -> Path:
        """Return the path of the file that holds a clip.

        Raises:
            MediaError: The path leads out of ``root``, or the corpus has no such clip.
        """
        return file_of(self.place(media))

    def place(self, media: str) -> Place:
        """Return where a clip is: a file, or of a corpus a part of one.

        Raises:
            MediaError: As for ``path``.
        """
        if self.corpus is None:
            return resolve_media(self.root, media, self.follow_links)
        clip = segment_of(self.corpus, media)
        file = resolve_media(self.root, clip.path, self.follow_links)
        return Segment(file, clip.start, clip.end, clip.member, clip.offset, clip.size)

    def decode(self, place: Place) -> np.ndarray:
        """Return the waveform of the clip at a place, from the cache where there is one.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        if self.cache_dir:
            return WaveformCache(self.cache_dir).load(place, self.max_seconds)
        return load_place(place, self.max_seconds)

    def load(self, media: str) -> np.ndarray:
        """Return the waveform of a clip.

        Raises:
            MediaError: The clip cannot be decoded, or its path leads out of ``root``.
        """
        return self.decode(self.place(media))
