"""The learner's steps with adapters, ours and the conventional ones, and the memory of a step on all weights."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import AdamW

from benchmarks.gpu.device import Device, attempt, out_of_memory
from benchmarks.gpu.work import PAD, Record, Work, new_batch, new_student, stand_in_processor, throughput
from benchmarks.measuring import conventional
from benchmarks.measuring.run_record import spread
from benchmarks.measuring.shapes import advantages_of, give_adapters_something_to_say, random_model
from datamodules.batching.batch import AudioQABatch
from lightning_modules.models.architectures import fused_elementwise
from lightning_modules.models.student import Student
from lightning_modules.objectives.losses import grpo_loss, sft_loss

SHARE = 0.9
"""Of a part's time that may be spent before a size is left out."""


def optimizer_of(model: torch.nn.Module, lr: float = 1e-6) -> AdamW:
    """Return AdamW over what is trained."""
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def checkpoint(student: Student) -> None:
    """Turn gradient checkpointing on in a student that was made without it, as it does by itself when asked to."""
    student.base.gradient_checkpointing_enable({"use_reentrant": False})
    if student.lora is not None:
        student.model.enable_input_require_grads()


def grpo_step(student: Student, batch: AudioQABatch, advantages: Tensor, reference: Student | None = None) -> Tensor:
    """Reference forward, policy forward, backward; returns the policy's log-probabilities."""
    assert batch.completions is not None
    audio = student.encode_audio(batch) if student.audio_tower_frozen else None
    with torch.no_grad():
        inside = reference is None
        scorer = reference or student
        frozen = scorer.completion_logprobs(batch, reference=inside, audio=audio, entropy=False).logprobs
    scores = student.completion_logprobs(batch, audio=audio)
    logprobs = scores.logprobs
    grpo_loss(logprobs, logprobs.detach(), frozen, advantages, batch.completions.mask).loss.backward()
    return logprobs.detach()


def sft_step(student: Student, optimizer: AdamW, batch: AudioQABatch, mixed: torch.autocast) -> None:
    """Forward, backward, AdamW."""
    assert batch.completions is not None
    with mixed:
        sft_loss(student.completion_logprobs(batch).logprobs, batch.completions.mask).backward()
    optimizer.step()
    optimizer.zero_grad()


def ladder(
    record: Record,
    device: Device,
    name: str,
    sizes: Iterable[int],
    measure: Callable[[int], dict[str, Any]],
    **row: Any,
) -> None:
    """Measure larger and larger sizes until memory or time does not suffice.

    Args:
        record: Where the rows go.
        device: The device.
        name: Of the rows.
        sizes: Rising.
        measure: Takes a size and returns figures.
        **row: What else belongs in each row.
    """
    cost = 0.0
    for size in sizes:
        if cost * size > record.left * SHARE:
            record.append(name, {**row, "size": size, "error": "left out: no time left"})
            return
        before = record.left
        device.begin_peak()
        found = attempt(partial(measure, size))
        record.append(name, {**row, "size": size, **found, **device.peak()})
        device.free()
        if out_of_memory(found):
            return
        cost = (before - record.left) / size


def measure_grpo(work: Work, record: Record) -> None:
    """GRPO with adapters: several questions in one micro-batch, without and with gradient checkpointing."""
    device = Device(work.device)
    student = new_student(work)
    optimizer = optimizer_of(student)
    device.wait()
    record.add(loaded_gb=device.allocated(), parameters=sum(p.numel() for p in student.parameters()))
    record.add(check=first_logprobs(grpo_step(student, *given(work, 1))))
    optimizer.zero_grad()

    def rows(questions: int) -> dict[str, Any]:
        batch, advantages = given(work, questions)

        def step() -> None:
            with work.autocast():
                grpo_step(student, batch, advantages)
            optimizer.step()
            optimizer.zero_grad()

        found = device.seconds(step, work.repeats)
        return {"seconds": spread(found, 4), **throughput(work, batch, middle(found), "grpo")}

    def unfused(questions: int) -> dict[str, Any]:
        with mock.patch.object(fused_elementwise, "on_gpu", lambda x: False):
            return rows(questions)

    ladder(record, device, "grpo", up_to(work, 1, 2, 4, 8, 10), rows, checkpointing=False, way="ours")
    ladder(record, device, "grpo", up_to(work, 4, 8), unfused, checkpointing=False, way="ours, element by element")
    checkpoint(student)
    ladder(record, device, "grpo", up_to(work, 1, 2, 8, 16)[-2:], rows, checkpointing=True, way="ours")


def measure_sft(work: Work, record: Record) -> None:
    """SFT with adapters: eight traces, each of another question; then two questions with four traces each."""
    device = Device(work.device)
    student = new_student(work)
    device.wait()
    record.add(loaded_gb=device.allocated())
    optimizer = optimizer_of(student)
    traces = 8 if work.geometry != "tiny" else 2
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint(student)
        for questions, each in ((traces, 1), (traces // 4 or 1, 4)):
            row = {"checkpointing": checkpointing, "questions": questions, "traces": questions * each}
            batch = new_batch(work, questions, each).to(work.device)

            def steps(batch: AudioQABatch = batch) -> dict[str, Any]:
                found = device.seconds(lambda: sft_step(student, optimizer, batch, work.autocast()), work.repeats)
                return {"seconds": spread(found, 4), **throughput(work, batch, middle(found), "sft")}

            device.begin_peak()
            found = attempt(steps)
            record.append("sft", {**row, **found, **device.peak()})
            optimizer.zero_grad()
            device.free()
            if each == 1 and "error" not in found:
                phases = attempt(partial(sft_phases, device, work, student, optimizer, batch))
                record.append("phases", {**row, **phases})
                optimizer.zero_grad()
                device.free()


def sft_phases(device: Device, work: Work, student: Student, optimizer: AdamW, batch: AudioQABatch) -> dict[str, Any]:
    """Return what is allocated after each phase of a step, and the highest mark within it."""
    assert batch.completions is not None
    notes = _Phases(device)
    with work.autocast():
        loss = sft_loss(student.completion_logprobs(batch).logprobs, batch.completions.mask)
    notes.end("forward")
    loss.backward()
    del loss
    notes.end("backward")
    optimizer.step()
    notes.end("step")
    return notes.found


def measure_conventional(work: Work, record: Record) -> None:
    """The conventional GRPO step with adapters: every completion a padded row of its own, full logits."""
    device = Device(work.device)
    processor = stand_in_processor()
    model = conventional.with_adapters(
        random_model(work.shape, work.audio_token, PAD, work.device, work.torch_dtype, work.seed)
    )
    give_adapters_something_to_say(model)
    optimizer = optimizer_of(model)
    device.wait()
    record.add(loaded_gb=device.allocated())

    def rows_of(rows: int) -> tuple[AudioQABatch, conventional.Rows, Tensor]:
        batch = new_batch(work, max(1, rows // work.group), min(rows, work.group))
        made = conventional.rows_of(processor, batch).to(work.device)
        return batch, made, advantages_of(batch).to(work.device)

    def plain(rows: int, mixed: bool = False) -> dict[str, Any]:
        batch, made, advantages = rows_of(rows)

        def step() -> None:
            with work.autocast(mixed):
                conventional.grpo_step(model, made, advantages)
            optimizer.step()
            optimizer.zero_grad()

        found = device.seconds(step, work.repeats)
        return {"seconds": spread(found, 4), **throughput(work, batch, middle(found), "grpo")}

    def autocast(rows: int) -> dict[str, Any]:
        return plain(rows, mixed=True)

    def check() -> dict[str, Any]:
        _, made, advantages = rows_of(work.group)
        return {"first": first_logprobs(conventional.grpo_step(model, made, advantages)[1])}

    checked = attempt(check)
    record.add(check=checked.get("first", checked))
    optimizer.zero_grad()
    device.free()
    sizes = [n * work.group // 2 for n in (1, 2, 4, 6) if n <= 2 * work.largest]
    ladder(record, device, "conventional", sizes, plain, checkpointing=False, way="conventional")
    ladder(record, device, "conventional", sizes, autocast, checkpointing=False, way="conventional, autocast")
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    sizes = [n * work.group for n in (1, 2, 4) if n <= work.largest]
    ladder(record, device, "conventional", sizes, plain, checkpointing=True, way="conventional")


def measure_full(work: Work, record: Record) -> None:
    """Memory of GRPO on all weights, float32 under autocast, with few layers and a frozen reference in bfloat16."""
    device = Device(work.device)
    for layers in (1, 2, 4):
        if layers > work.shape.layers:
            continue
        found = attempt(partial(full_phases, device, work, layers))
        record.append("full", {"layers": layers, **found})
        device.free()
        if out_of_memory(found) or record.left < 15:
            return


def full_phases(device: Device, work: Work, layers: int) -> dict[str, Any]:
    """Return what each phase of such a step takes, one question in it."""
    notes = _Phases(device)
    student = new_student(work, lora=False, dtype=torch.float32, layers=layers)
    notes.end("policy")
    reference = new_student(work, lora=False, layers=layers).eval().requires_grad_(False)
    notes.end("reference")
    batch, advantages = given(work, 1)
    optimizer = optimizer_of(student)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    for turn in ("first", "second"):  # the moments of AdamW are there from the second step on
        with torch.autocast(work.device, torch.bfloat16):
            grpo_step(student, batch, advantages, reference)
        notes.end(f"{turn} backward")
        optimizer.step()
        notes.end(f"{turn} step")
        optimizer.zero_grad()
    return {"trained_parameters": trained, **notes.found}


class _Phases:
    """Memory at the end of each phase and the highest mark within it, GB."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.found: dict[str, Any] = {"before_gb": device.allocated()}
        device.begin_peak()

    def end(self, phase: str) -> None:
        self.device.wait()
        self.found[phase] = {"after_gb": self.device.allocated(), **self.device.peak()}
        self.device.begin_peak()


def given(work: Work, questions: int) -> tuple[AudioQABatch, Tensor]:
    """Return questions with completions, and advantages, on the device."""
    batch = new_batch(work, questions)
    return batch.to(work.device), advantages_of(batch).to(work.device)


def up_to(work: Work, *sizes: int) -> list[int]:
    """Return the sizes that are to be tried."""
    return [size for size in sizes if size <= work.largest]


def first_logprobs(logprobs: Tensor) -> list[float]:
    """Return some log-probabilities by which two ways to the same are compared."""
    return [round(float(value), 5) for value in logprobs[0, :2, :8].flatten()]


def middle(values: list[float]) -> float:
    """Return the median, unrounded."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
