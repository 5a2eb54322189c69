"""Clips as the one waveform that everything else uses: mono float32 at 16 kHz.

The trainer's feature extractor and the rollout server get these very samples, so a clip is decoded in one way only:
decord reads containers (mp4, mkv, webm, ...), soundfile reads audio files, torchaudio resamples.
"""

import base64
import contextlib
import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
import torchaudio

from datamodules.records import UserError

SAMPLE_RATE = 16_000
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3"})

WavFormat = Literal["pcm16", "float32"]
"""How the samples of a WAV file are written: as 16-bit integers, which every server reads, or as 32-bit floats."""

MIN_SAMPLES = 400
"""Fewest samples that can be heard: one analysis window of 25 ms."""

_COMMON_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)
_CACHE_VERSION = 1


class MediaError(UserError):
    """A clip cannot be used; the message names the file."""


def resolve_media(root: str | os.PathLike[str], relative: str, follow_links: bool = False) -> Path:
    """Return the path of a clip inside ``root``.

    Args:
        root: The media folder.
        relative: The clip's path as the annotations name it.
        follow_links: Accept a symbolic link that leads out of ``root``.

    Raises:
        MediaError: The path leads out of ``root``, by being absolute, by ``..`` or by a symbolic link.
    """
    if not relative or "\0" in relative:
        raise MediaError(f"{relative!r} is not a path of a clip")
    path = Path(os.path.normpath(relative))
    if path.is_absolute():
        raise MediaError(f"{relative}: the path of a clip must be relative to {root}, this one is absolute")
    if path.parts[:1] == ("..",):
        raise MediaError(f"{relative}: the path of a clip must stay inside {root}, this one leads out of it")
    joined = Path(root) / path
    if not follow_links and not joined.resolve().is_relative_to(Path(root).resolve()):
        raise MediaError(f"{relative}: a symbolic link leads out of {root}; set follow_links to accept that")
    return joined


def load_waveform(path: str | os.PathLike[str], max_seconds: float | None = None) -> np.ndarray:
    """Decode a clip to mono float32 at 16 kHz.

    Stereo is mixed to mono: audio files by the mean of the channels, containers by decord as ``(L + R) / sqrt(2)``.

    Args:
        path: An audio file (wav, flac, ogg, mp3) or a container with an audio track (mp4, mkv, webm, ...).
        max_seconds: Keep only so much of the beginning.

    Raises:
        MediaError: The file is missing, is corrupt, has no audio track, is empty or contains NaN or infinite samples.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"{path}: the file is missing")
    if not path.is_file():
        raise MediaError(f"{path}: this is not a file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty")
    read = _read_audio_file if path.suffix.lower() in AUDIO_SUFFIXES else _read_container
    samples, rate = read(path, max_seconds)
    if not np.isfinite(samples).all():
        raise MediaError(f"{path}: the audio contains NaN or infinite samples")
    if rate != SAMPLE_RATE:
        samples = torchaudio.functional.resample(torch.from_numpy(samples), rate, SAMPLE_RATE).numpy()
    if max_seconds is not None:
        samples = samples[: round(max_seconds * SAMPLE_RATE)]
    if len(samples) < MIN_SAMPLES:
        raise MediaError(f"{path}: the audio is too short to be heard ({len(samples) / SAMPLE_RATE * 1000:.1f} ms)")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _read_audio_file(path: Path, max_seconds: float | None) -> tuple[np.ndarray, int]:
    try:
        with soundfile.SoundFile(path) as file:
            # a second more than needed, so that resampling does not see the cut
            frames = -1 if max_seconds is None else int((max_seconds + 1) * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise MediaError(f"{path}: the audio cannot be decoded ({_one_line(error)})") from None
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1), rate


def _read_container(path: Path, max_seconds: float | None) -> tuple[np.ndarray, int]:
    import decord

    def decode(rate: int) -> np.ndarray:
        # mono=False hands out wrong samples for the second channel, so decord has to mix
        return decord.AudioReader(str(path), sample_rate=rate, mono=True)._array[0]

    try:
        samples = decode(-1)
        # decord does not tell the native rate and its own resampler shifts the signal, so that the rate is found from
        # a second reading's length
        resampled_length = len(decode(SAMPLE_RATE))
    except (decord.DECORDError, RuntimeError) as error:
        text = str(error)
        if "audio stream" in text:
            raise MediaError(f"{path}: there is no audio track that can be decoded") from None
        raise MediaError(f"{path}: the container cannot be decoded ({_one_line(error)})") from None
    if len(samples) == 0 or resampled_length == 0:
        raise MediaError(f"{path}: the audio track is empty")
    rate = len(samples) * SAMPLE_RATE / resampled_length
    nearest = min(_COMMON_RATES, key=lambda common: abs(common - rate))
    rate = nearest if abs(rate / nearest - 1) < 0.02 else round(rate)
    if max_seconds is not None:
        samples = samples[: int((max_seconds + 1) * rate)]
    return samples.copy(), rate


def _one_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    # decord puts time and source line in front of the message
    return text[0].split("] ", 1)[-1].split(".cc:", 1)[-1].split(": ", 1)[-1].rstrip(".") if text else "no message"


def wav_bytes(waveform: np.ndarray, wav_format: WavFormat = "float32") -> bytes:
    """Return a waveform as a WAV file at 16 kHz; from 32-bit floats soundfile reads the samples back exactly.

    Args:
        waveform: Mono float32 at 16 kHz.
        wav_format: How samples are written.
    """
    buffer = io.BytesIO()
    subtype = {"pcm16": "PCM_16", "float32": "FLOAT"}[wav_format]
    soundfile.write(buffer, waveform.astype(np.float32, copy=False), SAMPLE_RATE, format="WAV", subtype=subtype)
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

    Several processes may use one folder: files are written beside their place and moved there in one step.
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
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=".partial", delete=False) as partial:
            try:
                np.save(partial, waveform)
            except BaseException:
                os.unlink(partial.name)
                raise
        os.replace(partial.name, place)
        return waveform

    def place(self, path: str | os.PathLike[str], max_seconds: float | None = None) -> Path:
        """Return where a clip's waveform is kept.

        Raises:
            MediaError: The clip is missing.
        """
        try:
            stat = os.stat(path)
        except OSError:
            raise MediaError(f"{path}: the file is missing") from None
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
