"""AVQA as silent video: what the teacher is shown."""

from functools import partial
from typing import Any

from torch.utils.data import DataLoader

from datamodules.avqa import AVQADataModule
from datamodules.batching.items import Prepared, silent_clip
from datamodules.batching.loading import SentBatch, loader_settings, own_share
from datamodules.media.video import FrameFolder, FrameSampling


class AVQAVideoDataModule(AVQADataModule):
    """AVQA in video mode, for the teacher: one item is one question with frames of its clip, silent by construction.

    Serves ``predict``. Questions all of whose traces are on disk are left out, so that a restarted run decodes nothing
    twice. A clip that cannot be decoded becomes an error record and does not stop the run. Files as for AVQADataModule.
    """

    can_probe = False

    def __init__(
        self,
        root: str,
        frames: FrameSampling = FrameSampling(),  # noqa: B008  (frozen)
        audio_text: bool = False,
        validate_media: bool = False,
        **settings: Any,
    ) -> None:
        """Describe the data; nothing is read before ``setup``.

        Args:
            root: Folder with AVQA as downloaded.
            frames: Which frames of a clip are shown, and how large.
            audio_text: Ask about the "audio" wherever the question says "video".
            validate_media: Decode the frames of each clip once before the start; without it, bad clips become error
                records when they are reached.
            **settings: As for AVQADataModule, for example ``media_dir``, ``eval_batch_size`` and ``num_workers``.
        """
        super().__init__(root=root, audio_text=audio_text, validate_media=validate_media, **settings)
        self.clips = FrameFolder(self.root, follow_links=self.clips.follow_links, sampling=frames)
        self.report_dir = self.report_dir / "video"  # the index there is of frames, not of waveforms

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions that are not complete yet."""
        assert isinstance(self.clips, FrameFolder)
        questions = own_share(self.trainer, self.questions("predict"))
        return DataLoader(
            Prepared([q for q in questions if self.completed.lacks(q.id)], partial(silent_clip, clips=self.clips)),
            batch_size=self.eval_batch_size,
            collate_fn=SentBatch,
            **loader_settings(self.num_workers),
        )
