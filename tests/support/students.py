"""Tiny students and batches for them, made with transformers' own processors."""

import numpy as np
import torch

from datamodules.batching.batch import AudioQABatch, Completions
from records.records import Question
from tests.support import tiny_model, tiny_omni

ARCHITECTURES = {"qwen2_audio": tiny_model.build, "qwen2_5_omni": tiny_omni.build}


def clip(seconds: float, seed: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def make_batch(processor, seconds: list[float], lengths: list[list[int]], seed: int = 0) -> AudioQABatch:
    """B clips of the given lengths, G random completions each of the given token counts, padded."""
    waveforms = [clip(s, seed + i) for i, s in enumerate(seconds)]
    texts = [
        f"<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat{'?' * (3 * i + 1)}<|im_end|>\n"
        "<|im_start|>assistant\n"
        for i in range(len(seconds))
    ]
    separate = [
        processor(text=[t], audio=[w], sampling_rate=16000, return_tensors="pt")
        for t, w in zip(texts, waveforms, strict=True)
    ]
    prompts = [inputs["input_ids"][0] for inputs in separate]
    heard = torch.tensor([int(inputs["feature_attention_mask"].sum()) for inputs in separate])
    features = torch.cat([inputs["input_features"] for inputs in separate])[..., : int(heard.max()) + 2]
    generator = torch.Generator().manual_seed(seed)
    longest = max(max(row) for row in lengths)
    shape = (len(lengths), len(lengths[0]), longest)
    mask = torch.arange(longest) < torch.tensor(lengths)[..., None]
    ids = torch.randint(6, len(processor.tokenizer), shape, generator=generator) * mask
    return AudioQABatch(
        questions=[
            Question(f"q/{i}", "avqa", "a.wav", "What?", ("dog", "cat"), 0, "Which") for i in range(len(seconds))
        ],
        waveforms=waveforms,
        request_ids=[processor.tokenizer(t)["input_ids"] for t in texts],
        prompt_ids=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
        prompt_lengths=torch.tensor([len(p) for p in prompts]),
        features=features,
        feature_lengths=heard,
        labels=["dog"] * len(seconds),
        completions=Completions(
            ids=ids,
            mask=mask,
            texts=[
                ["<think>x</think><answer>dog</answer>" if g % 2 else "cat" for g in range(len(lengths[0]))]
                for _ in seconds
            ],
            finished=torch.ones(shape[:2], dtype=torch.bool),
            logprobs=torch.zeros(shape),
        ),
    )


def released_logprobs(model, processor, batch: AudioQABatch) -> torch.Tensor:
    """Per-token log-probabilities by the unmodified ``model(**inputs).logits``, one clip and completion at a time."""
    done = batch.completions
    rows = []
    for b, waveform in enumerate(batch.waveforms):
        audio = processor.feature_extractor(
            waveform, sampling_rate=16000, return_attention_mask=True, padding="max_length", return_tensors="pt"
        )
        prompt = batch.prompt_ids[b, : batch.prompt_lengths[b]]
        group = []
        for g in range(done.ids.shape[1]):
            target = done.ids[b, g][done.mask[b, g]]
            logits = model(
                input_ids=torch.cat([prompt, target])[None],
                attention_mask=torch.ones(1, len(prompt) + len(target), dtype=torch.long),
                input_features=audio["input_features"],
                feature_attention_mask=audio["attention_mask"],
            ).logits[0, len(prompt) - 1 : -1]
            scores = logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]
            group.append(torch.nn.functional.pad(scores, (0, done.ids.shape[2] - len(target))))
        rows.append(torch.stack(group))
    return torch.stack(rows)
