import random

import pytest

from datamodules.batching.sampler import (
    Position,
    ResumableLoader,
    TrainBatchSampler,
    by_length,
    eval_share,
    permutation,
)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert permutation(10, 3, 0) == permutation(10, 3, 0)
    assert sorted(permutation(10, 3, 0)) == list(range(10))
    assert len({tuple(permutation(10, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_ranks_share_the_global_batches_of_one_rank() -> None:
    one = list(TrainBatchSampler(11, 4, seed=1))
    ranks = [list(TrainBatchSampler(11, 2, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(one) == 2  # 3 of 11 do not fill a global batch of 4
    assert [first + second for first, second in zip(*ranks, strict=True)] == one


def test_an_iteration_begins_where_it_is_told() -> None:
    at = Position(2, 0)
    sampler = TrainBatchSampler(12, 3, seed=1, position=lambda: at)
    whole = list(sampler)
    at = Position(2, 3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == 4
    at = Position(3, 0)
    assert list(sampler) != whole


def test_evaluation_takes_each_item_once() -> None:
    shares = [list(eval_share(7, rank, 3)) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(7))
    assert [len(share) for share in shares] == [3, 2, 2]


def test_items_of_similar_length_come_together() -> None:
    # one pool of two batches of two: sorted by length 3, 1 | 0, 2; the fifth item does not fill a batch
    order = by_length([0, 1, 2, 3, 4], [7.0, 5.0, 9.0, 1.0, 2.0], 2, 2, seed=0, epoch=0)
    assert order in ([3, 1, 0, 2, 4], [0, 2, 3, 1, 4])
    seen = {tuple(by_length([0, 1, 2, 3, 4], [7.0, 5.0, 9.0, 1.0, 2.0], 2, 2, 0, epoch)) for epoch in range(20)}
    assert len(seen) == 2  # the batches' order is random


def padding(batches: list[list[int]], lengths: list[float]) -> float:
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths[i] for batch in batches for i in batch) / padded


def test_padding_stays_under_a_tenth() -> None:
    """Clips of 3 to 10 s with one to four traces of 90 to 160 tokens each, in batches of 8."""
    rng = random.Random(0)
    lengths = [
        25 * rng.uniform(3, 10) + sum(rng.uniform(90, 160) for _ in range(rng.randint(1, 4))) for _ in range(2000)
    ]
    assert padding(list(TrainBatchSampler(2000, 8, seed=1)), lengths) > 0.25
    sorted_ = TrainBatchSampler(2000, 8, seed=1, lengths=lengths, pool=16)
    batches = list(sorted_)
    assert padding(batches, lengths) < 0.1
    assert sorted(i for batch in batches for i in batch) == list(range(2000))
    assert batches == list(sorted_)  # the same again


def test_batches_of_similar_length_are_shared_and_resumed_like_others() -> None:
    lengths = [float(i * 7 % 11) for i in range(30)]
    at = Position(1, 0)
    one = TrainBatchSampler(30, 4, seed=1, lengths=lengths, pool=3, position=lambda: at)
    whole = list(one)
    ranks = [list(TrainBatchSampler(30, 2, 1, rank, 2, lambda: at, lengths=lengths, pool=3)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole
    at = Position(1, 4)
    assert list(one) == whole[4:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_looks_ahead_hands_out_the_same_batches(workers: int) -> None:
    loader = ResumableLoader(list(range(5)), batch_size=2, num_workers=workers, collate_fn=list)
    loader.look_ahead = True
    for _ in range(2):
        assert [(batch, loader.upcoming) for batch in loader] == [([0, 1], [2, 3]), ([2, 3], [4]), ([4], None)]
