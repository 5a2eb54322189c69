"""Shared-prompt attention without padding, mask or repeated keys, on the kernels of flash attention.

A completion's token attends to its prompt and to its own tokens. Both parts are attentions of their own, and two
attentions over disjoint keys are merged exactly: with the logarithms of their normalisers ``l_1`` and ``l_2``,
``l = log(exp l_1 + exp l_2)`` and ``o = exp(l_1 - l) o_1 + exp(l_2 - l) o_2``. The backward kernels form the
probabilities ``exp(s - l)`` from the normaliser that they are given, so with the merged ``o`` and ``l`` each of them
gives its part of the exact gradient.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Runs(NamedTuple):
    """Sequences that lie one behind the other.

    Attributes:
        starts: Where each begins, and where the last ends, int32 ``[S + 1]``.
        longest: Length of the longest.
    """

    starts: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: list[int]) -> "Runs":
        """Put sequences of such lengths behind each other."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(starts, max(lengths))

    def to(self, device: torch.device | str) -> "Runs":
        """Return a copy on ``device``."""
        return Runs(self.starts.to(device), self.longest)


class Sight(NamedTuple):
    """Which keys each query sees.

    Attributes:
        queries: Sequences of queries.
        keys: The keys of each; where there are more keys than queries, the last of both fall together.
        causal: Whether a query sees only the keys up to its own.
        scale: Multiplies the scores.
    """

    queries: Runs
    keys: Runs
    causal: bool
    scale: float

    def pairs(self) -> list[tuple[slice, slice]]:
        """Return rows and keys of each sequence; the device is waited for."""
        q, k = self.queries.starts.tolist(), self.keys.starts.tolist()
        return [(slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1)]


@dataclass(frozen=True)
class Segments:
    """Which packed row is what, and the sequences that the kernels run over.

    Attributes:
        question: Of each row ``[N]``.
        completion: Of each row, over the whole batch ``[N]``; -1 in prompts.
        place: Of each row within its prompt or completion ``[N]``.
        prompt_rows: How many rows are prompts; they come first.
        prompts: The prompts.
        answers: For each question, the rows of all its completions.
        completions: Each completion by itself.
        queries: Prompts, then completions, each by itself.
        keys: Prompts, then ``[prompt | own tokens]`` of each completion, rows named by ``gathered``.
        gathered: Packed row of each of those keys.
    """

    question: Tensor
    completion: Tensor
    place: Tensor
    prompt_rows: int
    prompts: Runs
    answers: Runs
    completions: Runs
    queries: Runs
    keys: Runs
    gathered: Tensor

    @classmethod
    def of(cls, prompt_lengths: np.ndarray, completion_lengths: np.ndarray) -> "Segments":
        """Lay out prompts of such lengths ``[B]`` and their completions ``[B, G]``."""
        prompts: list[int] = prompt_lengths.tolist()
        lengths: list[list[int]] = completion_lengths.tolist()
        flat = [n for row in lengths for n in row]
        rows = [*prompts, *flat]
        of_question = [*range(len(prompts)), *(b for b, row in enumerate(lengths) for _ in row)]
        numbers = [*[-1] * len(prompts), *range(len(flat))]
        repeats = torch.tensor(rows)
        starts = Runs.of(rows).starts.tolist()
        gathered = [torch.arange(sum(prompts))]
        keys = list(prompts)
        for number, n in enumerate(flat):
            at, b = starts[len(prompts) + number], of_question[len(prompts) + number]
            gathered += [torch.arange(starts[b], starts[b] + prompts[b]), torch.arange(at, at + n)]
            keys.append(prompts[b] + n)
        return cls(
            torch.tensor(of_question).repeat_interleave(repeats),
            torch.tensor(numbers).repeat_interleave(repeats),
            torch.cat([torch.arange(n) for n in rows]),
            sum(prompts),
            Runs.of(prompts),
            Runs.of([sum(row) for row in lengths]),
            Runs.of(flat),
            Runs.of(rows),
            Runs.of(keys),
            torch.cat(gathered),
        )

    def to(self, device: torch.device | str) -> "Segments":
        """Return a copy on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, (Tensor, Runs)) else value for name, value in vars(self).items()
        }
        return Segments(**moved)

    def dense(self) -> Tensor:
        """Return where a row may look, ``[N, N]``."""
        same = self.question[:, None] == self.question
        own = (self.completion[:, None] == self.completion) & (self.place[:, None] >= self.place)
        asked = (self.completion[:, None] >= 0) & (self.completion < 0)
        return same & (own | asked)


def split_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attend to prompts and to own tokens apart, merged by the log-sum-exp.

    Args:
        q: ``[1, heads, N, d]``.
        k: ``[1, key heads, N, d]``.
        v: As ``k``.
        segments: What the rows are.
        scale: Multiplies the scores.

    Returns:
        ``[1, N, heads, d]``.
    """
    out: Tensor = _Split.apply(*(x[0].transpose(0, 1) for x in (q, k, v)), segments, scale)
    return out[None]


def repeated_keys_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
    """Attend in one call, a prompt's keys repeated for each completion; arguments as of :func:`split_attention`."""
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    keys, values = (x.index_select(0, segments.gathered) for x in (k, v))
    out: Tensor = _Sequences.apply(q, keys, values, segments.queries, segments.keys, scale)
    return out[None]


class _Split(torch.autograd.Function):
    """Three attentions over packed rows ``[N, h, d]``: prompts, completions to prompts, completions to themselves."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> Tensor:
        s, cut = segments, segments.prompt_rows
        asked, l_asked = flash_forward(q[:cut], k[:cut], v[:cut], Sight(s.prompts, s.prompts, True, scale))
        over, l_over = flash_forward(q[cut:], k[:cut], v[:cut], Sight(s.answers, s.prompts, False, scale))
        own, l_own = flash_forward(q[cut:], k[cut:], v[cut:], Sight(s.completions, s.completions, True, scale))
        merged = torch.logaddexp(l_over, l_own)
        share = (l_over - merged).exp().T[..., None]  # [h, T] -> [T, h, 1]
        out = torch.cat([asked, torch.lerp(own.float(), over.float(), share).to(q.dtype)])
        ctx.save_for_backward(q, k, v, out, l_asked, merged)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, l_asked, merged = ctx.saved_tensors
        s, cut, scale = ctx.segments, ctx.segments.prompt_rows, ctx.scale
        asking, answering = gradient.contiguous().split([cut, len(q) - cut])
        asked, answered = out[:cut], out[cut:]
        p = flash_backward(asking, q[:cut], k[:cut], v[:cut], asked, l_asked, Sight(s.prompts, s.prompts, True, scale))
        a = flash_backward(
            answering, q[cut:], k[:cut], v[:cut], answered, merged, Sight(s.answers, s.prompts, False, scale)
        )
        c = flash_backward(
            answering, q[cut:], k[cut:], v[cut:], answered, merged, Sight(s.completions, s.completions, True, scale)
        )
        of_q = torch.cat([p[0], a[0] + c[0]])
        of_k, of_v = (torch.cat([p[i] + a[i], c[i]]) for i in (1, 2))
        return of_q, of_k, of_v, None, None


class _Sequences(torch.autograd.Function):
    """One causal attention over sequences; where there are more keys than queries, the last of both fall together."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: Runs, keys: Runs, scale: float) -> Tensor:
        sight = Sight(queries, keys, True, scale)
        out, lse = flash_forward(q, k, v, sight)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.sight = sight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse = ctx.saved_tensors
        return *flash_backward(gradient.contiguous(), q, k, v, out, lse, ctx.sight), None, None, None


def flash_forward(q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
    """Attend within sequences: rows ``[N, h, d]`` to output ``[N, h, d]`` and log-sum-exp ``[h, N]`` in float32."""
    if not q.is_cuda:
        return _plain_forward(q, k, v, sight)
    found = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        sight.queries.starts,
        sight.keys.starts,
        sight.queries.longest,
        sight.keys.longest,
        0.0,
        sight.causal,
        return_debug_mask=False,
        scale=sight.scale,
    )
    return found[0], found[1]


def flash_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    sight: Sight,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values under the normaliser ``lse``, which may cover more keys."""
    if not q.is_cuda:
        return _plain_backward(gradient, q, k, v, out, lse, sight)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        gradient,
        q,
        k,
        v,
        out,
        lse.contiguous(),
        sight.queries.starts,
        sight.keys.starts,
        sight.queries.longest,
        sight.keys.longest,
        0.0,
        sight.causal,
        torch.zeros(2, dtype=torch.uint64, device=q.device),  # of a dropout that there is not
        torch.empty(0, device=q.device),
        scale=sight.scale,
    )
    return found


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """Return the scores of one sequence ``[h, n, m]``; the last query sees the last key."""
    shared = q.shape[1] // k.shape[1]
    scores = torch.einsum("nhd,mhd->hnm", q.float(), k.float().repeat_interleave(shared, 1)) * scale
    if causal:
        n, m = scores.shape[1:]
        hidden = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n).logical_not()
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores


def _plain_forward(q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
    out, lse = torch.zeros_like(q), torch.zeros(q.shape[1], q.shape[0], device=q.device)
    shared = q.shape[1] // k.shape[1]
    for rows, cols in sight.pairs():
        scores = _scores(q[rows], k[cols], sight.causal, sight.scale)
        values = v[cols].float().repeat_interleave(shared, 1)
        out[rows] = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), values).to(q.dtype)
        lse[:, rows] = scores.logsumexp(-1)
    return out, lse


def _plain_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    sight: Sight,
) -> tuple[Tensor, Tensor, Tensor]:
    of_q, of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    shared = q.shape[1] // k.shape[1]
    for rows, cols in sight.pairs():
        p = (_scores(q[rows], k[cols], sight.causal, sight.scale) - lse[:, rows, None]).exp()
        given, result = gradient[rows].float(), out[rows].float()
        keyed, valued = (x[cols].float().repeat_interleave(shared, 1) for x in (k, v))
        of_p = torch.einsum("nhd,mhd->hnm", given, valued)
        of_s = p * (of_p - (given * result).sum(-1).T[..., None]) * sight.scale
        of_q[rows] += torch.einsum("hnm,mhd->nhd", of_s, keyed)
        of_k[cols] += torch.einsum("hnm,nhd->mhd", of_s, q[rows].float()).unflatten(1, (-1, shared)).sum(2)
        of_v[cols] += torch.einsum("hnm,nhd->mhd", p, given).unflatten(1, (-1, shared)).sum(2)
    return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype)
