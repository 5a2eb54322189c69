"""A push of all weights to a second process on the same GPU, by vLLM's IPC engines on both sides."""

import os
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.work import Record, Work, new_student
from inference.vllm.client import VLLMClient
from inference.weight_transfer.ipc import IPCTransfer
from inference.weight_transfer.transfer import WeightStream

BUCKETS_MIB = (128, 512)
PUSHES = 3
SECONDS = 60.0


def measure(work: Work, record: Record) -> None:
    """Push three times with each size of bucket; what has arrived is compared weight by weight."""
    if work.device != "cuda":
        record.add(left_out="memory is handed over on a GPU alone")
        return
    device = Device(work.device)
    student = new_student(work)
    types = {name: work.torch_dtype for name in student.hub_shapes()}
    shapes = student.hub_shapes(types)
    size = sum(part.nbytes for part in shapes.values())
    weights = WeightStream(shapes, lambda: student.hub_tensors(types, "cuda"))
    record.add(gb=round(size / 1e9, 3), loaded_gb=device.allocated())
    command = [sys.executable, "-m", "benchmarks.gpu.ipc_receiver"]
    allowed = os.environ | {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    with subprocess.Popen(command, env=allowed, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            client = VLLMClient(f"http://127.0.0.1:{int(server.stdout.readline())}")
            for mib in BUCKETS_MIB:
                row = attempt(lambda mib=mib: pushed(device, client, weights, mib, size))  # type: ignore[misc]
                record.append("pushes", {"bucket_mib": mib, **row})
            record.add(compared=attempt(lambda: compared(client, weights)))
        finally:
            server.kill()


def pushed(device: Device, client: VLLMClient, weights: WeightStream, mib: int, size: int) -> dict[str, Any]:
    """Meet the receiver and push as often as is timed."""
    way = IPCTransfer(mib, SECONDS)
    receivers = way.receivers([client])
    device.free()
    before = device.allocated()
    device.begin_peak()
    sender = way.meet(receivers, weights)
    turns = iter(range(PUSHES))

    def push() -> None:
        receivers.version = f"{mib}:{next(turns)}"
        weights.begin()
        sender.send_weights()

    seconds = device.seconds(push, PUSHES, warm_up=0, least=PUSHES)
    sender.shutdown()
    device.free()
    left = round(device.allocated() - before, 3)
    return {
        "seconds": [round(s, 3) for s in seconds],
        "gb_per_s": round(size / min(seconds) / 1e9, 2),
        "more_gb": round(device.peak()["peak_gb"] - before, 3),
        "left_gb": left,
    }


@torch.no_grad()
def fingerprint(value: Tensor) -> list[int]:
    """Return two sums over a tensor's bytes, the second of which changes when bytes change places."""
    flat = value.detach().contiguous().view(-1).view(torch.uint8)
    total = weighted = 0
    for begin in range(0, len(flat), 1 << 26):
        part = flat[begin : begin + (1 << 26)].to(torch.int64)
        total += int(part.sum())
        weighted += int((part * (torch.arange(len(part), device=part.device) % 8191)).sum())
    return [total, weighted]


def compared(client: VLLMClient, weights: WeightStream) -> dict[str, Any]:
    """Compare what the receiver has with what was to be sent."""
    answer = client._call("POST", "/fingerprints", SECONDS, {})
    arrived = {name: list(found) for name, found in answer["fingerprints"].items()}
    weights.begin()
    sent = {name: fingerprint(value) for name, value in weights}
    wrong = sorted(name for name in sent if sent[name] != arrived.get(name))
    return {"weights": len(sent), "unequal": wrong[:5], "equal": not wrong and sent.keys() == arrived.keys()}
