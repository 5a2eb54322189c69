"""Files of records that grow: odd text, full disks."""

from pathlib import Path

import pytest

from records.records import Trace
from records.shards import JsonlShards, Shard, truncate_partial_line
from runtime.errors import UserError

TRACE = Trace("avqa/train/1", 0, "a dog \ud83d barks", "a dog", "teacher")


def test_half_an_emoji_is_kept_and_met_once(tmp_path: Path) -> None:
    """A reply with half a character is written, so that the restarted stage does not ask for it again."""
    shards = JsonlShards(tmp_path, {Trace: "traces"})
    shards.open([Trace], rank=0)
    assert shards.append(Trace, [TRACE, Trace("avqa/train/2", 0, "rain", "rain", "teacher")]) == 2
    shards.close()
    assert not shards.repair([Trace])
    assert [(t.question_id, t.reasoning) for t in shards.read(Trace)] == [
        ("avqa/train/1", "a dog \ufffd barks"),
        ("avqa/train/2", "rain"),
    ]


def test_a_full_disk_is_named_and_what_was_written_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rank-00000.jsonl"
    shard = Shard(path)
    shard.append([TRACE])
    shard._file.close()
    shard._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115  (closed by close)
    with pytest.raises(UserError, match=r"rank-00000\.jsonl: No space left on device; what was written before is kept"):
        shard.append([TRACE])
    shard.close()  # it was said already
    assert not truncate_partial_line(path, Trace)


def test_a_disk_that_turns_out_to_be_full_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on network file systems, which take everything and complain when it is synchronised."""

    def full(file: int) -> None:
        raise OSError(122, "Disk quota exceeded")

    shard = Shard(tmp_path / "rank-00000.jsonl")
    monkeypatch.setattr("os.fsync", full)
    shard.append([TRACE])
    with pytest.raises(UserError, match="Disk quota exceeded"):
        shard.close()
    shard.close()
