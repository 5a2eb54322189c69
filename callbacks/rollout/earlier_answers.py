"""Completions of an interrupted evaluation, which need not be sampled again."""

from collections.abc import Mapping

import numpy as np
import torch

from datamodules.batching.batch import AudioQABatch, Completions
from records.records import Prediction


def earlier_completions(batch: AudioQABatch, earlier: Mapping[str, Prediction]) -> Completions | None:
    """Return the completions of a batch all of whose questions were answered before, None for another one.

    Args:
        batch: The batch.
        earlier: Answers of an interrupted evaluation by their question.

    Returns:
        Their texts; there are no tokens, since nothing is computed from them.
    """
    known = [earlier[question.id] for question in batch.questions if question.id in earlier]
    probes = [question.metadata.get("probe", "") for question in batch.questions]
    if not known or [prediction.probe for prediction in known] != probes:
        return None  # not all were, or they were asked with another sound
    shape = (len(known), 1, 1)
    return Completions(
        ids=torch.zeros(shape, dtype=torch.long),
        mask=torch.zeros(shape, dtype=torch.bool),
        texts=[[prediction.completion] for prediction in known],
        finished=np.array([[prediction.finished] for prediction in known]),
    ).to(batch.prompt_ids.device)
