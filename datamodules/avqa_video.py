"""AVQA as silent video: what the teacher is shown."""

from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from datamodules.avqa import AVQADataModule
from datamodules.batching.sampler import eval_share
from datamodules.media.audio import MediaError
from datamodules.media.media_files import MomentaryMediaError
from datamodules.media.video import FrameFolder, FrameSampling, SilentClip, jpeg_base64
from records.records import Question


class SilentClips(Dataset[SilentClip]):
    """Questions whose frames are prepared when they are asked for, that is in the DataLoader's workers."""

    def __init__(self, questions: list[Question], clips: FrameFolder) -> None:
        """Make the dataset.

        Args:
            questions: The questions.
            clips: Where their clips are and how they are sampled.
        """
        self.questions = questions
        self.clips = clips

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def __getitem__(self, index: int) -> SilentClip:
        """Return a question with its frames, or with the reason why there are none."""
        question = self.questions[index]
        try:
            frames = self.clips.frames(question.media)
        except MediaError as error:
            return SilentClip(question, error=str(error), lasting=not isinstance(error, MomentaryMediaError))
        images = jpeg_base64(frames.pixels, self.clips.sampling.quality)
        return SilentClip(question, tuple(images), frames.rate)


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

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave a batch where it is: it goes to another machine."""
        return batch

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return this rank's share of the questions that are not complete yet."""
        self._check_distributed()
        assert isinstance(self.clips, FrameFolder)
        questions = self.questions("predict")
        return DataLoader(
            SilentClips([q for q in own_share(self.trainer, questions) if self.completed.lacks(q.id)], self.clips),
            batch_size=self.eval_batch_size,
            collate_fn=list,
            **self._loader_settings(),
        )


def own_share(trainer: Trainer | None, questions: list[Question]) -> list[Question]:
    """Return this rank's share of the questions.

    It does not depend on what is complete, so that a question stays on the machine that has its traces.

    Args:
        trainer: The trainer, or None.
        questions: All ranks' questions.
    """
    if trainer is None:
        return questions
    return [questions[i] for i in eval_share(len(questions), trainer.global_rank, trainer.world_size)]
