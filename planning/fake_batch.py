"""Batches of a given size; lengths are true, everything else is made up."""

from typing import Any

import numpy as np
import torch

from datamodules.batching.audio_tokens import EDGE_FRAMES
from datamodules.batching.batch import AudioQABatch, Completions
from datamodules.batching.front_end import FrontEnd
from datamodules.media.audio import SAMPLE_RATE
from records.records import Question

FRAME_RATE = 100
"""Mel frames of a second."""


def fake_batch(
    front_end: FrontEnd,
    questions: int,
    completions: int,
    audio_token: int,
    mel_bins: int,
    seconds: float,
    prompt: int,
    completion: int,
) -> AudioQABatch:
    """Return questions that all have the greatest length.

    Args:
        front_end: How the clips become audio tokens.
        questions: B.
        completions: G.
        audio_token: Id of the audio placeholder.
        mel_bins: M.
        seconds: Length of the clips.
        prompt: Tokens of a prompt beside the audio.
        completion: C, tokens of each completion.
    """
    frames = max(round(FRAME_RATE * seconds), 4)
    heard = np.full(questions, frames)
    audio = int(front_end.num_tokens(frames))
    word = audio_token - 1 if audio_token else 1
    text = torch.full((questions, prompt), word)
    ids = torch.cat([text[:, :1], torch.full((questions, audio), audio_token), text[:, 1:]], 1)
    shape = (questions, completions, completion)
    asked: Any = [[word, audio_token, *[word] * (prompt - 1)] for _ in range(questions)]
    return AudioQABatch(
        questions=[Question(f"plan/{b}", "plan", f"{b}.wav", "Which?", ("a", "b"), 0, "all") for b in range(questions)],
        waveforms=[np.zeros(round(SAMPLE_RATE * seconds), dtype=np.float32)] * questions,
        request_ids=asked,
        prompt_ids=ids,
        prompt_lengths=np.full(questions, prompt + audio),
        features=torch.zeros(questions, mel_bins, frames + EDGE_FRAMES),
        feature_lengths=heard,
        labels=["a"] * questions,
        completions=Completions(
            ids=torch.full(shape, word),
            mask=torch.ones(shape, dtype=torch.bool),
            texts=[["<think>x</think><answer>a</answer>"] * completions for _ in range(questions)],
            finished=np.ones(shape[:2], dtype=bool),
            logprobs=torch.zeros(shape),
            lengths=np.full(shape[:2], completion),
            reference_logprobs=torch.zeros(shape),
            teacher_logprobs=torch.zeros(shape),
        ),
    )
