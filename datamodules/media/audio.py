"""Clips as the one waveform that everything else uses: mono float32 at 16 kHz.

The trainer's feature extractor and the rollout server get these very samples, so a clip is decoded in one way only.
"""

import base64
import contextlib
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile

from datamodules.media.media_files import MediaError as MediaError
from datamodules.media.media_files import resolve_media as resolve_media
from datamodules.media.media_files import undecodable, unreadable
from datamodules.media.resampling import SAMPLE_RATE as SAMPLE_RATE
from datamodules.media.resampling import resample
from datamodules.media.sound_decoding import decode_sound
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

    def load(self, path: str | os.PathLike[str], max_seconds: float | None = None) -> np.ndarray:
        """Do the same as :func:`load_waveform`, decoding only what is not kept yet.

        Raises:
            MediaError: As :func:`load_waveform` does.
        """
        place = self.place(path, max_seconds)
        if place.exists():
            with contextlib.suppress(ValueError, OSError, EOFError):  # a damaged file is decoded and written again
                waveform = np.load(place, allow_pickle=False)
                if waveform.dtype == np.float32 and waveform.ndim == 1 and len(waveform) >= MIN_SAMPLES:
                    return waveform
        waveform = load_waveform(path, max_seconds)
        with whole_file(place) as partial, open(partial, "wb") as file:
            np.save(file, waveform)
        return waveform

    def place(self, path: str | os.PathLike[str], max_seconds: float | None = None) -> Path:
        """Return where a clip's waveform is kept.

        Raises:
            MediaError: The clip is missing or cannot be read.
        """
        try:
            stat = os.stat(path)
        except OSError as error:
            raise unreadable(path, error) from None
        what = (_CACHE_VERSION, os.path.abspath(path), stat.st_size, stat.st_mtime_ns, max_seconds)
        key = hashlib.sha256(repr(what).encode()).hexdigest()
        return self.directory / key[:2] / f"{key[2:]}.npy"


@dataclass(frozen=True)
class ClipFolder:
    """The clips of a dataset, and how they are read.

    Attributes:
        root: The dataset's folder.
        max_seconds: Seconds of a clip that are used; None for all.
        cache_dir: Folder that keeps decoded waveforms; None decodes each time.
        follow_links: Accept symbolic links that lead out of ``root``.
    """

    root: Path
    max_seconds: float | None = None
    cache_dir: str | None = None
    follow_links: bool = False

    def path(self, media: str) -> Path:
        """Return the path of a clip.

        Raises:
            MediaError: The path leads out of ``root``.
        """
        return resolve_media(self.root, media, self.follow_links)

    def decode(self, path: Path) -> np.ndarray:
        """Return the waveform of the clip at a path, from the cache where there is one.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        if self.cache_dir:
            return WaveformCache(self.cache_dir).load(path, self.max_seconds)
        return load_waveform(path, self.max_seconds)

    def load(self, media: str) -> np.ndarray:
        """Return the waveform of a clip.

        Raises:
            MediaError: The clip cannot be decoded, or its path leads out of ``root``.
        """
        return self.decode(self.path(media))
