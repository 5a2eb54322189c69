"""One of two ranks that share a student's weights, beside the same student whole: ``WEIGHTS OUTPUT``."""

import json
import math
import os
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import AutoProcessor

from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.adapters import LoRASettings
from lightning_modules.models.sharding import copies_of
from lightning_modules.models.student import Student
from lightning_modules.objectives.losses import sft_loss
from lightning_modules.student_training import bound_gradients
from planning.memory import Account
from planning.operations import Onlooker
from tests.support.students import make_batch

TOKENS = 68.0
LIMIT = 0.01


def backward(student: Student, batches: list[AudioQABatch], keep: bool = False) -> tuple[float, Tensor]:
    """Add the gradients of micro-batches; returns their loss and the log-probabilities."""
    loss, found = 0.0, []
    for turn, batch in enumerate(batches):
        if student.sharded:
            student.reduce_gradients(not keep or turn == len(batches) - 1)
        scores = student.completion_logprobs(batch)
        part = sft_loss(scores.logprobs, batch.completions.mask, torch.tensor(TOKENS))
        part.backward()
        loss += float(part.detach())
        found.append(scores.logprobs.detach()[batch.completions.mask])
    return loss, torch.cat(found)


def gradients(student: Student) -> Tensor:
    """Return the gradients of all trained weights, whole."""
    found = [p.grad for _, p in student.trainable_parameters() if p.grad is not None]
    return torch.cat([(g.full_tensor() if student.sharded else g).flatten() for g in found])


def main(weights: str, output: str) -> None:
    """Compare, and write what was found on rank 0."""
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    mesh = init_device_mesh("cpu", (2,))
    lengths = [[4, 7, 3, 6], [2, 5, 8, 1], [3, 3, 3, 3], [9, 2, 2, 7]]
    batch = make_batch(AutoProcessor.from_pretrained(weights), [2.0, 0.9, 1.4, 1.0], lengths)
    halves = [batch[0:2], batch[2:4]]
    mine = halves[rank]
    ones = [mine[0:1], mine[1:2]]

    def shared(
        copies: int = 1, gathered: torch.dtype | None = None, lora: LoRASettings | None = None, dtype: str = "float32"
    ) -> Student:
        torch.manual_seed(0)
        student = Student(weights, lora, dtype=dtype)
        spread: DeviceMesh = copies_of(mesh, copies)
        student.shard(spread, gathered)
        return student

    def relative(found: Tensor, expected: Tensor) -> float:
        return float((found - expected).norm() / expected.norm())

    whole = Student(weights)
    expected_loss = [backward(whole, [half])[0] for half in halves][rank]
    expected = gradients(whole) / 2  # ranks take the mean
    whole.zero_grad()
    plain = backward(whole, [mine])[1]
    said: dict[str, object] = {}

    student = shared()
    loss, _ = backward(student, [mine])
    said["loss"] = abs(loss - expected_loss)
    said["gradient"] = relative(once := gradients(student), expected)
    parameters = [p for _, p in student.trainable_parameters()]
    said["norm"] = float(bound_gradients(parameters, LIMIT)) / float(expected.double().norm())
    said["bounded"] = float(gradients(student).double().norm()) / LIMIT
    said["unbounded"] = float(bound_gradients(parameters, None)) / LIMIT

    def accumulated(student: Student, keep: bool) -> tuple[Tensor, int]:
        student.zero_grad()
        account = Account()
        account.begin("forward")
        with Onlooker(account, without_values=False) as onlooker:
            backward(student, ones, keep)
        return gradients(student), onlooker.collectives.count["reduce-scatter"]

    each, sent_each = accumulated(student, keep=False)
    kept, sent_kept = accumulated(student, keep=True)
    said["each"], said["kept"] = relative(each, once), relative(kept, once)
    said["sent"] = [sent_each, sent_kept]

    copies = shared(2)
    backward(copies, [mine])
    said["copies"] = relative(gradients(copies), expected)

    low = shared(gathered=torch.bfloat16)
    _, low_logprobs = backward(low, [mine])
    found = gradients(low)
    said["low"] = float((low_logprobs - plain).abs().mean() / plain.abs().mean())
    said["types"] = sorted({str(p.dtype) for _, p in low.trainable_parameters()} | {str(found.dtype)})
    said["low gradient"] = float(torch.nn.functional.cosine_similarity(found, expected, 0))
    said["digits"] = float((found.bfloat16().float() != found).float().mean())

    adapted = shared(gathered=torch.bfloat16, lora=LoRASettings(rank=2), dtype="bfloat16")
    torch.manual_seed(0)
    beside = Student(weights, LoRASettings(rank=2))
    for half in halves:
        backward(beside, [half])
    backward(adapted, ones, keep=True)
    found = gradients(adapted)
    said["adapters"] = float(torch.nn.functional.cosine_similarity(found, gradients(beside), 0))
    said["base"] = sorted({str(p.dtype) for p in adapted.parameters() if not p.requires_grad})
    said["adapter types"] = str(found.dtype)
    assert all(math.isfinite(value) for value in said.values() if isinstance(value, float))
    Path(f"{output}.{rank}").write_text(json.dumps(said))
    distributed.barrier()
    distributed.destroy_process_group()
