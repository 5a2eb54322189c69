"""A batch in parts holds every completion once."""

import numpy as np
import pytest
import torch

from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.micro_batches import micro_batches, parts
from records.records import Question


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([1, 1, 1, 1, 1], 2, [(0, 2, 0, 1), (2, 4, 0, 1), (4, 5, 0, 1)]),
        ([2, 2, 1], 3, [(0, 1, 0, 2), (1, 3, 0, 2)]),  # the second question stays whole
        ([8, 1, 2], 3, [(0, 1, 0, 3), (0, 1, 3, 6), (0, 1, 6, 8), (1, 3, 0, 2)]),
        ([1, 4, 1], 3, [(0, 1, 0, 1), (1, 2, 0, 3), (1, 2, 3, 4), (2, 3, 0, 1)]),
        ([3, 0, 2], 8, [(0, 3, 0, 3)]),
    ],
)
def test_parts(counts: list[int], size: int, expected: list[tuple[int, ...]]) -> None:
    found = [
        (p.questions.start, p.questions.stop, p.completions.start, p.completions.stop) for p in parts(counts, size)
    ]
    assert found == expected


def test_micro_batches_hold_each_completion_once() -> None:
    lengths = torch.tensor([[4, 2, 5], [3, 0, 0], [1, 6, 0]])
    mask = torch.arange(6) < lengths[..., None]
    ids = torch.arange(54).view(3, 3, 6)
    texts = [["a", "b", "c"], ["d", "", ""], ["e", "f", ""]]
    batch = AudioQABatch(
        questions=[Question(f"q/{i}", "avqa", "a.wav", "What?", ("dog",), 0, "Which") for i in range(3)],
        waveforms=[np.zeros(4, np.float32)] * 3,
        request_ids=[[1]] * 3,
        prompt_ids=torch.arange(3)[:, None],
        prompt_lengths=torch.ones(3, dtype=torch.long),
        features=torch.zeros(3, 2, 4),
        feature_lengths=torch.full((3,), 2),
        labels=["dog"] * 3,
        completions=Completions(ids, mask, texts, torch.ones(3, 3, dtype=torch.bool)),
    )
    found = micro_batches(batch, 2)
    assert [[q.id for q in part.questions] for part in found] == [["q/0"], ["q/0"], ["q/1"], ["q/2"]]
    assert [part.completions.texts for part in found] == [[["a", "b"]], [["c"]], [["d"]], [["e", "f"]]]
    assert all(int(part.completions.mask.any(-1).sum()) <= 2 for part in found)
    torch.testing.assert_close(torch.cat([p.completions.ids[p.completions.mask] for p in found]), ids[mask])
    assert [part.completions.ids.shape[-1] for part in found] == [4, 5, 3, 6]  # no longer than its longest
    assert micro_batches(batch, None) == [batch]
