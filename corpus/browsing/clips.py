"""A corpus's clips for the page: the file itself, and the frames that the teacher was shown.

The decoder takes seconds to import and is so when the first clip is looked at: a list needs none.
"""

import functools
import mimetypes
import threading
from pathlib import Path
from typing import Any

from corpus.browsing.place import Place
from datamodules.media.media_files import MediaError, check_media, resolve_media

_CLIPS_KEPT = 8


class Clips:
    """The clips of a corpus."""

    def __init__(self, place: Place, **sampling: Any) -> None:
        """Say where they are.

        Args:
            place: The corpus.
            **sampling: Which frames the teacher was shown, as ``datamodules.media.video.FrameSampling`` says it; its
                defaults are those of ``teacher.yaml``.
        """
        self.place = place
        self._sampling = sampling
        self._lock = threading.Lock()
        self._decoded = functools.lru_cache(_CLIPS_KEPT)(self._decode)

    def path(self, row: dict[str, Any]) -> Path:
        """Return the file of a row's clip.

        Args:
            row: A row of the annotation file.

        Raises:
            MediaError: The row names none, or one outside of the corpus; or it is missing or no clip.
        """
        name = row.get("video_name")
        if not isinstance(name, str):
            raise MediaError("the row has no video_name")
        path = resolve_media(self.place.root, f"{self.place.media_dir}/{name}{self.place.media_suffix}")
        check_media(path)
        return path

    def media_type(self, row: dict[str, Any]) -> str:
        """Return what a browser is told that a row's clip is."""
        return mimetypes.guess_type(f"clip{self.place.media_suffix}")[0] or "video/mp4"

    def frames(self, row: dict[str, Any]) -> list[bytes]:
        """Return the frames of a row's clip as JPEG images, as the teacher was shown them.

        Raises:
            MediaError: The clip has none.
        """
        with self._lock:  # eight images of a page are asked for at once
            return self._decoded(self.path(row))

    def _decode(self, path: Path) -> list[bytes]:
        from datamodules.media.video import FrameSampling, jpeg_images, load_frames

        sampling = FrameSampling(**self._sampling)
        return jpeg_images(load_frames(path, sampling), sampling.quality)
