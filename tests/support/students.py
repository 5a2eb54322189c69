"""Tiny students and batches for them, made with transformers' own processors."""

import numpy as np
import torch

from datamodules.batching.batch import AudioQABatch, Completions
from records.records import Question
from tests.support import tiny_flamingo, tiny_model, tiny_omni

ARCHITECTURES = {
    "qwen2_audio": tiny_model.build,
    "qwen2_5_omni": tiny_omni.build,
    "audio_flamingo_3": tiny_flamingo.build,
}
"""Families by name: each test of the contract of a student runs for all of them."""

AUDIO = {"<|AUDIO|>": "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"}
"""What is around the placeholder in a prompt, where there is something."""


def clip(seconds: float, seed: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(int(16000 * seconds))).astype(np.float32)


def heard_by(processor, waveform: np.ndarray) -> dict[str, torch.Tensor]:
    """What a family's own processor makes of a clip, by the names under which its model takes it."""
    inputs = processor(text=[processor.audio_token], audio=[waveform], sampling_rate=16000, return_tensors="pt")
    known = ("input_features", "feature_attention_mask", "input_features_mask")
    return {name: inputs[name] for name in known if name in inputs}


def make_batch(processor, seconds: list[float], lengths: list[list[int]], seed: int = 0) -> AudioQABatch:
    """B clips of the given lengths, G random completions each of the given token counts, padded."""
    waveforms = [clip(s, seed + i) for i, s in enumerate(seconds)]
    sound = AUDIO.get(processor.audio_token, processor.audio_token)
    texts = [
        f"<|im_start|>user\n{sound}What{'?' * (3 * i + 1)}<|im_end|>\n<|im_start|>assistant\n"
        for i in range(len(seconds))
    ]
    separate = [
        processor(text=[t], audio=[w], sampling_rate=16000, return_tensors="pt")
        for t, w in zip(texts, waveforms, strict=True)
    ]
    prompts = [inputs["input_ids"][0] for inputs in separate]
    # windows of a clip one after the other: all but the last are full
    clips = [heard_by(processor, w) for w in waveforms]
    heard = torch.tensor([sum(int(v.sum()) for name, v in clip.items() if "mask" in name) for clip in clips])
    joined = [clip["input_features"].transpose(0, 1).flatten(1).T for clip in clips]
    features = torch.nn.utils.rnn.pad_sequence(joined, batch_first=True).transpose(1, 2)[..., : int(heard.max()) + 2]
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
        audio = heard_by(processor, waveform)
        prompt = batch.prompt_ids[b, : batch.prompt_lengths[b]]
        group = []
        for g in range(done.ids.shape[1]):
            target = done.ids[b, g][done.mask[b, g]]
            logits = model(
                input_ids=torch.cat([prompt, target])[None],
                attention_mask=torch.ones(1, len(prompt) + len(target), dtype=torch.long),
                **audio,
            ).logits[0, len(prompt) - 1 : -1]
            scores = logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]
            group.append(torch.nn.functional.pad(scores, (0, done.ids.shape[2] - len(target))))
        rows.append(torch.stack(group))
    return torch.stack(rows)
