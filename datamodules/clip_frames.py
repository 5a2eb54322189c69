"""Clips about which nothing is known yet, as silent frames: what the writer of questions is shown."""

from functools import cached_property
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.audio_qa import Role
from datamodules.avqa_video import AVQAVideoDataModule
from datamodules.reading.nearby_names import can_be_name
from records.records import Question
from runtime.errors import UserError


class ClipFramesDataModule(AVQAVideoDataModule):
    """Videos without annotations: one item is one clip, silent by construction.

    Clips are the files of a folder, whose names are their ids, or those of a corpus (``clips``).

    Serves ``predict``. To writers and reports a clip is a question that asks nothing. Clips all of whose questions are
    on disk are left out, so that a restarted run decodes nothing twice.
    """

    dataset = "clips"

    def setup(self, stage: str | None = None) -> None:
        """Look for clips.

        Raises:
            UserError: The stage is not ``predict``, the folder is not there, or no clip is in it.
        """
        if stage not in ("predict", None):
            raise UserError(f"{type(self).__name__} is for predict: clips without questions have nothing to {stage} on")
        self._listed  # noqa: B018  (read now, so that what is wrong is said before the start)

    def questions(self, role: Role) -> list[Question]:
        """Return the clips, all ranks' together, by name, each as a question that asks nothing.

        Raises:
            UserError: The folder is not there, or no clip is in it.
        """
        return self._listed

    @cached_property
    def _listed(self) -> list[Question]:
        if self.clips.corpus is not None:
            ids = sorted(self.clips.corpus)[: self.settings.limit]
            rank_zero_info(f"clips: {len(ids)} of the {len(self.clips.corpus)} that data.clips names")
            return [clip_to_ask(clip, clip) for clip in ids]
        names = clip_names(self.root / self.settings.media_dir, self.settings.media_suffix)[: self.settings.limit]
        rank_zero_info(f"clips: {len(names)} in {self.root / self.settings.media_dir}")
        return [clip_to_ask(name, f"{self.settings.media_dir}/{name}{self.settings.media_suffix}") for name in names]


def clip_to_ask(clip: str, media: str) -> Question:
    """Return a clip as a question that asks nothing.

    Args:
        clip: The clip's id.
        media: Its path, relative to the dataset's folder, or its id in a corpus.
    """
    return Question(id=clip, dataset="clips", media=media, text="", options=(), answer=None, category="")


def clip_names(folder: Path, suffix: str) -> list[str]:
    """Return the ids of the clips in a folder, in order: their files' names without suffix.

    Args:
        folder: The folder; those inside of it are not looked into.
        suffix: What a clip's name ends in, such as ``.mp4``.

    Raises:
        UserError: The folder is not there or cannot be read, or has no such file.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name.endswith(suffix) and path.is_file())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): it should hold the clips") from None
    names = [name.removesuffix(suffix) for name in names if not name.startswith(".") and can_be_name(name)]
    if not names:
        raise UserError(f"{folder} has no file whose name ends in {suffix}: set data.media_dir or data.media_suffix")
    return names
