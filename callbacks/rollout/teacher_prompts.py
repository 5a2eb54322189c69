"""Questions as the teacher is asked them: with silent frames of the clip, and without."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info

from datamodules.audio_qa import AudioQADataModule
from datamodules.media.media_files import MediaError
from datamodules.media.probes import derangement
from datamodules.media.video import FrameFolder, Frames, image_parts, jpeg_base64
from inference.teacher_pool import SeenPrompt
from lightning_modules.distillation import OnPolicyDistillation
from records.changed_questions import without_changed
from records.record_files import listed, read_records
from records.records import Question, Verdict
from runtime.errors import UserError


class TeacherPrompts:
    """Which questions the teacher is asked, and how."""

    def __init__(self, chosen: OnPolicyDistillation, tokenizer: Any, data: object) -> None:
        """Read what the data say of the questions.

        Args:
            chosen: The settings.
            tokenizer: The teacher's tokenizer, with its chat template.
            data: The DataModule.

        Raises:
            UserError: There are no clips or no accepted questions, or the tokenizer has no chat template.
        """
        self._chosen = chosen
        self._tokenizer = tokenizer
        known = data if isinstance(data, AudioQADataModule) else None
        root = chosen.clips or (known.settings.root if known is not None else None)
        if root is None:
            raise UserError(
                "model.distillation shows the teacher frames, and where the clips are is not known of "
                f"{type(data).__name__}: set model.distillation.clips to their folder"
            )
        self._clips = FrameFolder(
            Path(root), follow_links=known is not None and known.clips.follow_links, sampling=chosen.frames
        )
        questions = known.asked("train") if known is not None else []
        self._others: dict[str, str] = {}
        if chosen.wrong_frames:
            self._others = _other_clips(questions)
        self._accepted = _accepted(chosen.verdicts, questions) if chosen.verdicts else None
        if not tokenizer.chat_template:
            raise UserError(
                "the teacher's tokenizer has no chat template: set model.distillation.tokenizer to the checkpoint of a "
                "vision-language model that chats"
            )

    def asks(self, question: Question) -> bool:
        """Tell whether the teacher speaks on a question."""
        return self._accepted is None or question.id in self._accepted

    def frames(self, question: Question) -> Frames:
        """Return what the teacher is shown.

        Raises:
            UserError: The clip cannot be decoded, or has no pictures.
        """
        media = self._others.get(question.media, question.media)
        try:
            return self._clips.frames(media)
        except MediaError as error:
            raise UserError(
                f"{question.id}: the teacher cannot be shown its clip: {error}; leave the question out of the data, or "
                "name a folder of the clips with pictures in model.distillation.clips"
            ) from None

    def pictures(self, frames: Any) -> list[str]:
        """Return pixels ``[N, height, width, 3]`` as JPEG images in base64."""
        return jpeg_base64(frames, self._chosen.frames.quality)

    def messages(self, question: Question, images: Sequence[str]) -> list[dict[str, Any]]:
        """Return the chat that asks a question about images in base64, in the terms of the chat API."""
        text = {"type": "text", "text": self._chosen.whole_prompt.render(question)}
        return [{"role": "user", "content": [*image_parts(list(images)), text]}]

    def prompt(self, question: Question, images: Sequence[str]) -> SeenPrompt:
        """Return a question about images in base64 in the teacher's tokens.

        Args:
            question: The question.
            images: The images; without any the teacher is blind.
        """
        chat = [{**self.messages(question, ())[0]}]
        chat[0]["content"] = [*({"type": "image"} for _ in images), *chat[0]["content"]]
        ids: list[int] = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        urls = tuple(part["image_url"]["url"] for part in image_parts(list(images)))
        return SeenPrompt(f"{question.id} ({question.media})", ids, urls)


def prompts_of(trainer: Trainer, chosen: OnPolicyDistillation, tokenizer: Any) -> TeacherPrompts:
    """Return how a run's teacher is asked."""
    data: object = trainer.datamodule  # type: ignore[attr-defined]
    return TeacherPrompts(chosen, tokenizer, data)


def _other_clips(questions: Iterable[Question]) -> dict[str, str]:
    media = {question.media for question in questions}
    if len(media) < 2:
        raise UserError(
            "model.distillation.wrong_frames needs a second clip in the training data, whose frames to show"
        )
    return derangement(media)


def _accepted(files: str | list[str], questions: Sequence[Question]) -> frozenset[str]:
    verdicts, changed = without_changed(read_records(listed(files), Verdict), questions)
    asked = {question.id for question in questions}
    found = frozenset(verdict.question_id for verdict in verdicts if verdict.accepted) & asked
    if not found:
        raise UserError(
            f"model.distillation.verdicts: of the {len(asked)} training questions none has a trace that the checker "
            f"accepted in {', '.join(listed(files))}, so that the teacher would never speak"
        )
    rank_zero_info(
        f"The teacher speaks on {len(found)} of {len(asked)} training questions, of which the checker accepted a trace "
        f"({len(changed)} verdicts are on questions that have changed since)"
    )
    return found
