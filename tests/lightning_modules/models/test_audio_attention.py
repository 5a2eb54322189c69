"""Each attention of the audio tower is given the mask that it reads, so that all of them hear the same."""

import pytest
import torch
from transformers import AttentionInterface

from lightning_modules.models.architectures.audio_encoding import attention_mask
from lightning_modules.models.checkpoints.checkpoint_folder import WeightsError
from lightning_modules.models.student import Student
from runtime.errors import UserError
from tests.support.students import make_batch


def unpadded(module, query, key, value, mask, scaling=None, **_):
    """Attend as flash attention does: rows are cut to what the mask keeps, the rest comes out as zero."""
    assert mask is None or (mask.ndim == 2 and mask.shape[1] == key.shape[2])
    out = torch.zeros_like(query).transpose(1, 2)
    for row in range(len(query)):
        kept = slice(None) if mask is None else mask[row].nonzero()[:, 0]
        part = (x[row : row + 1, :, kept] for x in (query, key, value))
        out[row, kept] = torch.nn.functional.scaled_dot_product_attention(*part, scale=scaling)[0].transpose(0, 1)
    return out, None


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_clips_of_unequal_length_are_heard_alike(weights: str, processor, monkeypatch, attention: str) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", unpadded)
    batch = make_batch(processor, [2.0, 0.43, 1.01], [[1], [1], [1]])
    student = Student(weights, dtype="float32").eval()
    with torch.no_grad():
        expected = student.encode_audio(batch)
        student.audio_modules["audio_tower"].config._attn_implementation = attention
        monkeypatch.setattr(
            "lightning_modules.models.student.check_attention", lambda *_: None
        )  # the stand-in takes float32
        torch.testing.assert_close(student.encode_audio(batch), expected, atol=1e-5, rtol=0)


def test_the_additive_mask_hides_the_padding_for_all_positions() -> None:
    seen = torch.tensor([[True, True, True], [True, False, False]])
    mask = attention_mask(seen, "sdpa", torch.float32)
    low = torch.finfo(torch.float32).min
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0].eq(0).all() and mask[1, 0].eq(torch.tensor([0.0, low, low])).all()
    assert attention_mask(seen, "flash_attention_2", torch.float32) is seen


def test_flash_attention_in_float32_is_refused(weights: str, processor) -> None:
    student = Student(weights)
    student.audio_modules["audio_tower"].config._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="bfloat16 and float16 only"):
        student.encode_audio(make_batch(processor, [2.0], [[1]]))


def test_other_attentions_are_refused(weights: str) -> None:
    with pytest.raises(WeightsError, match="'flex_attention' is unknown: use sdpa, eager, flash_attention_2"):
        Student(weights, attn_implementation="flex_attention")
