"""Clock and memory of the device; on the CPU the clock is the wall's and memory is the process'."""

import gc
import resource
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from benchmarks.measuring.run_record import spread


class Device:
    """What measures on one device."""

    def __init__(self, name: str) -> None:
        """Use a device.

        Args:
            name: ``cuda`` or ``cpu``.

        Raises:
            RuntimeError: There is no such GPU.
        """
        self.cuda = name == "cuda"
        if self.cuda and not torch.cuda.is_available():
            raise RuntimeError("torch sees no NVIDIA GPU: run with --device cpu --geometry tiny, or on another machine")

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def allocated(self) -> float:
        """Return what tensors occupy now, GB."""
        if self.cuda:
            return round(torch.cuda.memory_allocated() / 1e9, 3)
        return round(psutil.Process().memory_info().rss / 1e9, 3)

    def begin_peak(self) -> None:
        """Forget the highest mark so far; the CPU keeps that of the process."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float]:
        """Return the highest mark of what tensors occupied and of what the allocator held, GB."""
        if self.cuda:
            return {
                "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3),
                "reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 3),
            }
        return {"peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)}

    def seconds(
        self, step: Callable[[], Any], most: int = 5, warm_up: int = 1, limit: float = 4.0, least: int = 2
    ) -> list[float]:
        """Return wall times of a step, each from an idle device to an idle device.

        Args:
            step: What is measured.
            most: Most repetitions.
            warm_up: Repetitions before them that do not count.
            limit: Seconds after which no further one begins, once there are the least.
            least: Fewest repetitions.
        """
        for _ in range(warm_up):
            step()
        found: list[float] = []
        while len(found) < most and (len(found) < least or sum(found) < limit):
            self.wait()
            begun = time.perf_counter()
            step()
            self.wait()
            found.append(time.perf_counter() - begun)
        return found

    def milliseconds(self, launch: Callable[[], Any], repeats: int = 10, warm_up: int = 3) -> dict[str, float]:
        """Return median and spread of what the device takes for a launch, gaps between launches left out."""
        if not self.cuda:
            return spread([1e3 * s for s in self.seconds(launch, repeats, 1)], 4)
        for _ in range(warm_up):
            launch()
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda.synchronize()
        for begin, end in marks:
            begin.record()
            launch()
            end.record()
        torch.cuda.synchronize()
        return spread([begin.elapsed_time(end) for begin, end in marks], 4)


def attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return figures, or under ``error`` why there are none; what was held at a failure is let go of.

    Whatever fails is caught: too little memory, and kernels that do not do the job in whichever way they say so.
    """
    try:
        return measure()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    gc.collect()  # the traceback, and with it the graph, is gone by now
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"error": " ".join(text.split())[:400]}


def out_of_memory(row: dict[str, Any]) -> bool:
    """Tell whether a measurement failed for want of memory."""
    return "out of memory" in row.get("error", "").lower() or "ALLOC_FAILED" in row.get("error", "")
