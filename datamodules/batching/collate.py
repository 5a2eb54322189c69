"""From questions and waveforms to a batch, by the model's own processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.front_end import FrontEnd, front_end_of
from datamodules.media.audio import SAMPLE_RATE
from datamodules.prompts.questions import Prompt
from records.records import Question
from runtime.errors import UserError


@dataclass(frozen=True)
class Example:
    """What the Collator makes batches of.

    Attributes:
        question: The question.
        waveform: Its clip, mono float32 at 16 kHz.
        label: Text of the option that is rewarded, or None.
        targets: Completions to learn (SFT), without the end token; empty where there are none.
    """

    question: Question
    waveform: np.ndarray
    label: str | None = None
    targets: tuple[str, ...] = ()


def said_of_cuts(heard: float, max_seconds: float | None, clips: Sequence[float]) -> str:
    """Return a sentence that says which clips are cut where the model hears no more, empty where none is.

    Args:
        heard: Seconds of a clip that the model hears.
        max_seconds: Seconds of a clip that are used as far as the data are concerned; None for all.
        clips: Lengths of the clips in seconds; empty where they are not known.
    """
    if max_seconds is not None and max_seconds <= heard:
        return ""
    longer = sum(seconds > heard for seconds in clips)
    if clips and not longer:
        return ""
    which = f"{longer} of {len(clips)} clips are longer and are" if clips else "longer clips are"
    return f"the student hears the first {heard:g} s of a clip: {which} cut there, whatever data.max_seconds allows" + (
        "" if max_seconds is None else f" ({max_seconds:g} s)"
    )


class Collator:
    """Makes a batch of examples.

    Token ids and features are those that the processor would return for the same text and audio, as far as they are
    needed (:mod:`datamodules.batching.front_end`). Clips longer than the model hears are cut, and ``batch.waveforms``
    with them.
    """

    def __init__(self, processor: Any, prompt: Prompt, end_token: str = "<|im_end|>") -> None:
        """Prepare for a processor.

        Args:
            processor: That of a student.
            prompt: How the question is asked.
            end_token: Ends a completion.

        Raises:
            UserError: The processor is no student's, lacks the audio placeholder or the end token, or hears at another
                rate than 16 kHz.
        """
        self.processor = processor
        self.front_end: FrontEnd = front_end_of(processor)
        self.prompt = prompt
        self.end_token = end_token
        tokenizer = processor.tokenizer
        self.audio_id = int(_token_id(tokenizer, processor.audio_token))
        self.end_id = int(_token_id(tokenizer, end_token))
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id)
        extractor = processor.feature_extractor
        if extractor.sampling_rate != SAMPLE_RATE:
            raise UserError(f"the processor hears at {extractor.sampling_rate} Hz, only {SAMPLE_RATE} Hz is supported")
        self.max_samples = self.front_end.max_samples(processor)

    @property
    def seconds(self) -> float:
        """How much of a clip the model hears."""
        return self.max_samples / SAMPLE_RATE

    def __call__(self, examples: Sequence[Example]) -> AudioQABatch:
        """Return the examples as a batch."""
        waveforms = [self.front_end.heard(e.waveform, self.processor) for e in examples]
        features, feature_lengths = self.features(waveforms)
        request_ids = [self.request_ids(e.question) for e in examples]
        prompts = [
            self.expand(ids, int(length)) for ids, length in zip(request_ids, feature_lengths.tolist(), strict=True)
        ]
        return AudioQABatch(
            questions=[e.question for e in examples],
            waveforms=waveforms,
            request_ids=request_ids,
            prompt_ids=_padded(prompts, self.pad_id),
            prompt_lengths=np.array([len(ids) for ids in prompts]),
            features=features,
            feature_lengths=feature_lengths,
            labels=[e.label for e in examples],
            completions=self.completions([e.targets for e in examples]) if any(e.targets for e in examples) else None,
        )

    def text(self, question: Question) -> str:
        """Return the chat that asks a question, up to where the completion begins."""
        content = [{"type": "audio"}, {"type": "text", "text": self.prompt.render(question)}]
        chat = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    def request_ids(self, question: Question) -> list[int]:
        """Return the prompt's token ids with one placeholder for the audio.

        Raises:
            UserError: The prompt has no placeholder, or several.
        """
        ids: list[int] = self.processor.tokenizer(self.text(question))["input_ids"]
        if (found := ids.count(self.audio_id)) != 1:
            raise UserError(
                f"{question.id}: the prompt must have one {self.processor.audio_token}, found {found}; "
                "check the processor's chat template and the question"
            )
        return ids

    def expand(self, request_ids: list[int], heard_frames: int) -> list[int]:
        """Return the ids with as many audio placeholders as the clip has audio tokens, and what goes around them."""
        place = request_ids.index(self.audio_id)
        before, after = self.front_end.around(self.processor)
        audio = [*before, *[self.audio_id] * self.front_end.num_tokens(heard_frames), *after]
        return request_ids[:place] + audio + request_ids[place + 1 :]

    def num_audio_tokens(self, samples: int) -> int:
        """Return how many tokens the placeholder of a clip of so many samples becomes."""
        heard = self.front_end.num_frames(min(max(samples, 1), self.max_samples), self.processor)
        around = sum(len(ids) for ids in self.front_end.around(self.processor))
        return max(self.front_end.num_tokens(heard), 1) + around

    def features(self, waveforms: Sequence[np.ndarray]) -> tuple[Tensor, np.ndarray]:
        """Return log-mel features ``[B, M, F]`` and the heard frames ``[B]`` of clips that are not too long."""
        return self.front_end.features(waveforms, self.processor)

    def completions(self, targets: Sequence[Sequence[str]]) -> Completions:
        """Return targets as completions ``[B, G, C]``, each with its end token; G is the longest list's length.

        A question with fewer targets has completions whose mask is False everywhere and whose text is empty. A target
        is text through and through: where it spells a control token, its letters are encoded.
        """
        group = max(len(texts) for texts in targets)
        ids = [
            [[*self._letters(text), self.end_id] for text in texts] + [[]] * (group - len(texts)) for texts in targets
        ]
        flat = [row for rows in ids for row in rows]
        padded = _padded(flat, self.pad_id)
        lengths = np.array([len(row) for row in flat])
        mask = torch.from_numpy(np.arange(padded.shape[1]) < lengths[:, None])
        return Completions(
            ids=padded.view(len(targets), group, -1),
            mask=mask.view(len(targets), group, -1),
            texts=[[*texts, *[""] * (group - len(texts))] for texts in targets],
            finished=np.ones((len(targets), group), dtype=bool),
            lengths=lengths.reshape(len(targets), group),
        )

    def _letters(self, text: str) -> list[int]:
        """Return a text's token ids, none of which is a control token's."""
        tokenizer = self.processor.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


def _token_id(tokenizer: Any, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise UserError(f"the tokenizer has no token {token}: the weights are not those of a student")
    return int(found)


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    padded = torch.full((len(rows), max(len(row) for row in rows)), pad_id)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


@runtime_checkable
class BringsProcessor(Protocol):
    """A module whose model has a processor of its own: all that a DataModule needs to know of a module."""

    @property
    def processor(self) -> Any:
        """The processor."""


def read_processor(name: str) -> Any:
    """Load a processor.

    Args:
        name: Hub name or folder of the processor (``data.processor``).

    Raises:
        UserError: There is none.
    """
    from transformers import AutoProcessor

    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"data.processor: the folder {name} does not exist")
    try:
        return AutoProcessor.from_pretrained(name)
    except Exception as error:  # a damaged file may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"data.processor: {name} has no processor to load ({reason})") from None
