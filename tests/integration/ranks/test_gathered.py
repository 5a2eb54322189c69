"""What two ranks gather, in which type, and how they sum gradients: against the same student whole on each of them."""

import json
from pathlib import Path

import pytest

from tests.integration.ranks import gathered_rank
from tests.support.ranks import run_ranks
from tests.support.students import ARCHITECTURES


def test_two_ranks_compute_what_one_computes(tmp_path: Path) -> None:
    weights = str(ARCHITECTURES["qwen2_audio"](tmp_path / "student", seconds=2))
    run_ranks(gathered_rank.main, weights, str(tmp_path / "said"), folder=tmp_path / "logs")
    for rank in range(2):
        said = json.loads((tmp_path / f"said.{rank}").read_text())
        print(said)
        assert said["loss"] < 1e-5
        assert said["gradient"] < 1e-5
        # the norm is that of all weights on all ranks, and gradients are scaled down to the limit, or left alone
        assert said["norm"] == pytest.approx(1, rel=1e-5)
        assert said["bounded"] == pytest.approx(1, rel=1e-3)
        assert said["unbounded"] == pytest.approx(said["bounded"], rel=1e-5)
        # micro-batches: the same gradient, sent once for each group of weights in place of twice
        assert said["each"] < 1e-6
        assert said["kept"] < 1e-6
        assert said["sent"][0] == 2 * said["sent"][1] > 0
        # each rank a copy of its own
        assert said["copies"] < 1e-5
        # gathered in bfloat16, which keeps 8 binary digits: two layers and the head are some 20 operations one after
        # the other, each of which rounds by 2**-9 of the value at most; together by less than 20 * 2**-9 = 0.04 of it
        assert 0 < said["low"] < 0.04
        assert said["low gradient"] > 0.98
        assert said["types"] == ["torch.float32"]
        # the mean of two gradients has digits that bfloat16 lacks: they are summed in float32
        assert said["digits"] > 0.1
        # adapters, their base in bfloat16
        assert said["adapters"] > 0.98
        assert said["base"] == ["torch.bfloat16"]
        assert said["adapter types"] == "torch.float32"
