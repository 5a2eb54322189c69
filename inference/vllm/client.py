"""HTTP client of a vLLM server: token ids and a clip in, token ids and their log-probabilities out."""

import base64
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

from datamodules.media.audio import wav_bytes
from inference.vllm.bearer_token import VARIABLE, read_token
from inference.vllm.sampling import CompletionOutput, SamplingParams
from runtime.errors import UserError

NOT_A_NUMBER = -9999.0
"""What vLLM sends in place of NaN and minus infinity."""

NOTHING_INHERITED = {
    "top_k": -1,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "ignore_eos": True,
}
"""The whole distribution, and no end tokens but ours: what a server or its model would like to be sampled with must not
matter, because the trainer does not know of it."""


class ServerError(UserError):
    """A rollout server did not do what it was asked; the message names its address."""


class ServerUnreachable(ServerError):
    """The server does not answer, or its engine has died: asking again later may help."""


class ServerFailed(ServerUnreachable):
    """The server answered with an error of its own."""


class GaveUp(ServerFailed):
    """The server lives, but gave up this one request."""


class ServerRefused(ServerError):
    """The server answered with an error of ours: asking again does not help."""


class RouteMissing(ServerRefused):
    """The server was started without a route that rollouts need."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A chat as the server's model is shown it.

    Attributes:
        token_ids: The prompt with placeholders of media expanded.
        images: How many pictures have a place in it.
    """

    token_ids: list[int]
    images: int


@dataclass(frozen=True)
class RequestOutput:
    """The server's answer to one prompt.

    Attributes:
        prompt_token_ids: The prompt with audio placeholders expanded, as the server's model saw it.
        samples: The n completions.
    """

    prompt_token_ids: list[int]
    samples: list[CompletionOutput]


def audio_url(waveform: np.ndarray) -> str:
    """Return a clip as a data URL of a float32 WAV: the server decodes it to the very same samples."""
    return "data:audio/wav;base64," + base64.b64encode(wav_bytes(waveform)).decode("ascii")


class VLLMClient:
    """Speaks with one vLLM server; safe to use from many threads."""

    def __init__(self, url: str, request_seconds: float = 600.0, connections: int = 64) -> None:
        """Connect to nothing yet.

        Args:
            url: Address of the server, for example ``http://127.0.0.1:8000``.
            request_seconds: Give up a request after this time.
            connections: Requests that may be under way at once.

        Raises:
            UserError: The environment's secret for servers cannot be one.
        """
        self.url = url.rstrip("/")
        self.request_seconds = request_seconds
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy between trainer and rollout server helps nobody
        try:
            token = read_token()
        except ValueError as error:
            raise UserError(str(error)) from None
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=connections)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def healthy(self) -> bool:
        """True when the server answers and its engine lives; a paused server is healthy too."""
        try:
            return self._session.get(f"{self.url}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def model(self) -> tuple[str, int | None]:
        """Return the checkpoint that the server was started with, and its longest prompt and completion together."""
        with self._read("GET", "/v1/models", 30) as answer:
            card = answer["data"][0]
            return str(card["root"]), card.get("max_model_len")

    def first_token(
        self, token_ids: Sequence[int], temperature: float, top: int, seconds: float, n: int = 1
    ) -> dict[int, float]:
        """Draw one token after a prompt without a clip.

        Args:
            token_ids: The prompt.
            temperature: Divides the logits.
            top: How many of the likeliest tokens are wanted.
            seconds: Give up after this time.
            n: How often to draw.

        Returns:
            Log-probability of the token that was drawn first and of the likeliest ones, by token id.
        """
        parameters = {"n": n, "max_tokens": 1, "temperature": temperature, "seed": 0, "logprobs": top}
        with self._generate(list(token_ids), None, parameters, seconds) as answer:
            row = answer["choices"][0]["logprobs"]["content"][0]
            return {one["token_id"]: float(one["logprob"]) for one in (row, *row["top_logprobs"])}

    def generate(self, token_ids: list[int], audio: str, sampling: SamplingParams) -> RequestOutput:
        """Draw completions of one prompt.

        Args:
            token_ids: The prompt with ONE audio placeholder.
            audio: The clip as a data URL, see :func:`audio_url`.
            sampling: How to draw.

        Returns:
            The completions with log-probabilities.
        """
        parameters = {
            "n": sampling.n,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "stop_token_ids": list(sampling.stop_token_ids),
            "logprobs": 0,
        }
        with self._generate(token_ids, audio, parameters) as answer:
            samples = [self._sample(choice) for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]
            if len(samples) != sampling.n:
                raise ServerRefused(f"{self.url} was asked for {sampling.n} completions and sent {len(samples)}")
            return RequestOutput(answer["prompt_token_ids"], samples)

    def score(self, token_ids: list[int], audio: str, completion_ids: list[int]) -> list[float]:
        """Return the log-probabilities, at temperature 1, of given completion tokens after a prompt and a clip.

        Args:
            token_ids: The prompt with ONE audio placeholder.
            audio: The clip as a data URL.
            completion_ids: The tokens to score.
        """
        return self.force(token_ids, audio, completion_ids).samples[0].logprobs

    def force(
        self, token_ids: list[int], audio: str, completion_ids: list[int], images: Sequence[str] = ()
    ) -> RequestOutput:
        """Return what the server thinks of a completion that is not its own.

        Its log-probabilities are those at temperature 1, whatever is asked for: vLLM (0.32) takes them from the logits
        as they are. They are computed anew for all tokens; the prefix cache is not read.

        Args:
            token_ids: The prompt with ONE placeholder for the audio and for each picture.
            audio: The clip as a data URL; empty where the prompt has none.
            completion_ids: The completion, of one token at least.
            images: Pictures as data URLs.
        """
        parameters = {"n": 1, "max_tokens": 1, "temperature": 0.0, "logprobs": 0, "prompt_logprobs": 0}
        with self._generate([*token_ids, *completion_ids], audio, parameters, images=images) as answer:
            rows, seen = answer["prompt_logprobs"][-len(completion_ids) :], answer["prompt_token_ids"]
            scores = [float(row[str(token)]["logprob"]) for row, token in zip(rows, completion_ids, strict=True)]
            drawn = self._sample(answer["choices"][0])
            shown = len((answer.get("mm_placeholders") or {}).get("image") or ())
        if shown != len(images):
            raise ServerRefused(f"{self.url} was sent {len(images)} pictures, and its model was shown {shown}")
        if seen[-len(completion_ids) :] != completion_ids:
            raise ServerRefused(f"{self.url} scored other tokens than it was sent")
        if any(score <= NOT_A_NUMBER for score in scores):
            raise ServerRefused(f"{self.url} computes log-probabilities that are no numbers: its weights are broken")
        given = CompletionOutput(list(completion_ids), scores, True, drawn.weight_versions)
        return RequestOutput(seen[: -len(completion_ids)], [given])

    def render(self, messages: list[dict[str, Any]]) -> RenderedPrompt:
        """Return what a chat becomes for the server's model; nothing is computed.

        Args:
            messages: The chat in the terms of the chat API.
        """
        body = {"messages": messages}
        with self._read("POST", "/v1/chat/completions/render", self.request_seconds, body) as answer:
            places = (answer.get("features") or {}).get("mm_placeholders") or {}
            return RenderedPrompt(answer["token_ids"], len(places.get("image") or ()))

    def pause(self, seconds: float | None = None) -> None:
        """Let requests under way finish, which may take so many seconds, hold new ones back and clear all caches."""
        self._call("POST", "/pause?mode=wait", seconds or self.request_seconds)

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._call("POST", "/resume", 60)

    def is_paused(self) -> bool:
        """True while requests are held back, though ``/health`` says that all is well."""
        with self._read("GET", "/is_paused", 30) as answer:
            return bool(answer["is_paused"])

    def reload_weights(self, directory: str, seconds: float | None = None) -> None:
        """Make a paused server load the safetensors files in ``directory``, which it must be able to read."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": directory}}
        self._call("POST", "/collective_rpc", seconds or self.request_seconds, body)

    def load_in_place(self, directory: str, seconds: float | None = None) -> None:
        """Make a paused server copy the tensors of safetensors files over its own of the same names, and no others."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": directory, "is_checkpoint_format": False}}
        self._call("POST", "/collective_rpc", seconds or self.request_seconds, body)

    def world_size(self) -> int:
        """Return how many workers hold the model, or a part of it each."""
        with self._read("GET", "/get_world_size", 30) as answer:
            return int(answer["world_size"])

    def init_weight_transfer(self, init_info: dict[str, Any], seconds: float) -> None:
        """Have the server's workers meet the trainer that will send weights."""
        self._call("POST", "/init_weight_transfer_engine", seconds, {"init_info": init_info})

    def start_weight_update(self, seconds: float) -> None:
        """Have a paused server take its weights anew."""
        self._call("POST", "/start_weight_update", seconds)

    def update_weights(self, update_info: Any, seconds: float) -> None:
        """Have the server receive weights, between start and finish; returns when they are loaded."""
        self._call("POST", "/update_weights", seconds, {"update_info": update_info})

    def finish_weight_update(self, version: str | None = None, seconds: float = 60.0) -> None:
        """Have the server compute with what it has received, under that name."""
        self._call("POST", "/finish_weight_update", seconds, {"weight_version": version} if version else None)

    def set_weight_version(self, version: str) -> None:
        """Name the weights that the server has."""
        self._call("POST", "/update_weight_version", 30, {"new_version": version})

    def weight_version(self) -> str:
        """Return the name of the weights that the server has; ``default`` since its start."""
        with self._read("GET", "/weight_info", 30) as answer:
            return str(answer["weight_version"])

    def _generate(
        self,
        token_ids: list[int],
        audio: str | None,
        parameters: dict[str, Any],
        seconds: float | None = None,
        images: Sequence[str] = (),
    ) -> contextlib.AbstractContextManager[Any]:
        parts = [{"type": "audio_url", "url": audio}] if audio else []
        parts += [{"type": "image_url", "url": image} for image in images]
        body = {
            "token_ids": token_ids,
            **({"content_parts": parts} if parts else {}),
            "return_token_ids": True,
            "sampling_params": NOTHING_INHERITED | parameters,
        }
        return self._read("POST", "/inference/v1/generate", seconds or self.request_seconds, body)

    def _sample(self, choice: dict[str, Any]) -> CompletionOutput:
        if choice["finish_reason"] not in ("stop", "length"):
            raise GaveUp(f"{self.url} gave up a request ({choice['finish_reason']})")
        rows = choice["logprobs"]["content"]
        if [row["token_id"] for row in rows] != choice["token_ids"]:
            raise ServerRefused(f"{self.url} sent log-probabilities of other tokens than it sampled")
        if any(row["logprob"] <= NOT_A_NUMBER for row in rows):
            raise ServerRefused(f"{self.url} computes log-probabilities that are no numbers: its weights are broken")
        return CompletionOutput(
            token_ids=choice["token_ids"],
            logprobs=[row["logprob"] for row in rows],
            finished=choice["finish_reason"] == "stop",
            weight_versions=tuple(span["version"] for span in choice["weight_versions"] or ()),
        )

    @contextlib.contextmanager
    def _read(self, verb: str, path: str, seconds: float, body: Any = None) -> Iterator[Any]:
        """Yield an answer; what it has not where the block looks for it was not written by vLLM."""
        answer = self._call(verb, path, seconds, body)
        try:
            yield answer
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ServerRefused(
                f"{self.url}{path} answered otherwise than vLLM does ({str(answer)[:100]}): another program seems to "
                "listen there; start the rollout server on another --port"
            ) from None

    def _call(self, verb: str, path: str, seconds: float, body: Any = None) -> Any:
        try:
            answer = self._session.request(
                verb, self.url + path, json=body, timeout=(10, seconds), allow_redirects=False
            )
        except requests.Timeout:
            raise ServerUnreachable(f"{self.url}{path} did not answer within {seconds:.0f} s") from None
        except requests.exceptions.InvalidURL as error:
            raise ServerRefused(f"{self.url!r} is no address of a server: {error}") from None
        except requests.RequestException as error:
            raise ServerUnreachable(f"{self.url} cannot be reached ({type(error).__name__})") from None
        if answer.status_code == 401:
            wanted = "another secret" if "Authorization" in self._session.headers else "a secret"
            raise ServerRefused(f"{self.url} wants {wanted}: set {VARIABLE} here to what the server has")
        if answer.is_redirect:
            place = answer.headers["Location"]
            raise ServerRefused(
                f"{self.url} sends requests on to {place}: name the server by that address, or check it"
            )
        if answer.status_code in (404, 405):
            raise RouteMissing(
                f"{self.url} has no route {path.partition('?')[0]}: start it with VLLM_SERVER_DEV_MODE=1 and "
                "--enable-scale-out, as `python -m inference.vllm_server` does"
            )
        if answer.status_code >= 500:
            self._session.close()  # uvicorn closes a connection after an error without saying so: open a new one
            raise ServerFailed(f"{self.url}{path} failed ({answer.status_code}): {_message(answer)}")
        if answer.status_code != 200:
            raise ServerRefused(f"{self.url}{path} refused ({answer.status_code}): {_message(answer)}")
        try:
            return answer.json()
        except ValueError:
            raise ServerRefused(f"{self.url}{path} answered with no JSON: is it a vLLM server?") from None


def _message(answer: requests.Response) -> str:
    """Return the server's own words, shortened."""
    try:
        found = answer.json()
    except ValueError:
        return answer.text[:300]
    error = found.get("error", found.get("detail", found)) if isinstance(found, dict) else found
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)[:300]
