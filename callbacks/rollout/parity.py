"""The parity gate: before the first step, trainer and server must agree on real audio.

Three things are compared: the prompt's token ids, what the audio changes (a server that does not hear is refused), and
the log-probabilities of sampled tokens.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.rollout.rollout_callback import end_token_ids, evaluating, to_completions
from datamodules.batching.batch import AudioQABatch
from datamodules.batching.front_end import front_end_of
from inference.vllm.client import VLLMClient, audio_url
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.models.student import Student
from runtime.errors import UserError

QUESTIONS = 2
TOKENS = 32
QUIET = 1e-3
DEAF_SHARE = 0.2
"""A server hears when silence changes its scores by this share of what it changes in the trainer, or more."""

INAUDIBLE = 1e-5
"""Changes of log-probabilities below this are rounding."""


class ParityError(UserError):
    """Trainer and server do not compute the same policy."""


@dataclass(frozen=True)
class Parity:
    """What the gate measured.

    Attributes:
        largest_gap: Largest difference of a token's log-probability between trainer and server.
        mean_gap: Mean difference.
        silent_gap: Largest difference when both hear silence, at temperature 1.
        trainer_change: Largest change of a token's log-probability in the trainer when the audio becomes silence.
        server_change: The same on the server.
        tokens: Tokens compared.
    """

    largest_gap: float
    mean_gap: float
    silent_gap: float
    trainer_change: float
    server_change: float
    tokens: int


def check_prompt(client: VLLMClient, question_id: str, expected: list[int], found: list[int]) -> None:
    """Compare the prompt that the server used with the trainer's.

    Raises:
        ParityError: They differ.
    """
    if found == expected:
        return
    shorter = min(len(expected), len(found))
    at = next((i for i in range(shorter) if expected[i] != found[i]), shorter)
    raise ParityError(
        f"parity of prompts failed: for {question_id} the trainer has {len(expected)} prompt tokens and {client.url} "
        f"has {len(found)}, different from token {at} on; the server must be started with the student's own "
        "checkpoint (tokenizer, processor and audio lengths)"
    )


@dataclass(frozen=True)
class Asked:
    """What the server has said of some questions.

    Attributes:
        heard: The questions with the server's samples.
        unheard: The same with silence in place of the clips.
        temperature: At which the samples were drawn.
        scores: The server's log-probabilities of the samples at temperature 1, on the clips ``[B, 1, C]``.
        silent_scores: The same on silence.
    """

    heard: AudioQABatch
    unheard: AudioQABatch
    temperature: float
    scores: Tensor
    silent_scores: Tensor


def measure_parity(
    client: VLLMClient,
    student: Student,
    batch: AudioQABatch,
    temperature: float,
    max_tokens: int = TOKENS,
    seed: int = 0,
) -> Parity:
    """Ask the server and compare what it says: :func:`ask_server` and :func:`compare` in one call."""
    return compare(student, ask_server(client, student.processor, batch, temperature, max_tokens, seed))


def ask_server(
    client: VLLMClient,
    processor: Any,
    batch: AudioQABatch,
    temperature: float,
    max_tokens: int = TOKENS,
    seed: int = 0,
) -> Asked:
    """Sample on the server from the loudest clips of a batch, and have it score the samples; nothing is computed here.

    Args:
        client: The server.
        processor: The student's processor.
        batch: Questions with real audio.
        temperature: Temperature of the sampling, above 0.
        max_tokens: Longest sample.
        seed: Seed of the sampling.

    Raises:
        ParityError: The prompts differ.
    """
    batch = _loudest(batch)
    tokenizer = processor.tokenizer
    stop = end_token_ids(tokenizer)
    sampling = SamplingParams(1, max(min(max_tokens, TOKENS), 1), temperature, seed, stop)
    urls = [audio_url(waveform) for waveform in batch.waveforms]
    samples = []
    for row, (ids, url) in enumerate(zip(batch.request_ids, urls, strict=True)):
        answer = client.generate(ids, url, sampling)
        expected = batch.prompt_ids[row, : int(batch.prompt_lengths[row])].tolist()
        check_prompt(client, batch.questions[row].id, expected, answer.prompt_token_ids)
        samples.append(answer.samples)
    heard = dataclasses.replace(batch, completions=to_completions(samples, tokenizer, stop, batch.prompt_ids.device))
    unheard = _without_audio(heard, processor)
    scores = _score(client, heard, urls)
    silent_scores = _score(client, unheard, [audio_url(waveform) for waveform in unheard.waveforms])
    return Asked(heard, unheard, temperature, scores, silent_scores)


def compare(student: Student, asked: Asked) -> Parity:
    """Score the server's samples with the student too; a collective act where the student's weights are sharded.

    Args:
        student: The trainer's policy.
        asked: What the server has said.
    """
    completions = asked.heard.completions
    assert completions is not None and completions.logprobs is not None
    mask = completions.mask
    with evaluating(student), torch.no_grad():
        gap = (student.completion_logprobs(asked.heard, asked.temperature).logprobs - completions.logprobs).abs()
        trainer = student.completion_logprobs(asked.heard, 1.0).logprobs
        trainer_silent = student.completion_logprobs(asked.unheard, 1.0).logprobs
    return Parity(
        largest_gap=float(gap[mask].max()),
        mean_gap=float(gap[mask].mean()),
        silent_gap=float((trainer_silent - asked.silent_scores)[mask].abs().max()),
        trainer_change=float((trainer - trainer_silent)[mask].abs().max()),
        server_change=float((asked.scores - asked.silent_scores)[mask].abs().max()),
        tokens=int(mask.sum()),
    )


def unasked(processor: Any, batch: AudioQABatch, temperature: float) -> Asked:
    """Return something for :func:`compare` on a rank that only takes part: its result says nothing.

    Args:
        processor: The student's processor.
        batch: Questions of this rank.
        temperature: Temperature of the sampling.
    """
    batch = dataclasses.replace(batch, completions=None)[:QUESTIONS]
    stop = end_token_ids(processor.tokenizer)
    nothing = [[CompletionOutput(list(stop[:1]), [0.0], True)] for _ in batch.questions]
    heard = dataclasses.replace(
        batch, completions=to_completions(nothing, processor.tokenizer, stop, batch.prompt_ids.device)
    )
    blank = torch.zeros(heard.completions.mask.shape, device=batch.prompt_ids.device)  # type: ignore[union-attr]
    return Asked(heard, heard, temperature, blank, blank)


def judge_parity(parity: Parity, url: str, tolerance: float, mean_tolerance: float) -> None:
    """Refuse a server that does not hear, or whose log-probabilities are not the trainer's.

    Args:
        parity: What was measured.
        url: The server's address.
        tolerance: Largest difference of a token's log-probability that is accepted.
        mean_tolerance: Largest mean difference that is accepted.

    Raises:
        ParityError: The message says which of the checks failed and the likely cause.
    """
    if parity.trainer_change < INAUDIBLE:
        raise ParityError(
            "parity of hearing failed: the student's own log-probabilities do not change when the audio is replaced by "
            "silence: its audio tower or projector is broken"
        )
    if parity.server_change < max(DEAF_SHARE * parity.trainer_change, INAUDIBLE):
        raise ParityError(
            f"parity of hearing failed: replacing the audio by silence changes log-probabilities by "
            f"{parity.trainer_change:.2g} in the trainer and by {parity.server_change:.2g} on {url}: "
            "the server ignores the audio that it is sent"
        )
    if parity.largest_gap <= tolerance and parity.mean_gap <= mean_tolerance:
        return
    cause = (
        "both agree on silence, so that it is the audio: soundfile must be installed in the server's environment, "
        "otherwise its samples are scaled wrongly"
        if parity.silent_gap <= tolerance
        else "they disagree on silence too, so that it is the model: the server has other weights, another dtype or "
        "another attention"
    )
    raise ParityError(
        f"parity of log-probabilities failed: trainer and {url} differ by up to {parity.largest_gap:.2g} nats "
        f"({parity.mean_gap:.2g} on average, accepted: {tolerance:g} and {mean_tolerance:g}); {cause}"
    )


def judge_hearing(asked: Asked, url: str) -> None:
    """Refuse a server that does not hear, where there is no trainer to compare it with.

    Args:
        asked: What the server has said.
        url: Its address.

    Raises:
        ParityError: Silence in place of the clips changes nothing.
    """
    assert asked.heard.completions is not None
    change = (asked.scores - asked.silent_scores)[asked.heard.completions.mask].abs().max()
    if float(change) < INAUDIBLE:
        raise ParityError(
            f"parity of hearing failed: replacing the audio by silence changes nothing on {url}: the server ignores "
            "the audio that it is sent, or the student's audio tower or projector is broken"
        )


def _loudest(batch: AudioQABatch) -> AudioQABatch:
    """Take neighbouring questions around the loudest clip, so that silence makes a difference."""
    loudness = [float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) for waveform in batch.waveforms]
    first = min(int(np.argmax(loudness)), max(len(batch) - QUESTIONS, 0))
    return dataclasses.replace(batch, completions=None)[first : first + QUESTIONS]


def _without_audio(batch: AudioQABatch, processor: Any) -> AudioQABatch:
    """Replace each clip by silence of the same length; a clip that is silent itself by noise."""
    noise = np.random.default_rng(0)
    waveforms = [
        (0.1 * noise.standard_normal(len(w))).astype(np.float32) if np.abs(w).max() < QUIET else np.zeros_like(w)
        for w in batch.waveforms
    ]
    silent = front_end_of(processor).features(waveforms, processor)[0].to(batch.features)
    return dataclasses.replace(batch, waveforms=waveforms, features=silent, audio=None)  # not what a cache has heard


def _score(client: VLLMClient, batch: AudioQABatch, urls: list[str]) -> Tensor:
    """Score the first completion of each question on the server, at temperature 1."""
    completions = batch.completions
    assert completions is not None
    scores = torch.zeros(completions.ids.shape)
    for row, url in enumerate(urls):
        ids = completions.ids[row, 0][completions.mask[row, 0]].tolist()
        scores[row, 0, : len(ids)] = torch.tensor(client.score(batch.request_ids[row], url, ids))
    return scores.to(completions.ids.device)
