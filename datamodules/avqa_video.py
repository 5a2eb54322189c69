"""AVQA as silent video: what the teacher is shown."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from datamodules.avqa import AVQADataModule, AVQASettings
from datamodules.batching.items import Prepared, TeacherExample, silent_clip
from datamodules.batching.loading import SentBatch, loader_settings, own_share
from datamodules.media.video import FrameFolder, FrameSampling
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class AVQAVideoSettings(AVQASettings):
    """AVQA in video mode, beside what is said in :class:`.avqa.AVQASettings`.

    Attributes:
        frames: Which frames of a clip are shown, and how large.
        blind: Show none of them: what a model answers then, it answers from the question alone.
        audio_text: Ask about the "audio" wherever the question says "video".
        validate_media: Decode the frames of each clip once before the start; without it, bad clips become error records
            when they are reached.
    """

    frames: FrameSampling = FrameSampling()  # noqa: RUF009  (frozen)
    blind: bool = False
    audio_text: bool = False
    validate_media: bool = False


class AVQAVideoDataModule(AVQADataModule):
    """AVQA in video mode, for the teacher: one item is one question with frames of its clip, silent by construction.

    Serves ``predict``. Questions all of whose traces are on disk are left out, so that a restarted run decodes nothing
    twice. A clip that cannot be decoded becomes an error record and does not stop the run. Files as for AVQADataModule.
    """

    can_probe = False

    settings: AVQAVideoSettings

    @takes(AVQAVideoSettings)
    def __init__(self, *root: Any, **settings: Any) -> None:
        """Describe the data, as :class:`AVQAVideoSettings` does; nothing is read before ``setup``."""
        chosen = AVQAVideoSettings(*root, **settings)
        self.describe(chosen)
        self.clips = FrameFolder(
            self.clips.root, follow_links=self.clips.follow_links, corpus=self.clips.corpus, sampling=chosen.frames
        )
        self.report_dir = self.report_dir / "video"  # the index there is of frames, not of waveforms

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions that are not complete yet."""
        assert isinstance(self.clips, FrameFolder)
        questions = own_share(self.trainer, self.questions("predict"))
        prepare = TeacherExample if self.settings.blind else partial(silent_clip, clips=self.clips)
        return DataLoader(
            Prepared([q for q in questions if self.completed.lacks(q.id)], prepare),
            batch_size=self.settings.evaluated_at_once,
            collate_fn=SentBatch,
            **loader_settings(self.settings.num_workers),
        )
