"""What a real vLLM server makes of exported weights, and of more prompts than it can begin at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from callbacks.rollout.parity import measure_parity
from callbacks.rollout.rollout_callback import end_token_ids
from datamodules.batching.collate import Collator
from datamodules.prompts.questions import THINK_SHORT
from inference.vllm.client import VLLMClient, audio_url
from inference.vllm.sampling import SamplingParams
from inference.vllm_server import VLLMServer
from inference.weight_transfer.weight_sync import push
from lightning_modules.models.student import LoRASettings, Student
from tests.support.questions import example

pytestmark = pytest.mark.server


@pytest.mark.parametrize("lora", [None, LoRASettings()], ids=["full", "lora"])
def test_an_export_is_the_same_model_on_the_server(
    vllm_server: VLLMServer, server_weights: Path, tmp_path: Path, lora: LoRASettings | None
) -> None:
    student = Student(str(server_weights), lora).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, weight in student.trainable_parameters():
            weight += 0.05 * weight.abs().mean().clamp(min=0.1) * torch.randn(weight.shape, generator=generator)
    batch = Collator(student.processor, THINK_SHORT)([example(number) for number in range(2)])
    client = VLLMClient(vllm_server.url, request_seconds=60)
    before = measure_parity(client, student, batch, 1.0, seed=3)
    student.save_pretrained(tmp_path / "export")
    push(client, tmp_path / "export", "exported")
    after = measure_parity(client, student, batch, 1.0, seed=3)
    assert before.largest_gap > 1e-2  # the server had other weights
    assert after.largest_gap < 1e-3
    assert after.tokens > 20


def test_more_seeded_prompts_than_fit_into_a_step(vllm_server: VLLMServer, server_weights: Path) -> None:
    """A prompt must not be split over two steps: with a seed that ends the engine of vLLM 0.32 on the CPU."""
    student = Student(str(server_weights)).eval()
    examples = [example(number) for number in range(64)]
    batch = Collator(student.processor, THINK_SHORT)(examples)
    assert int(batch.prompt_lengths.sum()) > 2 * 2048  # tokens that vLLM begins at once unless told otherwise
    stop = end_token_ids(student.processor.tokenizer)
    client = VLLMClient(vllm_server.url, request_seconds=120)

    def ask(row: int) -> int:
        answer = client.generate(
            batch.request_ids[row], audio_url(batch.waveforms[row]), SamplingParams(4, 8, 1.0, row, stop)
        )
        return len(answer.samples)

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [4] * 64
