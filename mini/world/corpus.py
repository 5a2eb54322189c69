"""The synthetic corpus: real media and annotations in the formats of AVQA, MMAU and MUSIC-AVQA.

Everything follows from one seed. The same configuration gives the same annotation bytes and the same decoded media.
"""

import dataclasses
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from mini.world.questions import AVQA_WORDING, MMAU_WORDING, MUSIC_AVQA_WORDING, NUMBERS, Asked, ask, possible_kinds
from mini.world.scenes import FRAME_RATE, FRAME_SIZE, Scene, draw_scene, render_audio, render_frames
from mini.world.sounds import INSTRUMENTS, SAMPLE_RATE, SOUNDS
from mini.world.traces import teacher_trace
from records.records import Trace, Verdict, write_jsonl
from runtime.parent_death import end_with_parent
from runtime.whole_folder import whole_folder

FORMAT = 6  # raise it when the generator changes: cached corpora are then written anew

# AVQA's question_type (accuracy is reported for it) and question_relation of each kind
AVQA_TYPES = {
    "which": "Come From",
    "first": "Before Next",
    "count": "How Many",
    "exists": "Is There",
}
AVQA_RELATIONS = {"which": "Both", "first": "Sound", "count": "Sound", "exists": "Both"}
KIND_WEIGHTS = {"which": 0.6, "first": 0.6, "count": 0.25, "exists": 0.12}


@dataclass(frozen=True)
class CorpusConfig:
    """Size and character of the corpus.

    Attributes:
        seed: Everything follows from it.
        train_clips: Clips of AVQA-mini's training split.
        val_clips: Clips of AVQA-mini's validation split.
        test_clips: Clips of MMAU-mini, and as many of MUSIC-AVQA-mini.
        questions_per_clip: Questions about each training and validation clip.
        traces_per_question: Samples of the reference teacher for each training question.
        silent: Probability that a scene has a visible source that makes no sound.
        hidden: Probability that an audible source is off screen.
        noise: Largest level of the background noise.
        slips: Probability that the reference teacher misreads a scene even in what it sees.
    """

    seed: int = 0
    train_clips: int = 1200
    val_clips: int = 160
    test_clips: int = 100
    questions_per_clip: int = 2
    traces_per_question: int = 5
    silent: float = 0.3
    hidden: float = 0.1
    noise: float = 0.05
    slips: float = 0.03

    @property
    def fingerprint(self) -> str:
        """Identifies what would be written."""
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Item:
    """One clip and where it goes.

    Attributes:
        split: ``train``, ``val``, ``mmau`` or ``music``.
        scene: What happens in it.
        media: Path of its media file relative to the corpus.
        asked: The questions about it.
    """

    split: str
    scene: Scene
    media: str
    asked: tuple[Asked, ...]


def plan(config: CorpusConfig) -> list[Item]:
    """Draw all scenes and questions; no media is written."""
    return [
        *_avqa_items(config, "train", config.train_clips),
        *_avqa_items(config, "val", config.val_clips),
        *_mmau_items(config),
        *_music_items(config),
    ]


def build_corpus(
    directory: str | os.PathLike[str],
    config: CorpusConfig | None = None,
    processes: int | None = None,
    progress: Callable[[str], None] = print,
) -> Path:
    """Write the corpus, or reuse the one that is there when it was written with the same configuration.

    Layout: ``avqa/{train,val}_qa.json`` and ``avqa/videos/``, ``mmau/mmau-test-mini.json`` and
    ``mmau/test-mini-audios/``, ``music_avqa/avqa-test.json`` and ``music_avqa/videos/``, ``traces.jsonl``,
    ``verdicts.jsonl``, ``scenes.json`` (the truth about every clip) and ``corpus.json`` (the configuration).

    Args:
        directory: Where the corpus goes; a corpus of another configuration there is replaced.
        config: Size and character.
        processes: Worker processes; by default one for each core.
        progress: Called with a line of text now and then.

    Returns:
        The directory.
    """
    config = config or CorpusConfig()
    target = Path(directory)
    if _fingerprint_of(target) == config.fingerprint:
        progress(f"corpus: {target} is up to date")
        return target
    if target.exists() and not (target / "corpus.json").exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} holds something that is not a corpus: choose another directory")
    started = time.monotonic()
    items = plan(config)
    with whole_folder(target, lasting=False) as partial:
        for folder in sorted({str(Path(item.media).parent) for item in items}):
            (partial / folder).mkdir(parents=True)
        _write_annotations(partial, items, config)
        _write_all_media(partial, items, processes, progress)
        (partial / "corpus.json").write_text(
            json.dumps({"fingerprint": config.fingerprint, **dataclasses.asdict(config)}, indent=1) + "\n"
        )
    progress(f"corpus: {len(items)} clips written to {target} in {time.monotonic() - started:.0f} s")
    return target


def _fingerprint_of(directory: Path) -> str | None:
    try:
        found = json.loads((directory / "corpus.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return found.get("fingerprint") if isinstance(found, dict) else None


def _scene_seeds(config: CorpusConfig, split: str, count: int) -> list[int]:
    """Return seeds that no other split shares."""
    stream = int.from_bytes(hashlib.sha256(split.encode()).digest()[:4], "little")
    return [int(s) for s in np.random.default_rng((config.seed, stream)).integers(2**62, size=count)]


def _video_name(rng: np.random.Generator) -> str:
    """Return a name like AVQA's: eleven characters and a start second."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(letters[i] for i in rng.integers(len(letters), size=11)) + f"_{int(rng.integers(300)):06d}"


def _draw_kinds(scene: Scene, count: int, rng: np.random.Generator) -> list[str]:
    kinds = possible_kinds(scene)
    weights = np.array([KIND_WEIGHTS[k] for k in kinds])
    picks = rng.choice(len(kinds), size=min(count, len(kinds)), replace=False, p=weights / weights.sum())
    return [kinds[i] for i in picks]


def _avqa_items(config: CorpusConfig, split: str, clips: int) -> Iterator[Item]:
    for seed in _scene_seeds(config, f"avqa/{split}", clips):
        rng = np.random.default_rng((seed, 3))
        scene = draw_scene(_video_name(rng), seed, SOUNDS, config.silent, config.hidden, config.noise)
        kinds = _draw_kinds(scene, config.questions_per_clip, rng)
        asked = tuple(ask(scene, kind, AVQA_WORDING, rng) for kind in kinds)
        yield Item(split, scene, f"avqa/videos/{scene.name}.mp4", asked)


def _mmau_items(config: CorpusConfig) -> Iterator[Item]:
    for seed in _scene_seeds(config, "mmau", config.test_clips):
        rng = np.random.default_rng((seed, 3))
        name = str(uuid.UUID(bytes=rng.bytes(16), version=4))
        scene = draw_scene(name, seed, SOUNDS, config.silent, config.hidden, config.noise)
        asked = tuple(ask(scene, kind, MMAU_WORDING, rng) for kind in _draw_kinds(scene, 2, rng))
        yield Item("mmau", scene, f"mmau/test-mini-audios/{name}.wav", asked)


def _music_items(config: CorpusConfig) -> Iterator[Item]:
    for number, seed in enumerate(_scene_seeds(config, "music_avqa", config.test_clips), 1):
        rng = np.random.default_rng((seed, 3))
        name = f"{number:08d}"
        scene = draw_scene(name, seed, INSTRUMENTS, config.silent, config.hidden, config.noise)
        yield Item("music", scene, f"music_avqa/videos/{name}.mp4", tuple(_ask_music(scene, rng)))


def _ask_music(scene: Scene, rng: np.random.Generator) -> Iterator[Asked]:
    """Ask one question of each kind that the scene admits, in the templates of MUSIC-AVQA."""
    heard, seen = scene.heard, scene.seen
    counting = MUSIC_AVQA_WORDING["count"][int(rng.integers(2))]
    yield Asked("count", counting, NUMBERS, NUMBERS[len(heard)])
    named = INSTRUMENTS[int(rng.integers(len(INSTRUMENTS)))]
    yield Asked("exists", MUSIC_AVQA_WORDING["exists"][0], ("yes", "no"), "yes" if named in heard else "no", (named,))
    if len(heard) > 1:
        place = int(rng.integers(2))
        ordinal = ("first", "second")[place]
        yield Asked("ordinal", MUSIC_AVQA_WORDING["ordinal"][0], INSTRUMENTS, heard[place], (ordinal,))
    yield Asked("seen", MUSIC_AVQA_WORDING["seen"][0], NUMBERS, NUMBERS[len(set(seen))])


MUSIC_TYPES = {
    "count": {
        MUSIC_AVQA_WORDING["count"][0]: ("Audio", "Counting"),
        MUSIC_AVQA_WORDING["count"][1]: ("Audio-Visual", "Counting"),
    },
    "exists": {MUSIC_AVQA_WORDING["exists"][0]: ("Audio", "Counting")},
    "ordinal": {MUSIC_AVQA_WORDING["ordinal"][0]: ("Audio-Visual", "Temporal")},
    "seen": {MUSIC_AVQA_WORDING["seen"][0]: ("Visual", "Counting")},
}


def _write_annotations(root: Path, items: list[Item], config: CorpusConfig) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "mmau": [], "music": []}
    traces: list[Trace] = []
    verdicts: list[Verdict] = []
    scenes: dict[str, Any] = {}
    for number, item in enumerate(items):
        scenes[item.media] = {
            "split": item.split,
            "heard": item.scene.heard,
            "seen": item.scene.seen,
            **dataclasses.asdict(item.scene),
        }
        for asked in item.asked:
            split_rows = rows[item.split]
            split_rows.append(_ROW_WRITERS[item.split](item, asked, number, len(split_rows)))
            if item.split == "train":
                for sample in range(config.traces_per_question):
                    trace, verdict = teacher_trace(
                        f"avqa/train/{split_rows[-1]['id']}", sample, item.scene, asked, config.slips
                    )
                    traces.append(trace)
                    verdicts.append(verdict)
    _dump(root / "avqa" / "train_qa.json", rows["train"])
    _dump(root / "avqa" / "val_qa.json", rows["val"])
    _dump(root / "mmau" / "mmau-test-mini.json", rows["mmau"])
    _dump(root / "music_avqa" / "avqa-test.json", rows["music"])
    _dump(root / "scenes.json", scenes)
    write_jsonl(root / "traces.jsonl", traces)
    write_jsonl(root / "verdicts.jsonl", verdicts)


def _avqa_row(item: Item, asked: Asked, clip: int, row: int) -> dict[str, Any]:
    return {
        "id": row,
        "video_name": item.scene.name,
        "video_id": clip,
        "question_text": asked.text,
        "multi_choice": list(asked.options),
        "answer": asked.options.index(asked.answer),
        "question_relation": AVQA_RELATIONS[asked.kind],
        "question_type": AVQA_TYPES[asked.kind],
    }


def _mmau_row(item: Item, asked: Asked, clip: int, row: int) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid5(uuid.UUID(item.scene.name), asked.text)),
        "audio_id": f"./test-mini-audios/{item.scene.name}.wav",
        "question": asked.text,
        "choices": list(asked.options),
        "answer": asked.answer,
        "dataset": "AudioSet",
        "task": "music" if set(item.scene.heard) <= set(INSTRUMENTS) else "sound",
        "split": "test-mini",
        "category": "Information Extraction" if asked.kind in ("which", "exists") else "Reasoning",
        "sub-category": "Temporal Event Reasoning" if asked.kind == "first" else "Acoustic Source Inference",
        "difficulty": ("easy", "medium", "hard")[len(item.scene.heard) - 1],
    }


def _music_row(item: Item, asked: Asked, clip: int, row: int) -> dict[str, Any]:
    return {
        "video_id": item.scene.name,
        "question_id": row,
        "type": json.dumps(MUSIC_TYPES[asked.kind][asked.text]),
        "question_content": asked.text,
        "templ_values": json.dumps(list(asked.asked_about)),
        "question_deleted": 0,
        "anser": asked.answer,
    }


_ROW_WRITERS = {"train": _avqa_row, "val": _avqa_row, "mmau": _mmau_row, "music": _music_row}


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write_all_media(root: Path, items: list[Item], processes: int | None, progress: Callable[[str], None]) -> None:
    processes = processes or os.cpu_count() or 1
    said = time.monotonic()
    with ProcessPoolExecutor(processes, initializer=end_with_parent) as pool:
        paths = [str(root / item.media) for item in items]
        for done, _ in enumerate(pool.map(write_media, paths, (i.scene for i in items), chunksize=16), 1):
            if time.monotonic() - said > 3:
                progress(f"corpus: {done} of {len(items)} clips")
                said = time.monotonic()


def write_media(path: str, scene: Scene) -> None:
    """Render a scene into a WAV file or an MP4 file with video and an audio track."""
    sound = render_audio(scene)
    if path.endswith(".wav"):
        soundfile.write(path, sound, SAMPLE_RATE, subtype="PCM_16")
        return
    with av.open(path, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("mpeg4", rate=FRAME_RATE)
        video.width = video.height = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        video.bit_rate = 200_000
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64_000
        for picture in render_frames(scene):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
