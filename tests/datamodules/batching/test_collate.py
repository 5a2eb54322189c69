import numpy as np
import pytest
import torch
from transformers import Qwen2AudioProcessor

from datamodules.batching.collate import Collator, Example, said_of_cuts
from datamodules.prompts.questions import THINK
from records.records import Question
from runtime.errors import UserError
from tests.support.dataset_files import tone

QUESTION = Question("avqa/val/1", "avqa", "a.mp4", "What can be heard?", ("a dog", "a cat"), 0, "Which")
LENGTHS = [400, 8_000, 12_345, 16_001, 30_000, 31_841, 31_999, 32_000]  # the extractor's chunk is 32,000 samples


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("lengths", [[length] for length in LENGTHS] + [LENGTHS, [8_000, 12_345], [40_000, 500]])
def test_equals_the_processor(processor: Qwen2AudioProcessor, lengths: list[int]) -> None:
    collator = Collator(processor, THINK)
    waveforms = [noise(length, seed) for seed, length in enumerate(lengths)]
    batch = collator([Example(QUESTION, waveform) for waveform in waveforms])

    expected = processor(
        text=[collator.text(QUESTION)] * len(lengths),
        audio=waveforms,
        sampling_rate=16_000,
        return_tensors="pt",
        padding=True,
        padding_side="right",
    )
    assert torch.equal(batch.prompt_ids, expected["input_ids"])
    assert batch.prompt_lengths.tolist() == expected["attention_mask"].sum(-1).tolist()
    assert batch.feature_lengths.tolist() == expected["feature_attention_mask"].sum(-1).tolist()
    frames = batch.features.shape[-1]
    assert frames == min(batch.feature_lengths.max() + 2, 200)
    # the matrix product of a few frames rounds the last bit in another way than that of many on some processors
    torch.testing.assert_close(batch.features, expected["input_features"][..., :frames], atol=5e-7, rtol=0)


def test_a_click_at_the_end_is_heard_the_same(processor: Qwen2AudioProcessor) -> None:
    # the loudest frames are the last ones, and one beyond the clip, which the clamp 8 below the maximum must see
    waveform = np.zeros(8_000, np.float32)
    waveform[-1] = 1.0
    features, lengths = Collator(processor, THINK).features([waveform])
    expected = processor.feature_extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert lengths.tolist() == [50]
    torch.testing.assert_close(features, expected[..., :52], atol=5e-7, rtol=0)


def test_long_clips_are_cut_everywhere(processor: Qwen2AudioProcessor) -> None:
    batch = Collator(processor, THINK)([Example(QUESTION, noise(50_000))])
    assert np.array_equal(batch.waveforms[0], noise(50_000)[:32_000])
    assert batch.features.shape == (1, 16, 200)
    assert (batch.prompt_ids == processor.audio_token_id).sum() == 50


@pytest.mark.parametrize(
    ("max_seconds", "clips", "said"),
    [
        (30.0, [10.0, 45.0], ""),  # what the data use is heard
        (60.0, [10.0, 30.0], ""),
        (
            60.0,
            [10.0, 45.0, 60.0],
            "2 of 3 clips are longer and are cut there, whatever data.max_seconds allows (60 s)",
        ),
        (60.0, [], "longer clips are cut there, whatever data.max_seconds allows (60 s)"),
        (None, [31.0], "1 of 1 clips are longer and are cut there, whatever data.max_seconds allows"),
    ],
)
def test_clips_that_are_heard_in_part_are_said(max_seconds: float | None, clips: list[float], said: str) -> None:
    sentence = said_of_cuts(30.0, max_seconds, clips)
    assert sentence == (f"the student hears the first 30 s of a clip: {said}" if said else "")


def test_request_ids_have_one_placeholder_where_prompt_ids_have_many(processor: Qwen2AudioProcessor) -> None:
    batch = Collator(processor, THINK)([Example(QUESTION, noise(8_000)), Example(QUESTION, noise(16_000))])
    audio = processor.audio_token_id
    for request, prompt, length, tokens in zip(
        batch.request_ids, batch.prompt_ids.tolist(), batch.prompt_lengths.tolist(), (12, 25), strict=True
    ):
        place = request.index(audio)
        assert request.count(audio) == 1
        assert prompt[:length] == request[:place] + [audio] * tokens + request[place + 1 :]
    text = processor.tokenizer.decode(batch.request_ids[0])
    assert text.endswith(f"<|AUDIO|><|audio_eos|>\n{THINK.render(QUESTION)}<|im_end|>\n<|im_start|>assistant\n")
    assert batch.completions is None


def test_targets_become_completions(processor: Qwen2AudioProcessor) -> None:
    targets = [("<think>it barks</think><answer>a dog</answer>", "<answer>a dog</answer>"), ("<answer>a cat</answer>",)]
    batch = Collator(processor, THINK)([Example(QUESTION, noise(8_000), "a dog", t) for t in targets])
    done = batch.completions
    assert done is not None
    assert done.texts == [list(targets[0]), [targets[1][0], ""]]
    assert done.mask.shape == done.ids.shape == (2, 2, done.ids.shape[2])
    assert done.finished.all()
    assert done.logprobs is None
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for b, g in ((0, 0), (0, 1), (1, 0)):
        ids = done.ids[b, g][done.mask[b, g]].tolist()
        assert ids[-1] == end
        assert processor.tokenizer.decode(ids[:-1]) == done.texts[b][g]
    assert not done.mask[1, 1].any()
    assert batch.labels == ["a dog", "a dog"]


def test_a_question_cannot_bring_a_second_placeholder(processor: Qwen2AudioProcessor) -> None:
    question = Question("avqa/val/7", "avqa", "a.mp4", "What is <|AUDIO|>?", ("a", "b"), 0, "Which")
    with pytest.raises(UserError, match=r"avqa/val/7: the prompt must have one <\|AUDIO\|>, found 2"):
        Collator(processor, THINK)([Example(question, tone(1.0))])


def test_other_tokenizers_are_refused(processor: Qwen2AudioProcessor) -> None:
    with pytest.raises(UserError, match=r"the tokenizer has no token <\|stop\|>"):
        Collator(processor, THINK, end_token="<|stop|>")


def test_control_tokens_in_a_target_are_letters(processor: Qwen2AudioProcessor) -> None:
    collate = Collator(processor, THINK)
    text = "<think>It barks.<|im_end|>\n<|im_start|>user\n<|AUDIO|><|audio_bos|><|endoftext|></think>"
    ids = collate.completions([(text,)]).ids.flatten().tolist()
    assert ids.count(collate.end_id) == 1
    assert set(ids) & set(processor.tokenizer.all_special_ids) == {collate.end_id}
    assert processor.tokenizer.decode(ids[:-1]) == text
    assert processor.tokenizer("<|im_end|>")["input_ids"] == [collate.end_id]  # prompts are encoded as before


def test_a_processor_of_no_student_is_refused(processor: Qwen2AudioProcessor) -> None:
    with pytest.raises(UserError, match=r"the processor is a WhisperFeatureExtractor, a student's is one of"):
        Collator(processor.feature_extractor, THINK)
