"""Where a clip is, when it is only a part of a file, or of a file in a tar archive."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.media.media_files import MediaError, MomentaryMediaError, is_of_the_machine, unreadable
from records.clips import Clip

LARGEST_MEMBER = 512 * 2**20
"""Bytes of an archive's member that are taken into memory at once."""

_AT_ONCE = 2**20


@dataclass(frozen=True)
class Segment:
    """A part of a file.

    Attributes:
        file: The file, or the tar archive that holds it.
        start: Where the part begins, in seconds.
        end: Where it ends.
        member: Name of the archive's member, or empty.
        offset: Where the member's bytes begin in the archive.
        size: How many bytes the member has.
    """

    file: Path
    start: float
    end: float
    member: str = ""
    offset: int = 0
    size: int = 0

    @property
    def fragment(self) -> str:
        """What tells it from other parts of the file, written as media fragments are (W3C)."""
        inside = f"!{self.member}@{self.offset}+{self.size}" if self.member else ""
        return f"{inside}#t={self.start:g},{self.end:g}"

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def __str__(self) -> str:
        """Return the file and the part."""
        return f"{self.file}{self.fragment}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Yield the path of a file that decoders can read: the file itself, or the member in memory.

        Decoders read files by their path. A member's bytes go into a file that exists in memory alone and ends with the
        block, so that nothing is unpacked to a disk.

        Raises:
            MediaError: The archive cannot be read, or the member is too large or not whole. What the block raises names
                the member instead of the file in memory.
        """
        if not self.member:
            yield self.file
            return
        handle = self._in_memory()
        path = Path(f"/proc/self/fd/{handle}")
        try:
            yield path
        except MediaError as error:
            raise type(error)(str(error).replace(str(path), f"{self.file}!{self.member}")) from None
        finally:
            os.close(handle)

    def _in_memory(self) -> int:
        named = f"{self.file}!{self.member}"
        if self.size > LARGEST_MEMBER:
            raise MediaError(
                f"{named}: {self.size} bytes are too many for a file in an archive, {LARGEST_MEMBER} are read at most: "
                "unpack it"
            )
        handle = os.memfd_create("member", os.MFD_CLOEXEC)
        try:
            with self.file.open("rb") as archive:
                archive.seek(self.offset)
                left = self.size
                while left:
                    block = archive.read(min(left, _AT_ONCE))
                    if not block:
                        raise MediaError(f"{named}: the archive ends {left} bytes before the file does")
                    os.write(handle, block)
                    left -= len(block)
        except OSError as error:
            os.close(handle)
            if is_of_the_machine(error):
                raise MomentaryMediaError(f"{named}: the file cannot be read now ({error.strerror})") from None
            raise unreadable(self.file, error) from None
        except MediaError:
            os.close(handle)
            raise
        return handle


Place = Path | Segment
"""Where a clip is: a file as a whole, or a part of one."""


def file_of(place: Place) -> Path:
    """Return the file on disk that holds a clip."""
    return place.file if isinstance(place, Segment) else place


def key_of(place: Place) -> str:
    """Return the absolute path of a clip's file and, for a part of it, which one."""
    return os.path.abspath(file_of(place)) + (place.fragment if isinstance(place, Segment) else "")


def segment_of(clips: Mapping[str, Clip], name: str) -> Clip:
    """Return a clip of a corpus.

    Raises:
        MediaError: It has none of that name.
    """
    if name not in clips:
        raise MediaError(f"{name!a}: there is no such clip among the {len(clips)} that data.clips names")
    return clips[name]
