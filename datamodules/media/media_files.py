"""Files that hold clips: where they may lie, and what they are where they are no clips."""

import errno
import os
import stat
from pathlib import Path

from runtime.errors import UserError

_HEAD = 512
_OF_THE_MACHINE = frozenset(
    {
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO),
        *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)
"""Memory or open files ran out, or a disk or the server of a network's file system does not answer."""
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_NO_MEDIA = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file with `git lfs pull`"),
    (b"<!doctype html", "an HTML page, as a download that was refused leaves"),
    (b"<html", "an HTML page, as a download that was refused leaves"),
    (b"<?xml", "an XML document, as a download that was refused leaves"),
    (b"{", "JSON text, as a download that was refused leaves"),
    # a player would open the files that a playlist names, wherever they are
    (b"#extm3u", "a playlist, not a clip"),
    (b"ffconcat", "a playlist, not a clip"),
    (b"pk\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"rar!\x1a", "a rar archive: unpack it"),
)


class MediaError(UserError):
    """A clip cannot be used; the message names the file."""


class PastTheEndError(MediaError):
    """A file has no sound in the part that is asked for."""


class MomentaryMediaError(MediaError):
    """A clip cannot be used now, which is the machine's fault and not the file's: memory, open files, disk, network."""


def is_lasting(error: MediaError) -> bool:
    """Return whether a clip that could not be used will not be usable later: False where the machine was at fault."""
    return not isinstance(error, MomentaryMediaError)


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


def check_media(path: Path) -> None:
    """Refuse what is no media file, before a decoder sees it.

    Raises:
        MediaError: The file is missing, is none, cannot be read, is empty, or is text or an archive.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        raise MediaError(f"{path}: this is not a file")
    head = _head(path)
    if not head:
        raise MediaError(f"{path}: the file is empty")
    beginning = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for prefix, kind in _NO_MEDIA:
        if beginning.startswith(prefix):
            raise MediaError(f"{path}: this is {kind}")


def looks_like(path: Path) -> str:
    """Return in words what a file looks like that no decoder knows; empty where that cannot be said."""
    head = _head(path)
    if not head.strip(b"\0"):
        return "it begins with zero bytes, as a download that broke off leaves"
    text = head.decode("utf-8", errors="replace")
    if all(character.isprintable() or character.isspace() for character in text):
        return f"it is text that begins with {' '.join(text.split())[:40]!r}"
    return ""


def undecodable(path: Path, what: str, error: Exception) -> MediaError:
    """Return what to raise for a decoder's error.

    Args:
        path: The file.
        what: What should have been decoded.
        error: What the decoder raised.
    """
    if is_of_the_machine(error):
        return MomentaryMediaError(f"{path}: the {what} cannot be decoded now ({reason(error)})")
    return MediaError(f"{path}: the {what} cannot be decoded ({looks_like(path) or reason(error)})")


def unreadable(path: str | os.PathLike[str], error: OSError) -> MediaError:
    """Return what to raise where the system does not let a file be read.

    Args:
        path: The file.
        error: What the system says.
    """
    if error.errno in _NOT_THERE:
        return MediaError(f"{path}: the file is missing")
    kind = MomentaryMediaError if is_of_the_machine(error) else MediaError
    return kind(f"{path}: the file cannot be read ({error.strerror})")


def is_of_the_machine(error: BaseException) -> bool:
    """Return whether an error tells of the machine and not of the file: the same file may be read another time.

    Args:
        error: What the system or a decoder raised.
    """
    short = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # torch says it in a RuntimeError
    return short or getattr(error, "errno", None) in _OF_THE_MACHINE


def reason(error: BaseException) -> str:
    """Return the message of a decoder's error without the decoder's own decorations."""
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory"
    text = str(getattr(error, "strerror", None) or error).strip().splitlines()
    # decord puts time and source line in front of the message
    return text[0].split("] ", 1)[-1].split(".cc:", 1)[-1].split(": ", 1)[-1].rstrip(".") if text else "no message"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise unreadable(path, error) from None
