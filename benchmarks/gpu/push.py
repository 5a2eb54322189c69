"""How long it takes to stage the weights for a push to a server: all under the Hub's names, adapters folded in."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.work import Record, Work, new_student
from lightning_modules.models.student import Student

COMPARED = 8
"""Adapted weights that both ways must give alike."""


def measure(work: Work, record: Record) -> None:
    """Time the student's own stream into main memory, then folding on the device into buckets, then pinned copies."""
    device = Device(work.device)
    student = new_student(work)
    device.wait()
    size = sum(part.nbytes for part in student.hub_shapes(work.torch_dtype).values())
    record.add(gb=round(size / 1e9, 3), loaded_gb=device.allocated())
    bucket = (1 << 30) if work.geometry != "tiny" else (1 << 16)

    def stream() -> dict[str, Any]:
        device.begin_peak()
        found = device.seconds(lambda: _drain(student, work), 2, 0, least=1)
        return _rates(found, size) | device.peak()

    record.append("staged", {"way": "hub_tensors to main memory", **attempt(stream)})
    record.append(
        "staged",
        {"way": "folded into a bucket on the device", **attempt(lambda: _buckets(device, student, work, bucket, size))},
    )
    record.append(
        "staged",
        {
            "way": "folded, then pinned memory",
            **attempt(lambda: _buckets(device, student, work, bucket, size, pinned=True)),
        },
    )
    record.add(equal=attempt(lambda: {"largest_difference": _difference(student, work)}))


def _drain(student: Student, work: Work) -> None:
    for _, tensor in student.hub_tensors(work.torch_dtype):
        del tensor


def _rates(seconds: list[float], size: int) -> dict[str, Any]:
    best = min(seconds)
    return {"seconds": [round(s, 3) for s in seconds], "gb_per_s": round(size / best / 1e9, 2)}


@torch.no_grad()
def folded(student: Student, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield name on the Hub and value of each weight, on the device that it is on; summed in float32 where adapted."""
    adapters = {f"{name}.weight": m for name, m in student.base.named_modules() if isinstance(m, LoraLayer)}
    for name, value in student.base.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" in name:
            continue
        layer: Any = adapters.get(plain)
        if layer is not None:
            value = layer.get_delta_weight(layer.active_adapters[0]).float().add_(value)
        yield from student.architecture.hub_weights(plain, value.to(dtype)).items()


def _buckets(
    device: Device, student: Student, work: Work, size: int, total: int, pinned: bool = False
) -> dict[str, Any]:
    """Fold all weights into a bucket of ``size`` bytes on the device; a full one is sent or, otherwise, overwritten."""
    width = work.torch_dtype.itemsize
    buckets = [torch.empty(size // width, dtype=work.torch_dtype, device=work.device) for _ in range(2)]
    begun = time.perf_counter()
    pin = pinned and device.cuda
    hosts = [torch.empty(size // width, dtype=work.torch_dtype, pin_memory=pin) for _ in range(2)] if pinned else []
    allocating = time.perf_counter() - begun
    begun = time.perf_counter()
    for host in hosts:
        host.zero_()  # pages of main memory exist from the first write on
    touching = time.perf_counter() - begun

    def stage() -> None:
        turn, at = 0, 0
        for _, value in folded(student, work.torch_dtype):
            flat = value.reshape(-1)
            done = 0
            while done < len(flat):
                n = min(len(flat) - done, len(buckets[turn]) - at)
                buckets[turn][at : at + n].copy_(flat[done : done + n])
                at, done = at + n, done + n
                if at == len(buckets[turn]):
                    if hosts:
                        hosts[turn].copy_(buckets[turn], non_blocking=True)
                    turn, at = 1 - turn, 0
        if hosts and at:
            hosts[turn][:at].copy_(buckets[turn][:at], non_blocking=True)

    device.begin_peak()
    found = device.seconds(stage, 3)
    allocation = {"allocating_s": round(allocating, 3), "touching_s": round(touching, 3)} if hosts else {}
    return {"bucket_gb": round(size / 1e9, 3), **_rates(found, total), **allocation, **device.peak()}


def _difference(student: Student, work: Work) -> float:
    """Return the largest difference between both ways among the first adapted weights."""
    exact: dict[str, Tensor] = {}
    for name, tensor in student.hub_tensors(work.torch_dtype):
        if name.endswith("_proj.weight") and "language_model" in name:
            exact[name] = tensor.clone()
        if len(exact) == COMPARED:
            break
    worst = 0.0
    for name, tensor in folded(student, work.torch_dtype):
        if name in exact:
            worst = max(worst, float((tensor.cpu().float() - exact.pop(name).float()).abs().max()))
        if not exact:
            return worst
    raise RuntimeError(f"{sorted(exact)} are missing in one of both")
