"""Who did not come, told from where all ranks are."""

import sys

import torch
from torch.distributed import HashStore, init_process_group

from callbacks.hung_ranks import Place, judge, place_of


def at(where: str, waits: bool, beats: int = 7, idle: float = 100.0) -> Place:
    return Place(beats, idle, waits, where)


def test_the_one_that_is_not_in_a_collective() -> None:
    places = {0: at("barrier (c10d.py:1)", True), 1: at("step (a.py:2)", False), 2: at("barrier (c10d.py:1)", True)}
    assert judge(places, 3, 100) == (
        1,
        "no rank has come further for 100 s, so all ranks end; rank 1 did not come to where the others wait "
        "(ranks 0, 2 in barrier (c10d.py:1); rank 1 in step (a.py:2)); what was written is kept",
    )


def test_the_one_that_has_not_come_as_far_or_does_not_answer() -> None:
    """With NCCL the main threads wait for the device, outside of any collective."""
    rank, said = judge({0: at("item", False, beats=9), 2: at("item", False, beats=8)}, 3, 100) or (None, "")
    assert rank == 1 and "ranks 1, 2 did not come" in said and "rank 1 not answering" in said


def test_nobody_is_blamed_without_a_sign() -> None:
    rank, said = judge({0: at("item", True), 1: at("item", True)}, 2, 100) or (None, "")
    assert rank == 0 and "who hangs cannot be told" in said


def test_whoever_comes_further_keeps_all() -> None:
    assert judge({0: at("barrier", True), 1: at("predict_step", False, idle=3)}, 2, 100) is None


def test_places() -> None:
    assert place_of(sys._getframe()) == (False, f"test_places (test_hung_ranks.py:{sys._getframe().f_lineno})")
    found = []
    init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    try:
        watched = torch.ones(1, requires_grad=True)
        watched.register_hook(lambda grad: found.append(place_of(sys._getframe(1))))
        watched.sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert found[0][0] and found[0][1].startswith("_engine_run_backward (graph.py:")
    assert place_of(None) == (False, "nowhere")
