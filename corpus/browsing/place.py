"""Where the parts of a corpus lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.reading.annotation_file import read_values
from records.record_files import record_files
from runtime.errors import UserError


@dataclass(frozen=True)
class Place:
    """The files of a corpus in AVQA's layout.

    Attributes:
        root: The corpus's folder, which holds ``<split>_qa.json`` and the clips.
        split: Which annotations: ``train`` or ``val``.
        traces: Files and folders of traces; empty where there are none.
        verdicts: Files and folders of a checker's verdicts; empty where there are none.
        labels: Folder of verdicts of people.
        media_dir: Folder of the clips under ``root``.
        media_suffix: What follows ``video_name`` in a clip's file name.
        clips: Files and folders of clips that are parts of files; empty where each clip is a file of its own.
        clips_root: Folder that these clips' paths are relative to; None is ``root``.
    """

    root: Path
    split: str = "train"
    traces: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    labels: Path = Path("labels")
    media_dir: str = "videos"
    media_suffix: str = ".mp4"
    clips: tuple[str, ...] = ()
    clips_root: Path | None = None

    @property
    def annotations(self) -> Path:
        """The annotation file."""
        return self.root / f"{self.split}_qa.json"

    def rows(self) -> list[dict[str, object]]:
        """Return the annotation file's rows that are objects.

        Raises:
            UserError: The file is missing or is none.
        """
        rows = [row for row in read_values(self.annotations) if isinstance(row, dict)]
        if not rows:
            raise UserError(f"{self.annotations}: there is no question in the file")
        return rows

    def trace_files(self) -> list[Path]:
        """Return the files of traces.

        Raises:
            UserError: One is missing.
        """
        return record_files(self.traces)

    def verdict_files(self) -> list[Path]:
        """Return the files of verdicts.

        Raises:
            UserError: One is missing.
        """
        return record_files(self.verdicts)


def place_of(
    root: Path,
    split: str = "train",
    traces: Sequence[str] = (),
    verdicts: Sequence[str] = (),
    labels: Path | None = None,
    clips: Sequence[str] = (),
    clips_root: Path | None = None,
) -> Place:
    """Return where a corpus is; what is not said is looked for in its folder, under the names that stages use.

    Args:
        root: The corpus's folder.
        split: ``train`` or ``val``.
        traces: Files and folders of traces.
        verdicts: Files and folders of verdicts.
        labels: Folder of people's verdicts.
        clips: Files and folders of clips that are parts of files.
        clips_root: Folder that these clips' paths are relative to.
    """

    def usual(name: str) -> tuple[str, ...]:
        return (str(root / name),) if (root / name).is_dir() else ()

    return Place(
        root,
        split,
        traces=tuple(traces) or usual("traces"),
        verdicts=tuple(verdicts) or usual("verdicts"),
        labels=labels or root / "labels",
        clips=tuple(clips),
        clips_root=clips_root,
    )
