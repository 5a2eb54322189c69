"""What a DataLoader hands to the modules and callbacks.

Letters of shapes, used everywhere: B questions, G completions of each, P prompt tokens (audio placeholders expanded),
C completion tokens, M mel bins, F mel frames, H hidden size, V vocabulary.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from datamodules.records import Question

T = TypeVar("T", bound=Any)


@dataclass
class Completions:
    """G completions of each of B prompts: targets of SFT, or rollouts.

    Attributes:
        ids: Token ids ``[B, G, C]``, right-padded; a finished completion includes its end token.
        mask: True on real tokens ``[B, G, C]``.
        texts: ``[B][G]`` completions as text, without the end token.
        logprobs: Log-probabilities under the policy that sampled, at its temperature ``[B, G, C]``; None for targets.
        finished: False where the completion was cut at the token limit ``[B, G]``.
        weight_version: Version of the weights that sampled; None for targets.
        seconds: Time that sampling took.
        stale: True where the weights that sampled are older than those that are trained.
    """

    ids: Tensor
    mask: Tensor
    texts: list[list[str]]
    finished: Tensor
    logprobs: Tensor | None = None
    weight_version: str | None = None
    seconds: float = 0.0
    stale: bool = False

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
        prompt_lengths: Real tokens of each prompt ``[B]``.
        features: Log-mel features ``[B, M, F]`` of the heard part and two frames more where there is room.
        feature_lengths: Heard mel frames ``[B]``.
        labels: Text of the option that is rewarded (GRPO) or None where there is none.
        completions: Targets (SFT), or what the rollout callback sampled; None before it has.
        audio: Embeddings of each clip's audio tokens ``[tokens, H]`` where they are known already.
    """

    questions: list[Question]
    waveforms: list[np.ndarray]
    request_ids: list[list[int]]
    prompt_ids: Tensor
    prompt_lengths: Tensor
    features: Tensor
    feature_lengths: Tensor
    labels: list[str | None]
    completions: Completions | None = None
    audio: list[Tensor] | None = None

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
        part: dict[str, Any] = {
            name: v[rows] for name, v in vars(self).items() if name != "completions" and v is not None
        }
        done = self.completions
        if done is not None:
            sliced: dict[str, Any] = {n: v[rows] for n, v in vars(done).items() if isinstance(v, (Tensor, list))}
            done = dataclasses.replace(done, **sliced)
        return dataclasses.replace(self, **part, completions=done)


def _moved(item: T, device: torch.device | str, non_blocking: bool) -> T:
    moved = {
        name: value.to(device, non_blocking=non_blocking)
        for name, value in vars(item).items()
        if isinstance(value, (Tensor, Completions))
    }
    return dataclasses.replace(item, **moved)


def _pinned(item: T) -> T:
    pinned = {name: v.pin_memory() for name, v in vars(item).items() if isinstance(v, (Tensor, Completions))}
    return dataclasses.replace(item, **pinned)
