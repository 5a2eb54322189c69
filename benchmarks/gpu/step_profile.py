"""Where the time of a whole GRPO step goes: GRPOModule in Lightning's Trainer, its kernels, its waits for the host."""

import json
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.device import Device, attempt
from benchmarks.gpu.work import Record, Work, new_batch, new_student, throughput
from benchmarks.measuring.run_record import spread
from benchmarks.measuring.trainer_fit import fit, module_of
from lightning_modules.grpo import GRPOModule

ROOT = Path(__file__).parents[2]
WARM_UP, TIMED = 2, 3
GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def measure(work: Work, record: Record) -> None:
    """Take real steps of four questions in micro-batches of two; time some, count waits in one, profile one."""
    device = Device(work.device)
    questions = min(4, work.largest)
    batch = new_batch(work, questions)
    student = new_student(work)
    settings = {"num_completions": work.group, "micro_batch_size": max(1, questions // 2)}
    module = module_of(GRPOModule, student, **settings)
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(device, Path(folder) / "trace.json")
        batches = [batch] * (WARM_UP + TIMED + 2)

        def train() -> dict[str, Any]:
            fit(module, batches, watch, device=work.device, dtype=work.torch_dtype)
            return {}

        failed = attempt(train)
        seconds = watch.seconds[WARM_UP : WARM_UP + TIMED]
        if not seconds:
            record.add(**failed)
            return
        row = {"questions": questions, "micro_batch_size": settings["micro_batch_size"]}
        middle = sorted(seconds)[len(seconds) // 2]
        record.add(step={**row, "seconds": spread(seconds, 4), **throughput(work, batch, middle, "grpo")})
        record.add(synchronisations=sum(watch.places.values()))
        record.add(synchronisation_places=[f"{n} x {place}" for place, n in watch.places.most_common(40)])
        kernels = attempt(lambda: read_trace(watch.trace))
        if "busy_ms" in kernels:  # profiling slows the host, not the kernels
            kernels["idle_share_unprofiled"] = round(1 - kernels["busy_ms"] / 1e3 / middle, 4)
        record.add(profiled_step_s=round(watch.seconds[-1], 4), kernels=kernels, **failed)
    record.add(operators=attempt(lambda: {"rows": costliest_operators(watch.profiler, device.cuda)}))


class Watch(Callback):
    """Times every step; counts waits in the last but one and profiles the last."""

    def __init__(self, device: Device, trace: Path) -> None:
        """Watch steps on a device; the profile is written to ``trace``."""
        self.device = device
        self.trace = trace
        self.seconds: list[float] = []
        self.places: Counter[str] = Counter()
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.cuda else [])
        self.profiler = profile(activities=activities)
        self._caught: Any = None
        self._begun = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin."""
        self.device.wait()
        if batch_idx == WARM_UP + TIMED:
            self._count()
        if batch_idx == WARM_UP + TIMED + 1:
            self.profiler.start()
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End."""
        if self._caught is not None:
            if self.device.cuda:
                torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            self._caught = None
        self.device.wait()
        self.seconds.append(time.perf_counter() - self._begun)
        if batch_idx == WARM_UP + TIMED + 1:
            self.profiler.stop()
            self.profiler.export_chrome_trace(str(self.trace))

    def _count(self) -> None:
        """Let each wait for the device say where it comes from."""
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._note  # type: ignore[assignment]
        if self.device.cuda:
            torch.cuda.set_sync_debug_mode("warn")

    def _note(self, message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        if "synchronizing CUDA operation" not in str(message):
            return
        ours = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT) and f.name != "_note"]
        inner = [f for f in ours if "site-packages" not in f.filename and ".venv" not in f.filename]
        at = f"{Path(inner[-1].filename).relative_to(ROOT)}:{inner[-1].lineno}" if inner else f"{filename}:{lineno}"
        own = (
            f" ({Path(filename).name}:{lineno})" if inner and not at.endswith(f"{Path(filename).name}:{lineno}") else ""
        )
        self.places[at + own] += 1


def read_trace(path: Path, rows: int = 10) -> dict[str, Any]:
    """Read a profiler's trace.

    Returns:
        The costliest kernels, the device's busy and idle share between the first and the last of them, how many there
        were, and how often the host waited.
    """
    events = [e for e in json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if e.get("ph") == "X"]
    device = sorted((e for e in events if e.get("cat") in GPU_WORK), key=lambda e: float(e["ts"]))
    calls = Counter(e["name"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver"))
    found: dict[str, Any] = {
        "launches": len(device),
        "waits": {name: calls[name] for name in WAITS},
        "copies": sum(e["cat"] == "gpu_memcpy" for e in device),
    }
    if not device:
        return found
    begin, end, busy = float(device[0]["ts"]), 0.0, 0.0
    cost: dict[str, float] = defaultdict(float)
    number: Counter[str] = Counter()
    for event in device:
        start, stop = float(event["ts"]), float(event["ts"]) + float(event["dur"])
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
        name = event["name"] if event["cat"] == "kernel" else event["cat"] + " " + event["name"]
        cost[name] += float(event["dur"])
        number[name] += 1
    total = sum(cost.values())
    found |= {
        "span_ms": round((end - begin) / 1e3, 2),
        "busy_ms": round(busy / 1e3, 2),
        "idle_share": round(1 - busy / (end - begin), 4),
        "costliest": [
            {"name": name[:110], "ms": round(us / 1e3, 2), "share": round(us / total, 4), "calls": number[name]}
            for name, us in sorted(cost.items(), key=lambda item: -item[1])[:rows]
        ],
    }
    return found


def costliest_operators(profiler: Any, cuda: bool, rows: int = 10) -> list[dict[str, Any]]:
    """Return the operators that cost the device (or, without one, the CPU) most by themselves."""
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    averages = sorted(profiler.key_averages(), key=lambda e: -float(getattr(e, key)))
    named = [e for e in averages if cuda is False or e.key.startswith(("aten::", "_", "autograd::"))]
    return [
        {"name": e.key[:80], "ms": round(getattr(e, key) / 1e3, 2), "calls": e.count}
        for e in (named or averages)[:rows]
    ]
