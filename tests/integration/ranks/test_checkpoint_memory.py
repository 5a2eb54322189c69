"""No rank holds more than a copy of its own part while a checkpoint is written, and nothing of it to speak of else."""

import json
from pathlib import Path

from tests.integration.ranks import checkpoint_memory_rank
from tests.support.ranks import run_ranks


def test_a_rank_holds_its_own_part_at_most(tmp_path: Path) -> None:
    run_ranks(checkpoint_memory_rank.main, str(tmp_path), folder=tmp_path / "logs")
    for rank in range(2):
        found = json.loads((tmp_path / f"rank.{rank}.json").read_text())
        part = found.pop("part")
        assert part > 200e6
        print(
            f"rank {rank}: part {part / 1e6:.0f} MB, beside the run", {k: f"{v / part:.2f}" for k, v in found.items()}
        )
        assert 0.9 < found["in the background"] / part < 1.2
        assert found["at once"] / part < 0.2, "a matrix at a time"
        assert found["kept afterwards"] / part < 0.1
        assert found["read"] / part < 0.2, "beside the moments that are read, in whose place the old ones were"
