"""Throughput and memory of the teacher's stage against a stub endpoint: ``python -m benchmarks.requests``.

The stub answers each request after a fixed latency, in a process of its own. Measured are the openai client by itself
and the whole stage (DataLoader, TeacherModule, RecordWriter), with the same number of requests in flight. The bound is
in_flight / latency. Memory is that of the stage's process, sampled each half second. Writes ``requests.json`` and
``requests.png`` to ``benchmarks/results``.
"""

import argparse
import asyncio
import base64
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from benchmarks.measuring.run_record import RESULTS
from callbacks.writers.record_writer import RecordWriter
from datamodules.batching.items import Prepared, TeacherExample
from inference.chat_api.chat_endpoint import EndpointSettings
from lightning_modules.teacher import TeacherModule
from records.records import Question


def teacher_example(number: int, images: tuple[str, ...]) -> TeacherExample:
    """Return a question of its own with the same frames as all others."""
    question = Question(f"avqa/train/{number}", "avqa", "", "What is heard?", ("a dog", "rain"), 0, "Which")
    return TeacherExample(question, images)


class ClipsDataModule(LightningDataModule):
    """Serves the same questions."""

    def __init__(self, number: int, image_bytes: int) -> None:
        """Make the questions.

        Args:
            number: How many.
            image_bytes: Size of each of two images.
        """
        super().__init__()
        images = (base64.b64encode(b"x" * image_bytes).decode(),) * 2
        self.clips = Prepared(range(number), partial(teacher_example, images=images))

    def predict_dataloader(self) -> DataLoader[TeacherExample]:
        """Return them in batches of 16, made by one worker."""
        return DataLoader(self.clips, batch_size=16, collate_fn=list, num_workers=1)

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        """Leave a batch where it is."""
        return batch


class Memory(threading.Thread):
    """Samples this process' resident memory."""

    def __init__(self) -> None:
        """Start to sample."""
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._began = time.monotonic()
        self.start()

    def run(self) -> None:
        """Sample until stopped."""
        process = psutil.Process()
        while not self._over.wait(0.5):
            self.samples.append((time.monotonic() - self._began, process.memory_info().rss / 2**20))

    def stop(self) -> None:
        """Stop."""
        self._over.set()
        self.join()


@contextmanager
def stub(latency: float) -> Iterator[str]:
    """Run the stub endpoint in a process of its own; yields its address."""
    command = [sys.executable, "-m", "benchmarks.stub_endpoint", "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


async def client_alone(url: str, number: int, in_flight: int, image_bytes: int) -> float:
    """Return the requests per second of the openai client with nothing around it."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    module = TeacherModule(EndpointSettings(url, "stub"), samples=1)
    messages = module.messages(ClipsDataModule(1, image_bytes).clips[0])
    remaining = iter(range(number))

    async def worker() -> None:
        for _ in remaining:
            await client.chat.completions.create(model="stub", messages=messages, temperature=1.0)  # type: ignore[arg-type]

    began = time.monotonic()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    seconds = time.monotonic() - began
    await client.close()
    return number / seconds


def stage(url: str, number: int, in_flight: int, image_bytes: int, folder: Path) -> tuple[float, Memory]:
    """Return the requests per second of the whole stage, and its memory."""
    module = TeacherModule(EndpointSettings(url, "stub", in_flight=in_flight), samples=1)
    data = ClipsDataModule(number, image_bytes)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[RecordWriter(str(folder))],
        default_root_dir=folder,
    )
    memory = Memory()
    began = time.monotonic()
    trainer.predict(module, datamodule=data, return_predictions=False)
    seconds = time.monotonic() - began
    memory.stop()
    return number / seconds, memory


def main(args: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--image-bytes", type=int, default=2_000, help="size of each of two images in a request")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(args)
    bound = options.in_flight / options.latency
    load = psutil.getloadavg()[0]  # on a busy machine the rates mean little
    with stub(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        few = min(3000, options.requests)
        alone = asyncio.run(client_alone(url, few, options.in_flight, options.image_bytes))
        print(f"openai client alone: {alone:.0f} requests/s", flush=True)
        whole, memory = stage(url, options.requests, options.in_flight, options.image_bytes, Path(folder))
        written = sum(len(file.read_text().splitlines()) for file in Path(folder, "traces").iterdir())
    after = [mb for at, mb in memory.samples if at > 0.1 * memory.samples[-1][0]]
    result = {
        "requests": options.requests,
        "written": written,
        "in_flight": options.in_flight,
        "latency_s": options.latency,
        "bound_per_s": bound,
        "client_alone_per_s": round(alone, 1),
        "stage_per_s": round(whole, 1),
        "stage_of_bound": round(whole / bound, 3),
        "stage_of_client": round(whole / alone, 3),
        "rss_mb_after_a_tenth": round(after[0], 1),
        "rss_mb_at_the_end": round(after[-1], 1),
        "rss_mb_highest": round(max(after), 1),
        "cores": psutil.cpu_count(),
        "load_before": round(load, 1),
    }
    print(json.dumps(result, indent=1))
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "requests.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(options.output / "requests.png", memory, result)


def plot(path: Path, memory: Memory, result: dict[str, float]) -> None:
    """Draw the memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*memory.samples, strict=True))
    axes.set_ylim(0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, MB")
    axes.set_title(f"{result['requests']} requests, {result['stage_per_s']:.0f} a second")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
