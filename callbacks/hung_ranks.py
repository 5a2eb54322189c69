"""A rank that hangs is not gone: the others wait for it in a collective, silently, and nobody says for whom."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed import distributed_c10d
from typing_extensions import override

from callbacks.rollout.weight_pusher import collective_seconds

SHARE = 0.9
"""Part of the collectives' time limit after which ranks are asked where they are: before the limit ends them mutely."""

SECONDS_TO_ANSWER = 5.0

_LOOPS = [f"{loop}_{at}" for loop in ("train", "validation", "test", "predict") for at in ("start", "end")]
_BATCHES = [f"{loop}_batch_{at}" for loop in ("train", "validation", "test", "predict") for at in ("start", "end")]
_MOMENTS = (*_LOOPS, *_BATCHES, "train_epoch_start", "before_optimizer_step", "save_checkpoint")


@dataclass(frozen=True)
class Place:
    """Where a rank's main thread is.

    Attributes:
        beats: Moments of the run that it has come past.
        idle: Seconds since the last one.
        waits: It is in a collective operation, or in a backward pass, which has some.
        where: Function, file and line.
    """

    beats: int
    idle: float
    waits: bool
    where: str


class HungRanks(Callback):
    """Ends all ranks with one sentence when none has come further for almost the collectives' time limit.

    The limit is the strategy's own (``--trainer.strategy.timeout``). Ranks speak through the process group's store, in
    a thread of their own, so that it works with every backend and while the main threads hang.

    Args:
        end: Ends this process: called with the rank that did not come, the exit status and the sentence.
    """

    def __init__(self, end: Callable[[int, int, str], None]) -> None:
        self._end = end
        self._beats, self._beat_at = 0, time.monotonic()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def _beat(self, *_: Any, **__: Any) -> None:
        self._beats, self._beat_at = self._beats + 1, time.monotonic()

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch."""
        self._beat()
        limit = SHARE * collective_seconds(trainer)
        if trainer.world_size == 1 or self._thread is not None or not torch.distributed.is_initialized():
            return
        self._done = threading.Event()
        own: Any = distributed_c10d._get_default_store()  # a group's store has no public name
        store = own.clone()  # the main thread may be waiting on its own
        watch = (store, trainer.global_rank, trainer.world_size, limit, self._done)
        self._thread = threading.Thread(target=self._watch, args=watch, name="hung ranks", daemon=True)
        self._thread.start()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        self._done.set()
        self._thread = None

    def _watch(self, store: Any, rank: int, world: int, limit: float, done: threading.Event) -> None:
        pause, turn, asked_at = min(SECONDS_TO_ANSWER, limit / 60), 0, -1
        with contextlib.suppress(RuntimeError):  # the store is gone, and the rank that had it
            while not done.wait(pause):
                key = f"sightsound/hung/{turn}"
                idle = time.monotonic() - self._beat_at
                asks = idle > limit and asked_at != self._beats and store.add(f"{key}/asked", 1) == 1
                if not asks and not store.check([f"{key}/asked"]):
                    continue
                asked_at = self._beats
                store.set(f"{key}/{rank}", json.dumps(asdict(self._place())))
                if asks:
                    done.wait(2 * pause)
                    answers = {r: store.get(f"{key}/{r}") for r in range(world) if store.check([f"{key}/{r}"])}
                    store.set(f"{key}/verdict", json.dumps(judge(_read(answers), world, limit)))
                verdict = json.loads(store.get(f"{key}/verdict"))
                turn += 1
                if verdict is not None and not done.is_set():
                    # the first rank speaks for all, and whoever ends closes the connections of the others
                    if rank and done.wait(max(1.0, 2 * pause)):
                        return
                    self._end(verdict[0], 1, verdict[1])
                    return

    def _place(self) -> Place:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        waits, where = place_of(frame)
        return Place(self._beats, time.monotonic() - self._beat_at, waits, where)


for _moment in _MOMENTS:
    setattr(HungRanks, f"on_{_moment}", HungRanks._beat)


def place_of(frame: FrameType | None) -> tuple[bool, str]:
    """Return whether a thread is in a collective operation, as far as Python can tell, and where it is.

    Args:
        frame: Its innermost frame.
    """
    if frame is None:
        return False, "nowhere"
    where = f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
    waits = frame.f_code.co_name == "_engine_run_backward"
    outer: FrameType | None = frame
    while outer is not None and not waits:
        waits = "/torch/distributed/" in outer.f_code.co_filename
        outer = outer.f_back
    return waits, where


def judge(places: Mapping[int, Place], world: int, limit: float) -> tuple[int, str] | None:
    """Tell who did not come.

    Args:
        places: What the ranks have answered; who hangs altogether has not.
        world: How many there are.
        limit: Seconds for which the one that asks has come no further.

    Returns:
        The first rank that did not come and a sentence; None where one of them comes further.
    """
    if any(place.idle < limit / 2 for place in places.values()):
        return None
    ahead = max(place.beats for place in places.values())
    behind = [r for r in range(world) if r not in places or places[r].beats < ahead]
    if not behind:
        behind = [rank for rank, place in places.items() if not place.waits]
    groups: dict[str, list[int]] = {}
    for rank in range(world):
        where = f"in {places[rank].where}" if rank in places else "not answering"
        groups.setdefault(where, []).append(rank)
    told = "; ".join(f"{_ranks(ranks)} {where}" for where, ranks in groups.items())
    known = 0 < len(behind) < world
    who = f"{_ranks(behind)} did not come to where the others wait" if known else "who hangs cannot be told"
    sentence = f"no rank has come further for {limit:.0f} s, so all ranks end; {who} ({told}); what was written is kept"
    return (behind[0] if known else 0), sentence


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _read(answers: Mapping[int, bytes]) -> dict[int, Place]:
    return {rank: Place(**json.loads(answer)) for rank, answer in answers.items()}
