"""The trained audio-text verifier as a judge of the student's traces, in the learner's process."""

from collections.abc import Sequence

import torch

from datamodules.batching.collate import Collator
from datamodules.batching.heard_traces import AlignmentCollator, LabelledTraces
from datamodules.prompts.questions import PROMPTS
from lightning_modules.audio_text_verifier import AudioTextVerifier
from lightning_modules.grounding_reward import Judge, Judgement
from lightning_modules.models.frozen_audio_encoder import Hears
from runtime.errors import refuse_below


class TrainedJudge(Judge):
    """Frozen, on the learner's device, in float32 whatever the precision of training is.

    It takes the memory of its encoder and of its token embeddings on each device; no language model is loaded.
    """

    def __init__(self, weights: str, head: str, hears: Hears = "encoder", clips_at_once: int = 8) -> None:
        """Say what it is; it is loaded at the start of training.

        Args:
            weights: Hub name or directory of the student whose encoder and token embeddings the head was trained on.
            head: Directory of the trained head, as ``fit --config verifier.yaml`` writes it.
            hears: What the head was trained to be given of the sound.
            clips_at_once: Clips, each with all its traces, that are judged in one pass.
        """
        refuse_below(1, "TrainedJudge: ", clips_at_once=clips_at_once)
        self.weights = weights
        self.head = head
        self.hears: Hears = hears
        self.clips_at_once = clips_at_once
        self._verifier: AudioTextVerifier | None = None
        self._collate: AlignmentCollator | None = None

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Load the verifier.

        Raises:
            UserError: There is no head, or it is one of another encoder.
        """
        verifier = AudioTextVerifier(self.weights, self.head, self.hears).eval().to(device)
        verifier.requires_grad_(False)
        self._verifier = verifier
        self._collate = AlignmentCollator(Collator(verifier.processor, PROMPTS["think"]))

    def close(self) -> None:
        """Free its memory."""
        self._verifier = self._collate = None

    @torch.no_grad()
    def judge(self, items: Sequence[LabelledTraces]) -> list[list[Judgement]]:
        """Judge traces as a whole; see :class:`.grounding_reward.Judge`."""
        verifier, collate = self._verifier, self._collate
        assert verifier is not None and collate is not None, "prepare() comes first"
        device = verifier.head.bias.device
        found: list[list[Judgement]] = []
        for start in range(0, len(items), self.clips_at_once):
            part = items[start : start + self.clips_at_once]
            with torch.autocast(device.type, enabled=False):
                probabilities = verifier.head.probability(verifier.logits(collate(part).to(device))).tolist()
            ready = iter(probabilities)
            found += [[(next(ready),) for _ in item.traces] for item in part]
        return found
