"""The student with the attention of :mod:`benchmarks.gpu.split_attention` in place of its own, to see what it saves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.learner import first_logprobs, given, grpo_step, ladder, middle, optimizer_of, up_to
from benchmarks.gpu.split_attention import Segments, split_attention
from benchmarks.gpu.work import Record, Work, new_student, throughput
from benchmarks.measuring.run_record import spread
from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.architectures.transformers_internals import set_attention
from lightning_modules.models.shared_prompt import ATTENTION
from lightning_modules.models.student import Student

NAME = "split_prompt"
_present: list[Segments] = []


@contextmanager
def splits(student: Student, batch: AudioQABatch) -> Iterator[None]:
    """Let a student attend to prompts and own tokens apart while it scores this batch, and no other."""
    assert batch.completions is not None
    language_model: Any = student.architecture.language_model(student.base)
    device = batch.prompt_ids.device
    _present.append(Segments.of(batch.prompt_lengths, batch.completions.lengths).to(device))
    set_attention(language_model, NAME)
    try:
        yield
    finally:
        set_attention(language_model, ATTENTION)
        _present.pop()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    return split_attention(query, key, value, _present[-1], scaling), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def measure(work: Work, record: Record) -> None:
    """GRPO steps with it, beside which those of the part ``grpo`` are to be held."""
    device = Device(work.device)
    student = new_student(work)
    optimizer = optimizer_of(student)
    batch, advantages = given(work, 1)

    def check() -> dict[str, Any]:
        with splits(student, batch):
            return {"first": first_logprobs(grpo_step(student, batch, advantages))}

    checked = attempt(check)
    record.add(check=checked.get("first", checked))
    optimizer.zero_grad()

    def rows(questions: int) -> dict[str, Any]:
        batch, advantages = given(work, questions)

        def step() -> None:
            with work.autocast():
                grpo_step(student, batch, advantages)
            optimizer.step()
            optimizer.zero_grad()

        with splits(student, batch):
            found = device.seconds(step, work.repeats)
        return {"seconds": spread(found, 4), **throughput(work, batch, middle(found), "grpo")}

    ladder(record, device, "split", up_to(work, 2, 4, 8), rows, checkpointing=False, way="split attention")
