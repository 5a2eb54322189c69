"""How a rollout server was started, found out by what it does.

vLLM has a route that tells its settings, but it fails for reasons of its own (0.32 runs ``pip list`` for it). What
matters shows in the server's answers to requests as small as one token, and what does not show is left open: nothing
but a setting that is proven wrong is refused.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from inference.vllm.client import NOT_A_NUMBER, RouteMissing, ServerError, ServerRefused, VLLMClient

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PROMPT = (65, 66, 67, 68)
"""Tokens that every vocabulary has: without a clip, so that asking costs next to nothing."""

LIKELIEST = 20
"""Log-probabilities that are looked at; vLLM tells no more of one token unless it is started otherwise."""

FAR_TOO_MANY = 4096
"""More completions of a prompt than a server computes at once: its refusal names its limit."""

SECONDS = 300.0
"""Time for one answer: the first one after the start may have to wait until something is compiled."""


@dataclass(frozen=True)
class ServerInfo:
    """How a server was started; None stands for what could not be found out.

    Attributes:
        model: Directory or Hub name of the checkpoint that it was started with.
        max_model_len: Longest prompt and completion together.
        max_num_seqs: Completions that it computes at once; no prompt can have more.
        dtype: Type that it computes in: ``float32``, or ``bfloat16`` for any type of 16 bits.
        processed: True when its log-probabilities are those at the sampling temperature.
        paused: It was paused, so that it could not be asked for more than its model.
    """

    model: str
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    dtype: str | None = None
    processed: bool | None = None
    paused: bool = False

    def refusal(self) -> str | None:
        """Say what is wrong with the way in which the server was started, or None."""
        if self.processed is False:
            return (
                "it does not report log-probabilities at the sampling temperature: "
                "start it with --logprobs-mode processed_logprobs"
            )
        return None


class TooFewSequences(ServerRefused):
    """The server computes fewer completions at once than a prompt is to have."""


def ask(client: VLLMClient, completions: int = 1) -> ServerInfo:
    """Find out how a server was started.

    A paused server would hold the requests back, so that it is asked for its model and longest sequence only.

    Args:
        client: The server.
        completions: Most completions that one prompt will have.

    Raises:
        ServerRefused: It lacks the routes that rollouts need, or computes fewer completions.
        ServerUnreachable: It cannot be reached.
    """
    model, max_model_len = client.model()
    if client.is_paused():
        return ServerInfo(model, max_model_len, paused=True)
    limit = dtype = processed = None
    problem = "its answers do not show it"
    try:
        one = client.first_token(PROMPT, 1.0, LIKELIEST, SECONDS)
        two = client.first_token(PROMPT, 2.0, LIKELIEST, SECONDS)
        dtype, processed = read_dtype(one), read_processed(one, two)
        limit = _max_num_seqs(client, completions)
    except (RouteMissing, TooFewSequences):
        raise
    except (ServerError, LookupError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    info = ServerInfo(model, max_model_len, limit, dtype, processed)
    unknown = [name for name, value in vars(info).items() if value is None]
    if unknown:
        log.warning(f"How {client.url} was started could not be found out in full ({', '.join(unknown)}): {problem}")
    return info


def _max_num_seqs(client: VLLMClient, completions: int) -> int | None:
    """Ask for far too many completions, whose refusal names the limit; where it does not, for as many as wanted."""
    limit = None
    try:
        client.first_token(PROMPT, 1.0, 0, SECONDS, FAR_TOO_MANY)
    except ServerRefused as error:
        limit = read_limit(str(error))
        if limit is None and completions > 1:
            try:
                client.first_token(PROMPT, 1.0, 0, SECONDS, completions)
            except ServerRefused as refusal:
                raise TooFewSequences(f"{refusal}; {completions} completions are wanted of each prompt") from None
    if limit is not None and completions > limit:
        raise TooFewSequences(
            f"the rollout server {client.url} computes {limit} completions at once, {completions} are wanted of each "
            f"prompt: start it with --max-num-seqs {completions} or more"
        )
    return limit


def read_limit(refusal: str) -> int | None:
    """Read the number of completions that a server computes at once from its refusal of more."""
    found = re.search(r"max_num_seqs\W+(\d+)", refusal)
    return int(found[1]) if found else None


def read_processed(one: Mapping[int, float], two: Mapping[int, float]) -> bool | None:
    """Tell from a token's log-probabilities whether they are those at the sampling temperature.

    Twice the temperature halves their differences. Logits do so too; but a distribution that is flatter gives less
    than the root of its probability to the likeliest token, so that its logarithm more than halves.

    Args:
        one: Log-probability by token id at temperature 1.
        two: The same at temperature 2.

    Returns:
        None when all tokens are alike.
    """
    both = [token for token in one.keys() & two.keys() if min(one[token], two[token]) > NOT_A_NUMBER]
    if not both:
        return None
    first, last = max(both, key=one.__getitem__), min(both, key=one.__getitem__)
    spread = one[first] - one[last]
    if spread < 1e-4:
        return None
    logits = one[first] > 1e-4 or (one[first] < -1e-3 and abs(two[first] - one[first] / 2) < 1e-6)
    return abs((two[first] - two[last]) / spread - 0.5) < 0.1 and not logits


def read_dtype(logprobs: Mapping[int, float]) -> str | None:
    """Tell from log-probabilities at temperature 1 in which type the logits were computed.

    Their differences are those of the logits. In bfloat16 a logit has 8 significant bits (in float16 11), so that all
    differences are whole multiples of one coarse power of two; in float32 they are multiples of none.

    Args:
        logprobs: Log-probability of the likeliest tokens by id.

    Returns:
        ``float32``, ``bfloat16`` for any type of 16 bits, or None when there are too few different values.
    """
    values = sorted({value for value in logprobs.values() if value > NOT_A_NUMBER}, reverse=True)
    gaps = [values[0] - value for value in values[1:]]
    if len(gaps) < 8:
        return None
    rounding = 2.0**-23 * max(abs(value) for value in values)  # of a float32 log-probability
    step = 2.0 ** math.floor(math.log2(64 * rounding))  # eight gaps are multiples of it by chance once in 10**7
    whole = all(abs(gap - step * round(gap / step)) <= 2 * rounding for gap in gaps)
    return "bfloat16" if whole else "float32"
