from datamodules.sampler import Position, TrainBatchSampler, eval_share, permutation


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
