"""What a DataLoader hands to the modules and callbacks.

Letters of shapes, used everywhere: B questions, G completions of each, P prompt tokens (audio placeholders expanded),
C completion tokens, M mel bins, F mel frames, H hidden size, V vocabulary.

Tensors move to the device with the batch; arrays stay in main memory wherever the tensors are. So whoever has a batch
knows its lengths, and waits for no device to learn them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from records.records import Question

T = TypeVar("T", bound=Any)


@dataclass
class Completions:
    """G completions of each of B prompts: targets of SFT, or rollouts.

    Attributes:
        ids: Token ids ``[B, G, C]``, right-padded; a finished completion includes its end token.
        mask: True on real tokens ``[B, G, C]``.
        texts: ``[B][G]`` completions as text, without the end token.
        logprobs: Log-probabilities under the policy that sampled, at its temperature ``[B, G, C]``; None for targets.
        finished: False where the completion was cut at the token limit; in main memory ``[B, G]``.
        weight_version: Version of the weights that sampled; None for targets.
        seconds: Time that sampling took.
        stale: True where the weights that sampled are older than those that are trained.
        lengths: Real tokens of each completion, in main memory ``[B, G]``; counted in the mask unless given.
        reference_logprobs: Log-probabilities under the reference at temperature 1 ``[B, G, C]``, where a server told.
        seeds: Seed of the request that drew each question's completions ``[B]``; None for targets.
        discarded_groups: How often a question's completions were thrown away and drawn again.
        refilled_groups: How often another question was asked in place of one.
        discarded_tokens: How many tokens were thrown away with either.
        teacher_logprobs: Those under a teacher that sees the clip ``[B, G, C]``, where one was asked; NaN elsewhere.
        blind_logprobs: Those under the same teacher without the frames, where it was asked for them.
    """

    ids: Tensor
    mask: Tensor
    texts: list[list[str]]
    finished: np.ndarray
    logprobs: Tensor | None = None
    weight_version: str | None = None
    seconds: float = 0.0
    stale: bool = False
    lengths: np.ndarray = None  # type: ignore[assignment]
    reference_logprobs: Tensor | None = None
    seeds: list[int] | None = None
    discarded_groups: int = 0
    refilled_groups: int = 0
    discarded_tokens: int = 0
    teacher_logprobs: Tensor | None = None
    blind_logprobs: Tensor | None = None

    def __post_init__(self) -> None:
        """Count the tokens."""
        self.finished = np.asarray(self.finished, dtype=bool)
        if self.lengths is None:
            self.lengths = self.mask.sum(-1).cpu().numpy()

    def places(self) -> np.ndarray:
        """Return where the real tokens are in ``ids.flatten()``, in their order ``[T]``."""
        return np.flatnonzero(np.arange(self.ids.shape[-1]) < self.lengths[..., None])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy with all tensors on ``device``."""
        return _moved(self, device, non_blocking)

    def pin_memory(self) -> Self:
        """Return a copy with all tensors in pinned memory."""
        return _pinned(self)


@dataclass
class AudioQABatch:
    """B audio questions.

    Attributes:
        questions: The questions.
        waveforms: Mono float32 at 16 kHz, one of each question; the same samples that ``features`` come from.
        request_ids: Prompt token ids with ONE audio placeholder, as a rollout server wants them.
        prompt_ids: Prompt token ids with expanded audio placeholders ``[B, P]``, right-padded.
        prompt_lengths: Real tokens of each prompt, in main memory ``[B]``.
        features: Log-mel features ``[B, M, F]`` of the heard part and two frames more where there is room.
        feature_lengths: Heard mel frames, in main memory ``[B]``.
        labels: Text of the option that is rewarded (GRPO) or None where there is none.
        completions: Targets (SFT), or what the rollout callback sampled; None before it has.
        audio: Embeddings of each clip's audio tokens ``[tokens, H]`` where they are known already.
        spares: How many of the last questions are spare ones, which are asked only in place of others.
    """

    questions: list[Question]
    waveforms: list[np.ndarray]
    request_ids: list[list[int]]
    prompt_ids: Tensor
    prompt_lengths: np.ndarray
    features: Tensor
    feature_lengths: np.ndarray
    labels: list[str | None]
    completions: Completions | None = None
    audio: list[Tensor] | None = None
    spares: int = 0

    def __post_init__(self) -> None:
        """Take lengths as a list or a tensor in main memory too."""
        self.prompt_lengths = np.asarray(self.prompt_lengths, dtype=np.int64)
        self.feature_lengths = np.asarray(self.feature_lengths, dtype=np.int64)

    def __len__(self) -> int:
        """Return B."""
        return len(self.questions)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy with all tensors on ``device``."""
        return _moved(self, device, non_blocking)

    def pin_memory(self) -> Self:
        """Return a copy with all tensors in pinned memory."""
        return _pinned(self)

    def __getitem__(self, rows: slice) -> Self:
        """Return the questions in ``rows`` with everything that belongs to them, for micro-batches."""
        kinds = (Tensor, np.ndarray, list)
        part: dict[str, Any] = {name: v[rows] for name, v in vars(self).items() if isinstance(v, kinds)}
        done = self.completions
        if done is not None:
            sliced: dict[str, Any] = {n: v[rows] for n, v in vars(done).items() if isinstance(v, kinds)}
            done = dataclasses.replace(done, **sliced)
        return dataclasses.replace(self, **part, completions=done)

    def chosen(self, rows: Sequence[int]) -> Self:
        """Return some of the questions, in any order, without completions.

        Args:
            rows: Their places in the batch.
        """
        part: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, list):
                part[name] = [value[row] for row in rows]
            elif isinstance(value, (Tensor, np.ndarray)):
                part[name] = value[list(rows)]
        return dataclasses.replace(self, **part, completions=None, spares=0)

    def become(self, other: Self) -> None:
        """Take the questions of another batch, for whoever has this one; completions stay.

        Args:
            other: The other batch.
        """
        vars(self).update({name: value for name, value in vars(other).items() if name != "completions"})


def _moved(item: T, device: torch.device | str, non_blocking: bool) -> T:
    onward = non_blocking or torch.device(device).type != "cpu"  # only in main memory could it be read too early
    moved = {
        name: value.to(device, non_blocking=onward)
        for name, value in vars(item).items()
        if isinstance(value, (Tensor, Completions))
    }
    return dataclasses.replace(item, **moved)


def _pinned(item: T) -> T:
    pinned = {name: v.pin_memory() for name, v in vars(item).items() if isinstance(v, (Tensor, Completions))}
    return dataclasses.replace(item, **pinned)
