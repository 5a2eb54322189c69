"""A corpus's clips for the page: the file itself, and the frames that the teacher was shown.

The decoder takes seconds to import and is so when the first clip is looked at: a list needs none.
"""

import functools
import mimetypes
import threading
from typing import Any

from corpus.browsing import place as corpus_place
from datamodules.media.media_files import MediaError, check_media, resolve_media
from datamodules.media.segments import Place, Segment, file_of, segment_of
from records.clips import read_clips

_CLIPS_KEPT = 8


class Clips:
    """The clips of a corpus."""

    def __init__(self, place: corpus_place.Place, **sampling: Any) -> None:
        """Say where they are.

        Args:
            place: The corpus.
            **sampling: Which frames the teacher was shown, as ``datamodules.media.video.FrameSampling`` says it; its
                defaults are those of ``teacher.yaml``.

        Raises:
            UserError: A file of clips is missing or malformed.
        """
        self._corpus = read_clips(place.clips) if place.clips else None
        self.place = place
        self._sampling = sampling
        self._lock = threading.Lock()
        self._decoded = functools.lru_cache(_CLIPS_KEPT)(self._decode)

    def find(self, row: dict[str, Any]) -> Place:
        """Return where a row's clip is: a file, or a part of one.

        Args:
            row: A row of the annotation file.

        Raises:
            MediaError: The row names none, or one outside of the corpus; or it is missing or no clip.
        """
        name = row.get("video_name")
        if not isinstance(name, str):
            raise MediaError("the row has no video_name")
        found: Place
        if self._corpus is None:
            found = resolve_media(self.place.root, f"{self.place.media_dir}/{name}{self.place.media_suffix}")
        else:
            clip = segment_of(self._corpus, name)
            file = resolve_media(self.place.clips_root or self.place.root, clip.path)
            found = Segment(file, clip.start, clip.end, clip.member, clip.offset, clip.size)
        if not isinstance(found, Segment) or not found.member:
            check_media(file_of(found))
        return found

    def media_type(self, row: dict[str, Any]) -> str:
        """Return what a browser is told that a row's clip is."""
        name = f"clip{self.place.media_suffix}"
        if self._corpus is not None and isinstance(row.get("video_name"), str):
            clip = self._corpus.get(row["video_name"])
            name = name if clip is None else clip.member or clip.path
        return mimetypes.guess_type(name)[0] or "video/mp4"

    def fragment(self, row: dict[str, Any]) -> str:
        """Return what is put behind the address of a row's clip so that a browser plays its part of the file alone."""
        clip = (self._corpus or {}).get(str(row.get("video_name")))
        return "" if clip is None else f"#t={clip.start:g},{clip.end:g}"

    def frames(self, row: dict[str, Any]) -> list[bytes]:
        """Return the frames of a row's clip as JPEG images, as the teacher was shown them.

        Raises:
            MediaError: The clip has none.
        """
        with self._lock:  # eight images of a page are asked for at once
            return self._decoded(self.find(row))

    def _decode(self, found: Place) -> list[bytes]:
        from datamodules.media.video import FrameSampling, jpeg_images, load_frames

        sampling = FrameSampling(**self._sampling)
        return jpeg_images(load_frames(found, sampling), sampling.quality)
