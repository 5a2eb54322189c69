"""The synthetic world's teacher, checker and omni model behind the OpenAI chat API: ``python -m mini.world.endpoints``.

The teacher decodes the frames that it is sent and reasons from what it sees: it believes that whatever acts makes its
sound. The checker decodes the WAV file that it is sent and tests what a trace says against the signal. The omni model
answers from the sounds that it hears where it is sent a WAV file, else from the frames. The prior gets a question alone
and guesses from its wording. The teacher also writes questions, in the ways that it sees and reasons. All are
rules, not models; they know nothing of a clip but what is in the request.
"""

import argparse
import base64
import binascii
import contextlib
import functools
import io
import itertools
import math
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from torchvision.io import ImageReadMode, decode_image

from mini.world.authoring import asked_kind, authored, guessed
from mini.world.claims import answer_truth, mentioned, read_question, truth
from mini.world.hearing import heard_in_order, listen
from mini.world.questions import answer_from
from mini.world.seeing import look
from mini.world.sounds import SAMPLE_RATE
from mini.world.traces import JOINERS, describe
from records.reasoning_tags import THINK, tagged_answer, tagged_thought

TEACHER, CHECKER, OMNI, PRIOR = "mini-teacher", "mini-checker", "mini-omni", "mini-prior"
MODELS = (TEACHER, CHECKER, OMNI, PRIOR)

_REASONING = re.compile(r"reasoning:\n(.*?)\nThe answer was: (.*?)\n", re.DOTALL)
_CLAIMS = re.compile(r"This is a reasoning about the sounds.*?\n(.*)\nList each claim", re.DOTALL)
_CLAIM = re.compile(r"what you hear\?\n(.*)\nAnswer", re.DOTALL)
_GIVEN = re.compile(r"asked about it: (.*)\nThis is an answer: (.*)\n")
_runs = itertools.count()


def app() -> FastAPI:
    """Return the application with all models."""
    api = FastAPI(title="SightSound-R1 mini endpoints")

    @api.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]}

    @api.post("/v1/chat/completions")
    def chat(request: dict[str, Any]) -> JSONResponse:
        model = request.get("model")
        if model not in MODELS:
            raise HTTPException(404, f"the model {model!r} does not exist; there are {', '.join(MODELS)}")
        answer = {TEACHER: _teach, CHECKER: _check, OMNI: _answer, PRIOR: _guess}[model]
        return JSONResponse(answer(request, _parts(request)))

    return api


def _parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        content = request["messages"][-1]["content"]
    except (KeyError, IndexError, TypeError):
        raise HTTPException(400, "the request has no messages") from None
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _text(parts: Sequence[dict[str, Any]]) -> str:
    return "\n".join(part["text"] for part in parts if part.get("type") == "text")


def _teach(request: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    frames = [frame for part in parts for frame in _frames(part)]
    if not frames:
        raise HTTPException(400, "the teacher was sent no frames")
    sights = look(frames)
    text = _text(parts)
    seed, temperature = request.get("seed"), float(request.get("temperature", 1.0))
    texts = []
    for index in range(int(request.get("n") or 1)):
        rng = np.random.default_rng(None if seed is None else seed + index)
        believed = [sight.name(temperature, rng) for sight in sights]
        kind = asked_kind(text)
        said = _trace(text, believed, temperature, rng) if kind is None else authored(kind, believed, rng)
        texts.append(said)
    return _reply(request, text, texts, len(frames))


def _trace(text: str, believed: list[str], temperature: float, rng: np.random.Generator) -> str:
    asked = read_question(text)
    answer = answer_from(asked.kind, asked.options, asked.about, tuple(believed))
    if answer is None and asked.options:
        answer = asked.options[int(rng.integers(len(asked.options))) if temperature > 0 else 0]
    joiner = JOINERS[int(rng.integers(len(JOINERS))) if temperature > 0 else 0]
    said = tagged_answer(str(answer))
    return tagged_thought(describe(believed, joiner)) + said if THINK in text else said


def _guess(request: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(parts) != 1:
        raise HTTPException(400, "the prior is sent text alone")
    text = _text(parts)
    options, question = read_question(text).options, text.partition("\nOptions:")[0]
    if not options:
        raise HTTPException(400, "the prior understands questions with options only")
    rng = np.random.default_rng(request.get("seed"))
    return _reply(request, text, [tagged_answer(guessed(options, question, rng))])


def _answer(request: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    frames = [frame for part in parts for frame in _frames(part)]
    sounds = _sounds(parts)
    if not frames and not sounds:
        raise HTTPException(400, "the omni model was sent neither frames nor input_audio")
    text = _text(parts)
    rng = np.random.default_rng(request.get("seed"))
    if sounds:  # what is heard is known, what is seen is believed
        believed = heard_in_order(_heard(sounds[0].get("data", "")))
    else:
        believed = [sight.name(0.0, rng) for sight in look(frames)]
    return _reply(request, text, [_trace(text, believed, 0.0, rng)], len(frames))


def _sounds(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part["input_audio"] for part in parts if part.get("type") == "input_audio"]


def _check(request: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    text = _text(parts)
    if found := _CLAIMS.search(text):
        claims = [f"- {'no ' if not heard else 'a '}{sound} is heard" for sound, heard in mentioned(found[1])]
        return _reply(request, text, ["\n".join(claims) or "none"])
    sounds = _sounds(parts)
    if len(sounds) != 1:
        raise HTTPException(400, f"the checker needs one input_audio, found {len(sounds)}")
    likely = _heard(sounds[0].get("data", ""))
    if trace := _REASONING.search(text):
        chance = truth(likely, trace[1], trace[2], question=text)
    elif claim := _CLAIM.search(text):
        chance = truth(likely, claim[1])
    elif given := _GIVEN.search(text):
        chance = answer_truth(likely, given[1], given[2])
    else:
        raise HTTPException(
            400, "the checker understands the prompts check-trace, check-claim, list-claims and check-answer only"
        )
    chance = min(max(chance, 1e-6), 1 - 1e-6)
    logprobs = {"yes": math.log(chance), "no": math.log(1 - chance)}
    return _reply(request, text, ["yes" if chance >= 0.5 else "no"], logprobs=logprobs)


def _frames(part: dict[str, Any]) -> list[np.ndarray]:
    if part.get("type") == "image_url":
        images = [_base64_of(part["image_url"]["url"], ("data:image/jpeg;base64,", "data:image/png;base64,"))]
    elif part.get("type") == "video_url":
        images = _base64_of(part["video_url"]["url"], ("data:video/jpeg;base64,",)).split(",")
    else:
        return []
    frames = []
    for image in images:
        try:
            pixels = torch.frombuffer(bytearray(base64.b64decode(image, validate=True)), dtype=torch.uint8)
            frames.append(np.asarray(decode_image(pixels, ImageReadMode.RGB).permute(1, 2, 0).numpy()))
        except (binascii.Error, RuntimeError, ValueError):
            raise HTTPException(400, "a frame cannot be decoded") from None
    return frames


def _base64_of(url: str, prefixes: tuple[str, ...]) -> str:
    prefix = next((prefix for prefix in prefixes if url.startswith(prefix)), None)
    if prefix is None:
        raise HTTPException(400, f"frames must be data URLs that begin with {' or '.join(prefixes)}")
    return url[len(prefix) :]


@functools.lru_cache(maxsize=256)  # the traces of a question come with the same clip
def _heard(audio: str) -> np.ndarray:
    """Return what is heard in a WAV file, see :func:`listen`.

    Args:
        audio: The file in base64.
    """
    return listen(_waveform(audio))


def _waveform(audio: str) -> np.ndarray:
    try:
        content = base64.b64decode(audio, validate=True)
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (binascii.Error, RuntimeError, ValueError):
        raise HTTPException(400, "the audio cannot be decoded") from None
    mono = torch.from_numpy(samples.mean(1))
    if rate != SAMPLE_RATE:
        mono = torchaudio.functional.resample(mono, rate, SAMPLE_RATE)
    return np.asarray(mono.numpy())


def _reply(
    request: dict[str, Any], prompt: str, texts: list[str], frames: int = 0, logprobs: dict[str, float] | None = None
) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": None,
        }
        if logprobs is not None and request.get("logprobs"):
            top = [{"token": t, "logprob": p, "bytes": None} for t, p in logprobs.items()]
            content = [{"token": text, "logprob": logprobs[text], "bytes": None, "top_logprobs": top}]
            choice["logprobs"] = {"content": content}
        choices.append(choice)
    read, written = len(prompt.split()) + 16 * frames, sum(len(text.split()) for text in texts)
    return {
        "id": f"mini-{next(_runs)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": choices,
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


class MiniEndpoints:
    """All models on a thread of this process: ``with MiniEndpoints() as endpoints: endpoints.url``."""

    def __init__(self, port: int = 0) -> None:
        """Prepare.

        Args:
            port: Where to listen on the loopback address; 0 lets the system choose.
        """
        config = uvicorn.Config(app(), host="127.0.0.1", port=port, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="mini-endpoints", daemon=True)
        self.url = ""

    def __enter__(self) -> "MiniEndpoints":
        """Start to serve.

        Raises:
            RuntimeError: The server does not start.
        """
        self._thread.start()
        until = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RuntimeError("the mini endpoints did not start: is the port in use?")
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)


def main(args: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m mini.world.endpoints", description=__doc__)
    parser.add_argument("--port", type=int, default=8010, help="port on the loopback address (8010)")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    with MiniEndpoints(options.port) as endpoints:
        print(f"{', '.join(MODELS)} at {endpoints.url}; end with Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
