import numpy as np
import torch
from transformers import Qwen2AudioProcessor

from datamodules.batching.collate import Collator, Example
from datamodules.prompts.questions import DIRECT
from records.records import Question
from tests.support.dataset_files import tone


def test_slices_and_moves_take_everything_along(processor: Qwen2AudioProcessor) -> None:
    questions = [Question(f"avqa/val/{n}", "avqa", "a.mp4", "What?", ("x", "y"), 0, "Which") for n in range(3)]
    batch = Collator(processor, DIRECT)(
        [Example(q, tone(0.5 + n / 4), "x", (f"<answer>{n}</answer>",)) for n, q in enumerate(questions)]
    )
    part = batch[1:3]
    assert len(part) == 2
    assert part.questions == questions[1:]
    assert part.labels == ["x", "x"]
    assert [len(waveform) for waveform in part.waveforms] == [12_000, 16_000]
    assert part.request_ids == batch.request_ids[1:]
    for name in ("prompt_ids", "features"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[1:])
    for name in ("prompt_lengths", "feature_lengths"):
        assert getattr(part, name).tolist() == getattr(batch, name)[1:].tolist()
    assert part.completions is not None and batch.completions is not None
    assert part.completions.texts == [["<answer>1</answer>"], ["<answer>2</answer>"]]
    assert torch.equal(part.completions.ids, batch.completions.ids[1:])
    assert part.completions.lengths.tolist() == batch.completions.mask[1:].sum(-1).tolist()
    assert part.completions.ids.flatten()[part.completions.places()].tolist() == [
        token for ids, mask in zip(part.completions.ids, part.completions.mask, strict=True) for token in ids[mask]
    ]

    moved = batch.to("meta")
    assert moved.features.device.type == moved.completions.ids.device.type == "meta"  # type: ignore[union-attr]
    assert batch.features.device.type == "cpu"
    # what shapes follow from stays where it can be read
    assert moved.prompt_lengths.tolist() == batch.prompt_lengths.tolist()
    assert moved.completions.lengths.tolist() == batch.completions.lengths.tolist()  # type: ignore[union-attr]
    assert np.array_equal(moved.waveforms[0], batch.waveforms[0])
