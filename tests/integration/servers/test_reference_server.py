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
from tests.support.questions import Questions

pytestmark = pytest.mark.server


class Kept(lightning.Callback):
    """Keeps the KL of each step, compares log-probabilities by both ways, and sends the server through the gate."""

    def __init__(self, urls: list[str] | None) -> None:
        self.servers = ReferenceServers(ReferencePool(urls), ParityGate) if urls else None
        self.kl: list[float] = []
        self.gaps: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if batch.completions.reference_logprobs is not None:
            here = module.sft.completion_logprobs(batch, 1.0).logprobs
            gap = (here - batch.completions.reference_logprobs)[batch.completions.mask]
            self.gaps.append(float(gap.abs().max()))
        if self.servers is not None and batch_idx == 0:
            self.servers.pool.wait(1)
            self.servers.pass_alone(trainer, module, batch, SamplingParams(1, 8, 1.0, 0, ()))
            self.passed = [not server.gate_due for server in self.servers.pool.servers]
            self.servers.pool.close()

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.kl.append(float(trainer.callback_metrics["train/kl"]))


def kl_of(tmp_path: Path, weights: Path, drawing: FakeServer, urls: list[str] | None) -> Kept:
    torch.manual_seed(0)
    module = GRPOModule(str(weights), lr=1e-3, num_completions=2, beta=0.1, warmup_steps=0, reference_urls=urls)
    assert (module.reference is None) == (urls is not None)
    if urls is not None:
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
        served = kl_of(tmp_path, server_weights, drawing, [vllm_server.url])
    with FakeServer(server_weights) as drawing:
        here = kl_of(tmp_path, server_weights, drawing, None)
    print(f"largest gap {max(served.gaps):.2g}, KL {served.kl} and {here.kl}")
    assert served.passed == [True]
    assert max(served.gaps) < 1e-3 and len(served.gaps) == 3
    assert served.kl == pytest.approx(here.kl, abs=1e-3) and here.kl[-1] > 1e-2
    assert VLLMClient(vllm_server.url).weight_version() == "default"
