"""The parity gate with cached embeddings, and with weights that are spread over ranks."""

import base64
import contextlib
import dataclasses
import io
import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from callbacks.rollout import parity_gate
from callbacks.rollout.parity import compare, judge_parity, measure_parity, unasked
from callbacks.rollout.parity_gate import ParityGate
from callbacks.rollout.rollout_callback import to_completions
from datamodules.batching.collate import Collator
from datamodules.prompts.questions import THINK_SHORT
from inference.vllm.client import RequestOutput, ServerUnreachable
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.models.student import Student
from runtime.errors import UserError
from tests.support.questions import example

WORDS = (40, 41, 42, 2)


def heard(url: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(base64.b64decode(url.partition(";base64,")[2])), dtype="float32")[0]


class PerfectServer:
    """Computes what the trainer computes, with a student of the same weights."""

    url = "http://perfect"

    def __init__(self, student: Student) -> None:
        self.student = student
        self.collate = Collator(student.processor, THINK_SHORT)

    def batch(self, number: int, url: str) -> Any:
        return self.collate([example(number, heard(url))])

    def number(self, token_ids: list[int], url: str) -> int:
        return next(n for n in range(4) if self.batch(n, url).request_ids[0] == token_ids)

    def generate(self, token_ids: list[int], url: str, sampling: SamplingParams) -> RequestOutput:
        scores = self.score(token_ids, url, list(WORDS))
        batch = self.batch(self.number(token_ids, url), url)
        return RequestOutput(batch.prompt_ids[0].tolist(), [CompletionOutput(list(WORDS), scores, True)])

    @torch.no_grad()
    def score(self, token_ids: list[int], url: str, completion_ids: list[int]) -> list[float]:
        batch = self.batch(self.number(token_ids, url), url)
        sample = CompletionOutput(completion_ids, [0.0] * len(completion_ids), True)
        batch.completions = to_completions([[sample]], self.student.processor.tokenizer, (2,))
        return self.student.completion_logprobs(batch, 1.0).logprobs[0, 0].tolist()


def test_silence_replaces_cached_embeddings_too(server_weights: Path):
    student = Student(str(server_weights)).eval()
    batch = Collator(student.processor, THINK_SHORT)([example(number) for number in range(4)])
    plain = measure_parity(PerfectServer(student), student, batch, 1.0)
    counts = [int((ids == student.base.config.audio_token_id).sum()) for ids in batch.prompt_ids]
    with torch.no_grad():
        batch.audio = list(student.encode_audio(batch).split(counts))  # as AudioCache leaves it
    cached = measure_parity(PerfectServer(student), student, batch, 1.0)
    assert cached.trainer_change == pytest.approx(plain.trainer_change, abs=1e-4) and plain.trainer_change > 1e-2
    judge_parity(cached, "http://perfect", 1e-3, 1e-3)


class World:
    """Two ranks in threads; what they send each other is exchanged when both have come."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=5)
        self.sent: dict[int, Any] = {}

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.sent[rank] = value
        self.barrier.wait()
        found = [self.sent[0], self.sent[1]]
        self.barrier.wait()
        return found

    def trainer(self, rank: int) -> Any:
        return SimpleNamespace(
            rank=rank,
            world_size=2,
            is_global_zero=rank == 0,
            precision="32-true",
            precision_plugin=SimpleNamespace(forward_context=contextlib.nullcontext),
            strategy=SimpleNamespace(broadcast=lambda value: self.exchange(rank, value)[0]),
        )


class Shard(nn.Module):
    """A rank's part of a student: scoring works only when all ranks score."""

    def __init__(self, world: World, rank: int, processor: Any, error: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.world, self.rank, self.processor, self.error = world, rank, processor, error
        self.calls = 0

    def completion_logprobs(self, batch: Any, temperature: float) -> Any:
        self.calls += 1
        self.world.exchange(self.rank, "score")
        level = -1.0 if all(np.abs(w).max() > 0 for w in batch.waveforms) else -2.0
        return SimpleNamespace(logprobs=torch.full(batch.completions.ids.shape, level + self.error))


class Loud:
    """A server of whose samples each token has log-probability -1, or -2 on silence."""

    def __init__(self, batch: Any, well: bool = True) -> None:
        self.batch, self.well, self.url, self.asked = batch, well, "http://loud", 0

    def generate(self, token_ids: list[int], url: str, sampling: SamplingParams) -> RequestOutput:
        self.asked += 1
        if not self.well:
            raise ServerUnreachable("gone")
        row = self.batch.request_ids.index(token_ids)
        length = int(self.batch.prompt_lengths[row])
        return RequestOutput(
            self.batch.prompt_ids[row, :length].tolist(), [CompletionOutput(list(WORDS), [-1.0] * 4, True)]
        )

    def score(self, token_ids: list[int], url: str, completion_ids: list[int]) -> list[float]:
        return [-1.0 if np.abs(heard(url)).max() > 0 else -2.0] * len(completion_ids)


@pytest.mark.parametrize(
    ("well", "error", "calls", "message"),
    [(True, 0.0, 3, None), (False, 0.0, 0, None), (True, 0.1, 3, "parity of log-probabilities failed")],
)
def test_rank_0_decides_for_all(server_weights: Path, monkeypatch, well, error, calls, message):
    """Only rank 1 has met a new server, and cannot reach it itself."""
    processor = Student(str(server_weights)).processor
    batches = [Collator(processor, THINK_SHORT)([example(n) for n in rows]) for rows in ((0, 1), (2, 3))]
    world = World()
    shards = [Shard(world, rank, processor, error) for rank in range(2)]
    servers = [Loud(batches[0], well), Loud(batches[1], well=False)]
    monkeypatch.setattr(
        parity_gate, "all_gather_objects", lambda t, rows: [*itertools.chain(*world.exchange(t.rank, rows))]
    )
    raised: list[str] = ["", ""]
    due: list[bool] = [False, True]

    def work(rank: int) -> None:
        info = SimpleNamespace(dtype="float32")
        server = SimpleNamespace(client=servers[rank], url="http://loud", gate_due=due[rank], suspect=False, info=info)
        module = SimpleNamespace(student=shards[rank], training_rollouts=None)
        gate = ParityGate(SimpleNamespace(servers=[server]))  # type: ignore[arg-type]
        try:
            gate.pass_together(world.trainer(rank), module, batches[rank], SamplingParams(1, 4, 1.0, 0, (2,)))
        except UserError as failure:
            raised[rank] = str(failure)
        due[rank] = server.gate_due

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [shard.calls for shard in shards] == [calls, calls]
    assert servers[1].asked == 0
    assert raised[0] == raised[1] and (message or "") in raised[0] and bool(raised[0]) == bool(message)
    if well and not message:
        assert due == [False, False]


def test_a_rank_that_only_takes_part_computes_something(server_weights: Path):
    student = Student(str(server_weights)).eval()
    batch = Collator(student.processor, THINK_SHORT)([example(number) for number in range(4)])
    batch = dataclasses.replace(batch)
    assert compare(student, unasked(student.processor, batch, 1.0)).tokens == 2
