"""Server and trainer are the same policy: both say the same."""

import pytest
import torch

from callbacks.rollout.local_rollout import generate
from callbacks.rollout.rollout_callback import end_token_ids
from datamodules.batching.batch import AudioQABatch
from inference.vllm.client import VLLMClient, audio_url
from inference.vllm.sampling import SamplingParams
from lightning_modules.models.student import Student


def assert_local_rollouts_are_the_servers(client: VLLMClient, student: Student, batch: AudioQABatch) -> None:
    stop = end_token_ids(student.processor.tokenizer)
    sampling = [SamplingParams(1, 24, 0.0, 0, stop)] * len(batch)
    with torch.no_grad():
        local = generate(student, batch, sampling)
    for row, (mine,) in enumerate(local):
        answer = client.generate(batch.request_ids[row], audio_url(batch.waveforms[row]), sampling[row])
        assert mine.token_ids == answer.samples[0].token_ids
        assert mine.finished == answer.samples[0].finished
        assert mine.logprobs == pytest.approx(answer.samples[0].logprobs, abs=1e-4)
