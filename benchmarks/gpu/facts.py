"""What the card can do: the ceilings that everything else is held against."""

import platform
import shutil
import subprocess
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.work import Record, Work

QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu"


def measure(work: Work, record: Record) -> None:
    """Note card and versions, then time a matrix product, one of the learner's size, and copies."""
    device = Device(work.device)
    record.add(python=platform.python_version(), torch=torch.__version__, cuda=torch.version.cuda)
    if device.cuda:
        properties = torch.cuda.get_device_properties(0)
        record.add(
            card=properties.name,
            memory_gb=round(properties.total_memory / 1e9, 2),
            free_gb=round(torch.cuda.mem_get_info()[0] / 1e9, 2),
            multiprocessors=properties.multi_processor_count,
            cudnn=torch.backends.cudnn.version(),
            nvidia_smi=_nvidia_smi(),
            compiler=shutil.which("gcc") or shutil.which("cc") or "none: nothing can be compiled by Triton",
        )
    small = work.geometry == "tiny"
    record.add(matmul=attempt(lambda: _matmul(device, work, *([256] * 3 if small else [8192] * 3))))
    shape = work.shape
    rows = 2 * (work.group * work.tokens + 310)
    record.add(learner_matmul=attempt(lambda: _matmul(device, work, rows, shape.width, shape.mlp)))
    record.add(copies=_copies(device, work, (1 << 20) if small else (1 << 30)))


def _nvidia_smi() -> str:
    try:
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)


def _matmul(device: Device, work: Work, rows: int, inner: int, columns: int) -> dict[str, Any]:
    a = torch.randn(rows, inner, device=work.device, dtype=work.torch_dtype)
    b = torch.randn(inner, columns, device=work.device, dtype=work.torch_dtype)
    out = torch.empty(rows, columns, device=work.device, dtype=work.torch_dtype)
    found = device.milliseconds(lambda: torch.mm(a, b, out=out), 20, 5)
    rate = 2 * rows * inner * columns / found["median"] / 1e9
    return {"rows": rows, "inner": inner, "columns": columns, "ms": found, "tflop_per_s": round(rate, 3)}


def _copies(device: Device, work: Work, size: int) -> dict[str, Any]:
    """Return GB/s of copies of ``size`` bytes; within the device, bytes read and bytes written both count."""
    here = torch.empty(size, dtype=torch.uint8, device=work.device).random_()
    there = torch.empty_like(here)
    found = device.milliseconds(lambda: there.copy_(here), 10)
    rates = {"on_device_gb_per_s": round(2 * size / found["median"] / 1e6, 1)}
    if device.cuda:
        pageable = torch.zeros(size, dtype=torch.uint8)
        pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
        for name, host in (("pageable", pageable), ("pinned", pinned)):
            down = device.milliseconds(partial(host.copy_, here), 3, 1)
            up = device.milliseconds(partial(there.copy_, host), 3, 1)
            rates[f"to_{name}_gb_per_s"] = round(size / down["median"] / 1e6, 2)
            rates[f"from_{name}_gb_per_s"] = round(size / up["median"] / 1e6, 2)
    return rates
