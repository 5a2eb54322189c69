"""How weights are put into buckets, and taken out again."""

import pytest
import torch

from inference.weight_transfer.buckets import ALONE, announce, announced, cut, largest, pack, unpack
from records.hub_files import HubTensor

WEIGHTS = {
    "flags": torch.tensor([True, False, True]),  # three bytes: what follows does not begin at a multiple of four
    "matrix": torch.arange(6, dtype=torch.float32).view(2, 3),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 4),
}
SHAPES = {name: HubTensor(tuple(value.shape), value.dtype) for name, value in WEIGHTS.items()}


def cut_bytes(size: int, **weights: int) -> list[str]:
    shapes = {name.replace("_", "."): HubTensor((count,), torch.uint8) for name, count in weights.items()}
    return ["".join(run) for run in cut(shapes, size)]


def test_cut():
    assert cut_bytes(6, a=3, b=3, c=3, d=9, e=1, f=1) == ["ab", "c", "d", "ef"]
    assert cut_bytes(6, a=6, b=1) == ["a", "b"]
    assert cut_bytes(6) == []
    assert cut_bytes(6, a=0, b=0) == ["ab"]
    assert cut_bytes(4 * ALONE, a=1, b=ALONE, c=1, d=1) == ["a", "b", "cd"]


def test_what_the_server_fuses_stays_together_where_it_fits():
    """The third weight would fit beside the first two, but not all of its block."""
    assert cut_bytes(6, n_0_w=1, m_1_w=2, x_q_w=2, x_k_w=2) == ["n.0.wm.1.w", "x.q.wx.k.w"]
    assert cut_bytes(3, n_0_w=1, x_q_w=2, x_k_w=2) == ["n.0.wx.q.w", "x.k.w"]  # too large for any bucket: packed


@pytest.mark.parametrize("size", [1, 24, 30, 1000])
def test_what_is_packed_is_unpacked(size: int):
    told = announced(**announce(SHAPES))
    assert told == SHAPES and largest(told) == 24
    found = {}
    for run, bucket in zip(cut(told, size), pack(iter(WEIGHTS.items()), SHAPES, size), strict=True):
        assert bucket.dtype == torch.uint8 and (bucket.nbytes <= size or len(run) == 1)
        found |= {name: value.clone() for name, value in unpack(bucket, run)}
    assert found.keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype


def test_a_large_weight_is_not_copied():
    value = torch.ones(8)
    (bucket,) = pack(iter([("large", value)]), {"large": HubTensor((8,), torch.float32)}, 16)
    assert bucket.data_ptr() == value.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights[::-1], "expected flags"),
        (lambda weights: weights[:-1], "expected empty.*nothing"),
        (lambda weights: [*weights, ("more", torch.zeros(1))], "more came after all"),
        (lambda weights: [(name, value.double()) for name, value in weights], r"torch.float64 came"),
        (lambda weights: [(name, value[:1] if value.ndim else value) for name, value in weights], r"flags \(1,\)"),
    ],
)
def test_what_was_not_announced_is_not_sent(change, message: str):
    with pytest.raises(ValueError, match=message):
        list(pack(iter(change(list(WEIGHTS.items()))), SHAPES, 1000))


@pytest.mark.parametrize(
    "told",
    [
        {"names": ["a"], "dtype_names": ["float32"], "shapes": []},
        {"names": ["a", "a"], "dtype_names": ["float32"] * 2, "shapes": [[1], [1]]},
        {"names": ["a"], "dtype_names": ["nn"], "shapes": [[1]]},
        {"names": ["a"], "dtype_names": ["float32"], "shapes": [[-1]]},
    ],
)
def test_a_malformed_announcement_is_refused(told):
    with pytest.raises(ValueError, match="announced"):
        announced(**told)


def test_a_bucket_that_is_under_way_stays_as_it_is():
    """Two are used in turns: the one that is sent is not the one that is filled."""
    weights = {name: torch.full((2,), number, dtype=torch.uint8) for number, name in enumerate("abcdefgh")}
    stream = pack(iter(weights.items()), {name: HubTensor((2,), torch.uint8) for name in weights}, 4)
    under_way = next(stream)
    for first, following in zip((0, 2, 4), stream, strict=True):
        assert under_way.tolist() == [first, first, first + 1, first + 1]
        under_way = following
