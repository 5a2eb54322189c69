"""Sound written by FFmpeg's encoders into its containers, with PyAV."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_sound(
    path: Path,
    tracks: list[np.ndarray],
    codec: str,
    container: str | None = None,
    rate: int = 16_000,
    default: int | None = None,
    metadata: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Write tracks of sound and return the path.

    Args:
        path: Where.
        tracks: Samples of each track ``[N]`` or ``[channels, N]``.
        codec: FFmpeg's name of the encoder.
        container: FFmpeg's name of the container; by default the path's suffix decides.
        rate: Of all tracks.
        default: The track that is marked as the default one; by default the container decides.
        metadata: Tags.
        **options: The container's options. ``quality`` is the encoder's, for a variable bit rate.
    """
    quality = options.pop("quality", None)
    with av.open(str(path), "w", format=container, options=options) as file:
        file.metadata.update(metadata or {})
        streams = []
        for number, samples in enumerate(tracks):
            channels = np.atleast_2d(samples)
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(channels)]
            stream: Any = file.add_stream(codec, rate=rate, layout=layout)
            if quality is not None:
                stream.codec_context.qscale, stream.codec_context.global_quality = True, 118 * int(quality)
            if default is not None:
                stream.disposition = av.stream.Disposition.default if number == default else 0
            streams.append((stream, channels, layout))
        for stream, channels, layout in streams:
            resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
            packed = np.ascontiguousarray(channels.T, np.float32).reshape(1, -1)  # eight planes are too many for PyAV
            frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(part))
            file.mux(stream.encode())
    return path
