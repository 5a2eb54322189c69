"""Killed, resumed, spread over ranks: the same files to the byte."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corpus.__main__ import attribute_texts, main
from corpus.clips import parts as parts_module
from corpus.clips.inputs import Inputs
from corpus.clips.settings import ClipSettings
from corpus.clips.stage import ClipStage
from runtime.errors import UserError
from tests.support.films import melody, write_film, write_shard

SETTINGS = ClipSettings(seconds=1.0, least_seconds=1.0)
FOLDERS = ("clips", "left_out")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of three videos of two seconds, one a copy."""
    root = tmp_path_factory.mktemp("films")
    for shard in range(4):
        members = []
        for number in range(3):
            seed = 10 * shard + number if (shard, number) != (3, 1) else 0
            film = write_film(root / "film.mp4", melody(seed, 2))
            members.append((f"{shard}-{number}.mp4", film.read_bytes()))
        write_shard(root / f"{shard}.tar", members)
    (root / "film.mp4").unlink()
    return root


def contents(output: Path) -> dict[str, bytes]:
    files = [file for folder in FOLDERS for file in (output / folder).iterdir()] + [output / "report.json"]
    return {file.relative_to(output).as_posix(): file.read_bytes() for file in sorted(files)}


@pytest.fixture(scope="module")
def whole(films: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("out")
    assert ClipStage(Inputs(films, shards="*.tar"), SETTINGS, output).run()
    made = contents(output)
    assert made["report.json"].count(b'"near-duplicate": 2') == 1
    return made


def test_ranks_make_the_same_files(films: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    stages = [ClipStage(Inputs(films, shards="*.tar"), SETTINGS, tmp_path, rank=rank, ranks=3) for rank in range(3)]
    assert [stage.run() for stage in stages] == [False, False, True]
    assert contents(tmp_path) == whole
    assert stages[0].run()  # nothing is left to do


@pytest.mark.parametrize("stops", [1, 4, 7])
def test_a_run_that_is_cut_goes_on_behind_the_last_whole_line(
    films: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: int
) -> None:
    stage = ClipStage(Inputs(films, shards="*.tar"), SETTINGS, tmp_path)
    examined: list[str] = []
    true = parts_module.Examiner.examine

    def examine(self: parts_module.Examiner, one: object) -> object:
        if len(examined) == stops:
            raise KeyboardInterrupt
        found = true(self, one)  # type: ignore[arg-type]
        examined.append(found.name)
        return found

    monkeypatch.setattr(parts_module.Examiner, "examine", examine)
    with pytest.raises(KeyboardInterrupt):
        stage.run()
    if growing := list((tmp_path / "work" / "growing").iterdir()):
        with growing[0].open("ab") as file:
            file.write(b'{"schema": "examined/1", "na')  # a line that a crash has torn
    stops = -1
    assert stage.run()
    assert len(examined) == len(set(examined)) == 12
    assert contents(tmp_path) == whole


@pytest.mark.slow
def test_killed_ten_times_at_random(films: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "corpus", "clips", "--root", str(films), "--shards", "*.tar", "--output"]
    command += [str(tmp_path), "--seconds", "1", "--least-seconds", "1", "--processes", "2"]
    rng = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(command, start_new_session=True)
        time.sleep(rng.uniform(2, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert contents(tmp_path) == whole


def test_the_end_is_done_again_after_a_kill(films: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    stage = ClipStage(Inputs(films, shards="*.tar"), SETTINGS, tmp_path)
    stage.run()
    (tmp_path / "report.json").unlink()
    shutil.rmtree(tmp_path / "left_out")
    assert stage.run()
    assert contents(tmp_path) == whole


def test_another_way_to_make_clips_needs_another_folder(films: Path, tmp_path: Path) -> None:
    ClipStage(Inputs(films, shards="0.tar"), SETTINGS, tmp_path).run()
    with pytest.raises(UserError, match=r"other settings \(seconds, shards\)"):
        ClipStage(Inputs(films, shards="*.tar"), ClipSettings(seconds=2, least_seconds=1), tmp_path).run()


def test_the_command(films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = tmp_path / "bench"
    write_film(bench / "x.mp4", melody(0, 2))
    command = ["clips", "--root", str(films), "--shards", "0.tar", "--output", str(tmp_path / "out"), "--seconds", "1"]
    main([*command, "--least-seconds", "1", "--against", str(bench)])
    out = capsys.readouterr().out
    assert "4 clips of 3 inputs; left out: 2 benchmark" in out
    assert "bench: 1 clips, 2 clips of the input sound like one and are kept out" in out
    with pytest.raises(UserError, match="of 2 ranks it is one from 0 to 1"):
        main([*command, "--rank", "2", "--ranks", "2"])
    with pytest.raises(SystemExit):
        main(["clips", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, said in attribute_texts(ClipSettings.__doc__ or "").items():
        assert f"--{name.replace('_', '-')}" in text and said.replace("%%", "%") in text
