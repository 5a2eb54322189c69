"""A reference on a real vLLM server is the reference in this process."""

from pathlib import Path

import lightning
import pytest
import torch

from benchmarks.fake_server import FakeServer
from callbacks.rollout.parity_gate import ParityGate
from callbacks.rollout.reference_servers import ReferenceServers
from callbacks.rollout.vllm_rollout import VLLMRollout
from inference.reference_pool import ReferencePool
from inference.vllm.client import VLLMClient
from inference.vllm.sampling import SamplingParams
from inference.vllm_server import VLLMServer
from lightning_modules.grpo import GRPOModule
from lightning_modules.objectives.losses import grpo_loss
from tests.support.questions import Questions

pytestmark = pytest.mark.server


class Kept(lightning.Callback):
    """Keeps the KL of each step by both ways, and sends the server through the gate."""

    def __init__(self, urls: list[str]) -> None:
        self.servers = ReferenceServers(ReferencePool(urls), ParityGate)
        self.here: list[float] = []
        self.kl: list[float] = []
        self.gaps: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        mask = batch.completions.mask
        with torch.no_grad():
            here = module.sft.completion_logprobs(batch, 1.0).logprobs
            policy = module.student.completion_logprobs(batch, 1.0).logprobs
        self.gaps.append(float((here - batch.completions.reference_logprobs)[mask].abs().max()))
        nothing = torch.zeros(mask.shape[:2])
        self.here.append(float(grpo_loss(policy, policy, here, nothing, mask, 0.2, 0.1, responses=4).kl))
        if batch_idx == 0:
            self.servers.pool.wait(1)
            self.servers.pass_alone(trainer, module, batch, SamplingParams(1, 8, 1.0, 0, ()))
            self.passed = [not server.gate_due for server in self.servers.pool.servers]
            self.servers.pool.close()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.kl.append(float(trainer.callback_metrics["train/kl"]))


def length(completion: str, question: object, label: object) -> float:
    """A reward that tells completions apart."""
    return float(len(completion))


def train(tmp_path: Path, weights: Path, drawing: FakeServer, urls: list[str]) -> Kept:
    module = GRPOModule(
        str(weights), lr=1e-4, num_completions=2, warmup_steps=0, reference_urls=urls, reward_functions=[length]
    )
    assert module.reference is None
    object.__setattr__(module, "sft", GRPOModule(str(weights), num_completions=2).reference)
    kept = Kept(urls)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=3,
        limit_val_batches=0,
        logger=False,
        callbacks=[VLLMRollout([drawing.url], max_new_tokens=8, parity_gate=False, seed=3), kept],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, Questions(module.student.processor, 6, 2))
    return kept


def test_the_kl_term_is_that_of_a_reference_here(vllm_server: VLLMServer, server_weights: Path, tmp_path: Path):
    with FakeServer(server_weights) as drawing:
        kept = train(tmp_path, server_weights, drawing, [vllm_server.url])
    print(f"largest gap {max(kept.gaps):.2g}, KL {kept.kl} and {kept.here}")
    assert kept.passed == [True]  # the parity gate
    assert max(kept.gaps) < 1e-3 and len(kept.gaps) == 3
    assert kept.kl == pytest.approx(kept.here, abs=1e-3) and kept.kl[-1] > 1e-4
    assert VLLMClient(vllm_server.url).weight_version() == "default"
