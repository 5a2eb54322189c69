"""Sound out of files, whatever they are called: mono float32 at the rate that it was kept at.

The content decides how a file is read. soundfile reads what keeps samples as they are (WAV, AIFF, AU, W64, ...), PyAV
everything else: containers, compressed audio, and WAV files that tell a wrong size. Both give the same samples for the
same sound; channels are mixed by their mean.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from datamodules.media.media_files import MediaError, check_media, is_of_the_machine, looks_like, undecodable

Piece = tuple[np.ndarray, int]
"""Mono float32 samples and their rate in Hz. A clip has one, or several where its rate changes on the way."""

DECODING_ERRORS = (
    av.FFmpegError,
    soundfile.SoundFileError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OSError,
    ArithmeticError,
    MemoryError,
)
"""What decoders raise for files that are broken in some way."""

_COMPRESSED = frozenset({"FLAC", "OGG", "MP3"})
_OF_KNOWN_LENGTH = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "flac"})
"""Containers that say how long the sound is; others have it estimated."""

_COMPLETE = 0.9
_PLANES = 8
"""PyAV 18 reads beyond the end of a frame with so many planes or more, which ends the process."""

_BITS = {"u1": 8, "i2": 16, "i4": 32, "i8": 64}


def decode_sound(path: Path, max_seconds: float | None = None) -> list[Piece]:
    """Decode a file's sound.

    Of several audio tracks the first one that is marked as default is taken, or else the first one. Gaps and late
    starts in a container's timestamps are not filled with silence; what the encoder put in front (priming) is left out.
    Damaged packets are skipped while there are few.

    Args:
        path: Any audio file or container with an audio track.
        max_seconds: A little more than so much of the beginning is enough.

    Raises:
        MediaError: The file is missing or no media file, has no audio track, is broken, or breaks off early.
    """
    check_media(path)
    try:
        # a second more than needed, so that resampling does not see the cut
        seconds = None if max_seconds is None else max_seconds + 1
        return _uncompressed(path, seconds) or _by_av(path, seconds)
    except MediaError:
        raise
    except DECODING_ERRORS as error:
        raise undecodable(path, "audio", error) from None


def _uncompressed(path: Path, seconds: float | None) -> list[Piece]:
    """Return what soundfile reads of a file that it knows and that has the samples its header tells of, or nothing."""
    with path.open("rb") as file:
        try:
            # by its descriptor, since soundfile and libsndfile would trust the name's suffix
            with soundfile.SoundFile(file.fileno(), closefd=False) as sound:
                if sound.format in _COMPRESSED or sound.subtype.startswith("MPEG") or sound.frames == 0:
                    return []
                frames = -1 if seconds is None else int(seconds * sound.samplerate)
                samples = sound.read(frames, dtype="float32", always_2d=True)
                rate = int(sound.samplerate)
                if len(samples) < (sound.frames if frames < 0 else min(frames, sound.frames)):
                    return []  # reading broke off, of which it does not say why
        except DECODING_ERRORS:
            return []
    return [(mono(samples.T), rate)] if len(samples) else []


def _by_av(path: Path, seconds: float | None) -> list[Piece]:
    with opened_sound(path) as container:
        stream = default_track(container, path)
        track = _Track(container, stream, seconds)
        pieces = [(mono(samples), rate) for samples, rate in track.pieces()]
        told_rate = int(stream.codec_context.sample_rate or 1)
    decoded = sum(samples.shape[-1] / rate for samples, rate in pieces)
    if track.damaged > track.sound:
        found = looks_like(path) or f"{track.damaged} of its packets are damaged"
        raise MediaError(f"{path}: the audio cannot be decoded ({found})")
    expected = track.expected_seconds
    if (track.damaged or track.missing) and expected is not None and decoded < _COMPLETE * expected:
        raise MediaError(
            f"{path}: the file is damaged or breaks off: {decoded:.1f} of {expected:.1f} s of sound can be decoded"
        )
    return pieces or [(np.zeros(0, dtype=np.float32), told_rate)]


class _Track:
    """An audio track while it is decoded.

    Attributes:
        sound: Packets that held sound.
        damaged: Packets that could not be decoded, or not as a whole.
        packets: All packets.
        told_packets: How many there should be; 0 where the container does not tell.
        expected_seconds: How much sound there should be, where the container tells.
    """

    def __init__(self, container: Any, stream: Any, seconds: float | None) -> None:
        self.container = container
        self.stream = stream
        self.seconds = seconds
        self.sound = 0
        self.damaged = 0
        self.packets = 0
        self.told_packets: int = stream.frames
        self.expected_seconds: float | None = None
        if container.format.name in _OF_KNOWN_LENGTH and stream.duration is not None:
            told = float(stream.duration * stream.time_base)
            self.expected_seconds = told if seconds is None else min(told, seconds)

    @property
    def missing(self) -> bool:
        """Whether the container tells of more packets than it holds; recordings with gaps are shorter and have all."""
        return self.packets < _COMPLETE * self.told_packets

    def pieces(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield samples ``[channels, N]``, float32, and their rate, for each stretch that has one format."""
        kind: tuple[str, int, int] | None = None
        blocks: list[np.ndarray] = []
        for frame in self._frames():
            found = frame.format.name, frame.layout.nb_channels, frame.sample_rate
            if found != kind and kind is not None:
                yield as_float32(blocks), kind[2]
                blocks = []
            kind = found
            blocks.append(samples_of(frame))
        if kind is not None:
            yield as_float32(blocks), kind[2]

    def _frames(self) -> Iterator[Any]:
        decoded = 0.0
        packets = self.container.demux(self.stream)
        while self.seconds is None or decoded < self.seconds:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                if is_of_the_machine(error):
                    raise  # the rest may be there another time
                self.damaged += 1
                return
            self.packets += packet.size > 0
            try:
                frames = packet.decode()
            except (av.FFmpegError, EOFError) as error:
                if is_of_the_machine(error):
                    raise
                self.damaged += 1
                continue
            self.sound += bool(frames)
            self.damaged += bool(packet.is_corrupt)
            for frame in frames:
                decoded += frame.samples / frame.sample_rate
                yield frame


def opened_sound(path: Path) -> Any:
    """Return a file's container, opened by FFmpeg."""
    options = {"protocol_whitelist": "file", **_after_id3(path)}
    # "file:", since FFmpeg takes what stands before a colon in a name for a protocol
    return av.open(f"file:{path}", metadata_errors="replace", options=options)


def default_track(container: Any, path: Path) -> Any:
    """Return the audio track that is heard.

    Raises:
        MediaError: There is none.
    """
    tracks = [track for track in container.streams.audio if track.codec_context is not None]
    if not tracks:
        raise MediaError(f"{path}: there is no audio track that can be decoded")
    return next((track for track in tracks if track.disposition & av.stream.Disposition.default), tracks[0])


def _after_id3(path: Path) -> dict[str, str]:
    """Return the option that skips a tag which stands before a WAV file, where FFmpeg does not expect one."""
    with path.open("rb") as file:
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            return {}
        size = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        file.seek(size)
        return {"skip_initial_bytes": str(size)} if file.read(4) in (b"RIFF", b"RF64") else {}


def samples_of(frame: Any) -> np.ndarray:
    """Return a frame's samples in its own format ``[channels, N]``."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= _PLANES:
        packed = av.AudioResampler(format=frame.format.packed, layout=frame.layout, rate=frame.sample_rate)
        return np.concatenate([part.to_ndarray().reshape(-1, channels) for part in packed.resample(frame)]).T
    samples: np.ndarray = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, channels).T


def as_float32(blocks: list[np.ndarray]) -> np.ndarray:
    """Return blocks of samples as one ``[channels, N]`` between -1 and 1."""
    samples = np.concatenate(blocks, axis=1)
    bits = _BITS.get(samples.dtype.str[1:])
    if bits is None:
        with np.errstate(over="ignore"):
            return samples.astype(np.float32, copy=False)
    floats: np.ndarray = samples.astype(np.float32)
    if bits == 8:  # unsigned
        floats -= 128
    floats /= np.float32(2 ** (bits - 1))
    return floats


def mono(samples: np.ndarray) -> np.ndarray:
    """Return the mean of the channels ``[channels, N]``."""
    if len(samples) == 1:
        return np.ascontiguousarray(samples[0])
    with np.errstate(over="ignore", invalid="ignore"):
        mixed = samples[0].copy()
        for channel in samples[1:]:
            mixed += channel
        mixed /= len(samples)
    return mixed
