"""How completions are asked for and what comes back, whoever samples."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How completions of one prompt are drawn.

    Attributes:
        n: Completions of the prompt.
        max_tokens: Longest completion.
        temperature: Divides the logits; 0 takes the likeliest token.
        seed: Seed of the first completion; the i-th has ``seed + i``.
        stop_token_ids: Tokens that end a completion.
    """

    n: int
    max_tokens: int
    temperature: float
    seed: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class CompletionOutput:
    """One completion.

    Attributes:
        token_ids: Its tokens, the end token included.
        logprobs: Their log-probabilities under the policy that drew them, at its temperature.
        finished: False when it was cut at the token limit.
        weight_versions: Versions of the weights that drew it; more than one when they changed on the way.
        reference_logprobs: Log-probabilities of its tokens under the reference, where a server has told them.
        teacher_logprobs: Those under a teacher that sees the clip, where one was asked; NaN for tokens that it did not
            score.
        blind_logprobs: Those under the same teacher without the frames, where it was asked for them.
    """

    token_ids: list[int]
    logprobs: list[float]
    finished: bool
    weight_versions: tuple[str, ...] = ()
    reference_logprobs: list[float] | None = None
    teacher_logprobs: list[float] | None = None
    blind_logprobs: list[float] | None = None
