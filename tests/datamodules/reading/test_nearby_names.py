"""Names of clips: found under another spelling, the nearest shown, never outside of the dataset's folder."""

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import soundfile

from datamodules.media.audio import ClipFolder
from datamodules.mmau import MMAUDataModule
from datamodules.reading.nearby_names import NearbyNames
from tests.support.dataset_files import tone

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café.wav") for form in ("NFC", "NFD"))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, tone(0.1), 16_000, format="WAV")
    return root


def read(root: Path, audio_ids: list[str], validate_media: bool = True) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the clips of the questions, and the report."""
    row = {"question": "Q?", "choices": ["a dog", "a cat"], "answer": "a cat", "task": "sound", "category": "R"}
    rows = [row | {"id": f"x{place}", "audio_id": name} for place, name in enumerate(audio_ids)]
    (root / "mmau-test-mini.json").write_text(json.dumps(rows))
    report = root.parent / "report"
    data = MMAUDataModule(str(root), report_dir=str(report), validate_media=validate_media)
    media = [question.media for question in data.questions("test")]
    for question in data.questions("test"):
        data.load(question)
    file = report / "mmau-test-mini.bad.jsonl"
    return media, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("validate_media", [True, False])
@pytest.mark.parametrize(
    ("there", "asked"),
    [
        (DECOMPOSED, COMPOSED),
        (COMPOSED, DECOMPOSED),
        ("y.WAV", "y.wav"),
        ("Audios/Y.wav", "audios/y.wav"),
        ("audios/ok.wav", ".\\audios\\ok.wav"),
        ("y.wav", "y\u200b.wav "),
    ],
)
def test_another_spelling_is_found_and_reported(tmp_path: Path, there: str, asked: str, validate_media: bool) -> None:
    media, report = read(touch(tmp_path / "mmau", there, "other.wav"), ["other.wav", asked], validate_media)
    assert media == ["other.wav", there]
    assert [(f["row"], f["kind"], f["repaired"]) for f in report] == [(2, "found under a nearby name", True)]
    assert report[0]["reason"].startswith(f"the clip {asked} was found under the nearby name {there}")
    assert report[0]["reason"].endswith("which has another form of Unicode") is ("caf" in there)


def test_a_name_as_it_is_written_goes_first(tmp_path: Path) -> None:
    media, report = read(touch(tmp_path / "mmau", "y.wav", "Y.wav", "Z.wav", "z.WAV"), ["Y.wav", ".\\y.wav", "z.wav"])
    assert media == ["Y.wav", "y.wav"]
    assert [f["kind"] for f in report] == ["found under a nearby name", "missing media"]
    assert "several names differ from it in their spelling only: Z.wav, z.WAV" in report[1]["reason"]


@pytest.mark.parametrize(
    ("there", "asked", "nearest"),
    [
        ("audios/one.mp3", "audios/one.wav", "audios/one.mp3"),
        ("audios/-HG3Omg_89c_000030.wav", "audios/-HG3Omg_89c_000031.wav", "audios/-HG3Omg_89c_000030.wav"),
        ("audios/my clip.wav", "audios/my_clip.wav", "audios/my clip.wav"),
        ("test-mini-audios/a.wav", "test_mini_audios/a.wav", "test-mini-audios"),
        ("audios/a.wav", "audios/something else.wav", None),
    ],
)
def test_the_nearest_name_is_shown(tmp_path: Path, there: str, asked: str, nearest: str | None) -> None:
    touch(tmp_path / "mmau", there, "zz/ok.wav")
    with pytest.warns(UserWarning, match="1 left out"):
        _, (found,) = read(tmp_path / "mmau", ["zz/ok.wav", asked])
    assert found["reason"].startswith(f"the clip {asked} is missing in")
    assert found["reason"].partition("; the nearest name is ")[2] == (nearest or "")


def test_folders_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """57,000 rows cost one listing, not 57,000."""
    names = NearbyNames(ClipFolder(touch(tmp_path, "a/One.wav", "a/Two.wav")))
    listed: list[str] = []
    true = os.listdir

    def noted(path: Path) -> list[str]:
        listed.append(str(path))
        return true(path)

    monkeypatch.setattr(os, "listdir", noted)
    for _ in range(3):
        assert names.find("a/one.wav") == ["a/One.wav"]
        assert names.find("A/two.wav") == ["a/Two.wav"]
        assert names.find("a/three.wav") == []
        assert names.nearest("a/ones.wav") == "a/One.wav"
    assert listed == [str(tmp_path), str(tmp_path / "a")]


SECRET = "secret.wav"


@pytest.mark.parametrize(
    "asked",
    [
        f"../{SECRET}",
        f"audios/../../{SECRET}",
        f"..\\{SECRET}",
        f"audios\\..\\..\\{SECRET}",
        "{outside}/" + SECRET,
        "\\{outside}\\" + SECRET,
        f"link/{SECRET}",
        f"link\\{SECRET}",
        f"LINK/{SECRET.upper()}",
        "linked.wav",
        "Linked.wav",
        "circle.wav",
        "Circle/a.wav",
        f"{SECRET}\0.wav",
        f"audios\n/../../{SECRET}",
        "\x1b[2Jok.wav",
        "ok.wav/../../" + SECRET,
        "x" * 300 + ".wav",
        "a/" * 3000 + "a.wav",
        "audios",
        "",
        ".",
        "list.m3u8",
        "List.M3U8 ",
        "\ud83d.wav",
    ],
)
def test_no_row_leads_out_of_the_folder(tmp_path: Path, asked: str) -> None:
    root = touch(tmp_path / "mmau", "ok.wav", "audios/a.wav")
    outside = touch(tmp_path / "outside", SECRET)
    touch(tmp_path, SECRET)
    (root / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{outside / SECRET}\n#EXT-X-ENDLIST\n")
    (root / "link").symlink_to(outside)
    (root / "linked.wav").symlink_to(outside / SECRET)
    (root / "circle.wav").symlink_to(root / "circle.wav")
    with pytest.warns(UserWarning, match="1 left out"):
        media, report = read(root, ["ok.wav", asked.replace("{outside}", str(outside))])
    assert media == ["ok.wav"]
    (found,) = report
    assert found["kind"] in ("unsafe path", "missing media")
    assert SECRET not in found["reason"].partition("nearest name")[2]  # nothing outside is listed either
