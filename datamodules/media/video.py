"""Clips as a few silent frames: what a teacher that sees and does not hear is shown.

Only the video stream is decoded. The audio track of a clip is never opened, so nothing of it can reach a request.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.io import encode_jpeg

from datamodules.media.audio import ClipFolder
from datamodules.media.frame_decoding import decode_frames
from datamodules.media.frame_segment import decode_frame_segment
from datamodules.media.segments import Place, Segment
from runtime.errors import UserError

_EVEN = 1.75
"""Frames last equally long where the longest does not last so many times as long as the shortest: containers that count
in milliseconds make 16 and 17 of 60 frames a second."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a clip are shown, and how large.

    Attributes:
        count: So many frames, each from the middle of an equal part of the clip; all frames of a shorter clip.
        fps: Instead of ``count``, so many frames for each second of the clip.
        max_frames: At most so many frames, however long the clip; for ``fps``.
        max_side: Longer side of a frame in pixels; larger frames are shrunk, smaller ones left as they are.
        quality: Quality of the JPEG images, 1 to 100.
    """

    count: int | None = 8
    fps: float | None = None
    max_frames: int = 64
    max_side: int = 448
    quality: int = 90

    def __post_init__(self) -> None:
        """Check that the settings make sense together."""
        if (self.count is None) == (self.fps is None):
            raise UserError(
                "data.frames: set either count or fps, and the other to null "
                f"(found count {self.count} and fps {self.fps})"
            )
        sizes = {"count": self.count, "fps": self.fps, "max_frames": self.max_frames, "max_side": self.max_side}
        for name, value in sizes.items():
            if value is not None and value <= 0:
                raise UserError(f"data.frames.{name} must be more than 0, found {value}")
        if not 1 <= self.quality <= 100:
            raise UserError(f"data.frames.quality must be between 1 and 100, found {self.quality}")

    def choose(self, begins: np.ndarray, rate: float) -> tuple[list[int], list[float]]:
        """Return which frames of a clip are shown, and the moments for which they stand in seconds.

        Where the frames of a clip last unequally long, the frame that is on screen in the middle of each part is shown,
        and one that stays for long more than once.

        Args:
            begins: When each frame of the clip begins, in seconds.
            rate: Its frames per second.
        """
        frames = len(begins)
        gaps = np.diff(begins)
        if len(gaps) == 0 or gaps.max() <= _EVEN * gaps.min():
            indices = self._equal_parts(frames, rate)
            return indices, [float(begins[index]) for index in indices]
        end = begins[-1] + gaps.mean()
        wanted = self._wanted(frames, frames / end)
        times = begins[0] + (np.arange(wanted) + 0.5) * (end - begins[0]) / wanted
        return (np.searchsorted(begins, times, side="right") - 1).tolist(), times.tolist()

    def _equal_parts(self, frames: int, rate: float) -> list[int]:
        wanted = self._wanted(frames, rate)
        return [(2 * part + 1) * frames // (2 * wanted) for part in range(wanted)]

    def _wanted(self, frames: int, rate: float) -> int:
        if self.count is not None:
            wanted = self.count
        else:
            assert self.fps is not None
            wanted = min(max(1, round(frames / rate * self.fps)), self.max_frames)
        return min(wanted, frames)


@dataclass(frozen=True)
class Frames:
    """Frames of a clip.

    Attributes:
        pixels: The frames ``[N, height, width, 3]``, uint8, RGB.
        rate: How many of these frames there are in a second of the clip, or None when that cannot be said.
    """

    pixels: np.ndarray
    rate: float | None


def load_frames(place: Place, sampling: FrameSampling) -> np.ndarray:
    """Return what :func:`sample_frames` returns, without the rate."""
    return sample_frames(place, sampling).pixels


def sample_frames(place: Place, sampling: FrameSampling) -> Frames:
    """Decode frames of a clip's video stream.

    Args:
        place: A container with a video stream (mp4, mkv, webm, ...), or a part of one.
        sampling: Which frames, and how large.

    Raises:
        MediaError: The file is missing, empty or corrupt, or has no video stream.
    """
    if isinstance(place, Segment):
        with place.opened() as path:
            decoded = decode_frame_segment(path, sampling.choose, place.start, place.end)
    else:
        decoded = decode_frames(place, sampling.choose)
    return Frames(_shrink(decoded.pixels, sampling.max_side), shown_rate(decoded.times))


def shown_rate(times: Sequence[float]) -> float | None:
    """Return how many frames are shown for a second of the clip; None when there is one only, or no time between them.

    Args:
        times: The moments of the shown frames, in seconds.
    """
    span = times[-1] - times[0]
    return round((len(times) - 1) / span, 3) if span > 0 else None


def _shrink(frames: np.ndarray, max_side: int) -> np.ndarray:
    height, width = frames.shape[1:3]
    scale = max_side / max(height, width)
    if scale >= 1:
        return frames
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    return np.asarray(small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy())


def jpeg_images(frames: np.ndarray, quality: int) -> list[bytes]:
    """Return each frame as a JPEG image.

    Args:
        frames: Frames ``[N, height, width, 3]``, uint8, RGB.
        quality: Quality of the images, 1 to 100.
    """
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    return [encode_jpeg(image, quality).numpy().tobytes() for image in pixels]


def jpeg_base64(frames: np.ndarray, quality: int) -> list[str]:
    """Return each frame as a JPEG image in base64; arguments are those of :func:`jpeg_images`."""
    return [base64.b64encode(image).decode("ascii") for image in jpeg_images(frames, quality)]


def image_parts(images: list[str]) -> list[dict[str, Any]]:
    """Return frames as a list of images in the terms of the chat API, which most vision servers accept."""
    return [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}} for image in images]


def video_parts(images: list[str]) -> list[dict[str, Any]]:
    """Return frames as one video: a data URL of JPEG images with commas between them, which vLLM reads as a video."""
    return [{"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join(images)}}]


def video_timing(rate: float | None) -> dict[str, Any]:
    """Return the fields by which vLLM learns about the time in a video that is sent as frames.

    Without them it takes the frames to be a second apart (Qwen2.5-VL's positions follow the time), and drops what comes
    after the first 32.

    Args:
        rate: Frames that are shown for a second of the clip, or None when that cannot be said.
    """
    return {"media_io_kwargs": {"video": {"num_frames": -1, **({} if rate is None else {"fps": rate})}}}


@dataclass(frozen=True)
class FrameFolder(ClipFolder):
    """The clips of a dataset, read as frames.

    Attributes:
        sampling: Which frames of a clip are shown.
    """

    sampling: FrameSampling = FrameSampling()

    def decode(self, place: Place) -> np.ndarray:
        """Return the frames of the clip at a place ``[N, height, width, 3]``.

        Raises:
            MediaError: The clip cannot be decoded.
        """
        return load_frames(place, self.sampling)

    def frames(self, media: str) -> Frames:
        """Return the frames of a clip and their rate.

        Raises:
            MediaError: The clip cannot be decoded, or its path leads out of ``root``.
        """
        return sample_frames(self.place(media), self.sampling)
