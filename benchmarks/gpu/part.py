"""One part in a process of its own: ``python -m benchmarks.gpu.part NAME RESULT``.

It imports what it needs and waits for a line on its standard input, the settings as JSON; so the next part can be ready
when one has ended, without having touched the GPU. A part that ends badly leaves its figures and an ``error``.
"""

import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from runtime.parent_death import end_with_parent


class Part(NamedTuple):
    """A part of the measurements.

    Attributes:
        module: Where it is.
        function: Takes settings and a record.
        limit: Seconds that it may take on a GPU.
        about: What it measures.
    """

    module: str
    function: str
    limit: float
    about: str


PARTS = {
    "facts": Part("facts", "measure", 90, "the card: matrix products, copies"),
    "grpo": Part("learner", "measure_grpo", 130, "GRPO learner with adapters, larger and larger micro-batches"),
    "conventional": Part("learner", "measure_conventional", 100, "the conventional learner beside it"),
    "attention": Part("attention", "measure", 45, "kernels for the shared-prompt attention"),
    "split": Part("split_student", "measure", 60, "GRPO learner with the split attention"),
    "sft": Part("learner", "measure_sft", 75, "SFT learner with adapters, memory by phase"),
    "profile": Part(
        "step_profile", "measure", 75, "a GRPO step in the Trainer: kernels, idle time, waits for the device"
    ),
    "plan": Part("planned_peak", "measure", 90, "memory of whole steps, as planned and as taken"),
    "ipc": Part("ipc_push", "measure", 60, "a push of all weights to a process on the same GPU"),
    "push": Part("push", "measure", 60, "staging of the weights for a push"),
    "full": Part("learner", "measure_full", 45, "memory of GRPO on all weights with few layers"),
    "flex": Part("attention", "measure_flex", 90, "compiled flexible attention"),
}
"""In the order in which they run: what is cheap and tells most comes first."""

SIZES: dict[str, dict[str, Any]] = {
    "7b": {},
    "tiny": {"seconds": 1.0, "text_tokens": 12, "group": 2, "tokens": 8, "largest": 2, "repeats": 2},
}
"""Settings by geometry; the small one shows in seconds, on any machine, that all parts run."""


def main() -> None:
    """Import, wait for the word, measure."""
    end_with_parent()
    name, result = sys.argv[1], Path(sys.argv[2])
    part = PARTS[name]
    failed = ""
    try:
        module = import_module(f"benchmarks.gpu.{part.module}")
        from benchmarks.gpu.work import Record, Work
    except Exception:
        failed = traceback.format_exc()
    line = sys.stdin.readline()
    if not line:
        return  # the parent has gone
    settings = json.loads(line)
    if failed:
        result.write_text(json.dumps({"error": failed[-1500:]}), encoding="utf-8")
        print(failed, flush=True)
        return
    import torch

    if threads := settings.pop("threads"):
        torch.set_num_threads(threads)
    work = Work(**settings)
    record = Record(result, work.budget)
    begun = time.monotonic()
    try:
        getattr(module, part.function)(work, record)
    except Exception as error:
        record.add(error=f"{type(error).__name__}: {error}"[:800], traceback=traceback.format_exc()[-1500:])
    record.add(seconds_of_part=round(time.monotonic() - begun, 2))
    sys.stdout.flush()
    os._exit(0)  # tearing down models and compilers takes seconds and tells nothing


if __name__ == "__main__":
    main()
