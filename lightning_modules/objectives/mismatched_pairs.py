"""Traces paired with the sound of another clip: examples of what does not fit, which cost no verdicts."""

import torch
from torch import Tensor

from datamodules.batching.heard_traces import AlignmentBatch


def mismatched_pairs(batch: AlignmentBatch) -> tuple[Tensor, Tensor]:
    """Pair accepted traces with another clip of the batch, of which nothing of the same wording was accepted.

    Args:
        batch: Clips and traces with verdicts.

    Returns:
        The clips, and the rows of the traces.
    """
    accepted = [bool(label == 1) for label in batch.labels.tolist()]
    clip_index = batch.clip_index.tolist()
    media = [question.media for question in batch.questions]
    true_of: dict[str, set[str]] = {}
    for row, is_true in enumerate(accepted):
        if is_true:
            true_of.setdefault(media[clip_index[row]], set()).add(batch.traces[row].reasoning)
    rows, others = [], []
    for row, is_true in enumerate(accepted):
        if not is_true:
            continue
        said = batch.traces[row].reasoning
        choices = [
            clip
            for clip, name in enumerate(media)
            if name != media[clip_index[row]] and said not in true_of.get(name, ())
        ]
        if choices:
            rows.append(row)
            others.append(choices[int(torch.randint(len(choices), ()))])
    device = batch.clip_index.device
    return torch.tensor(others, dtype=torch.long, device=device), torch.tensor(rows, dtype=torch.long, device=device)
