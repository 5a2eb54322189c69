"""Base of the callbacks that sample completions: fills each batch before the step sees it."""

import contextlib
import copy
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from callbacks.rollout.dead_groups import revive, without_spares
from callbacks.rollout.earlier_answers import earlier_completions
from datamodules.batching.batch import AudioQABatch, Completions
from inference.vllm.sampling import CompletionOutput, SamplingParams
from lightning_modules.doors import RolloutModule, TrainingRollouts, fitting
from runtime.errors import refuse_below

MODULES = "modules that answer questions with a student, such as AudioQAModule, SFTModule and GRPOModule"


class RolloutCallback(Callback):
    """Samples completions: G at the module's temperature in training, the likeliest one in evaluation.

    Modules that do not roll out in training (``training_rollouts`` is None) and training batches that come with
    targets are left alone there. What an interrupted evaluation has answered is taken from there.
    """

    def __init__(self, max_new_tokens: int = 256, eval_max_new_tokens: int | None = None, seed: int | None = None):
        """Set what all ways of sampling share.

        Args:
            max_new_tokens: Longest completion in training.
            eval_max_new_tokens: Longest completion in validation, test and prediction; by default as in training.
            seed: Seed of the sampling; by default that of ``seed_everything``. The same seed, optimizer step and
                question give the same seed of the request, on any number of ranks and after resuming.
        """
        super().__init__()
        refuse_below(1, max_new_tokens=max_new_tokens)
        self.max_new_tokens = max_new_tokens
        self.eval_max_new_tokens = eval_max_new_tokens or max_new_tokens
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that has nothing to sample from."""
        self.module(pl_module)

    def module(self, pl_module: LightningModule) -> RolloutModule:
        """Return the module as what is needed of it.

        Raises:
            UserError: It is another one.
        """
        return fitting(pl_module, RolloutModule, self, MODULES)

    def sample(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> tuple[list[list[CompletionOutput]], str]:
        """Draw the completions of a batch.

        Args:
            trainer: The trainer.
            pl_module: The module with the ``student`` whose policy it is.
            batch: B questions.
            sampling: How to draw each question's completions.

        Returns:
            The completions of each question, and the version of the weights that drew them.
        """
        raise NotImplementedError

    def prepare(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> None:
        """Do what all ranks must do together before completions are drawn; by default nothing.

        Called before each training batch and before the first batch of an evaluation, of which every rank has one.

        Args:
            trainer: The trainer.
            pl_module: The module with the ``student``.
            batch: The questions.
            sampling: How each question's completions will be drawn.
        """

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, batch_idx: int
    ) -> None:
        """Fill a training batch that has no completions yet, where the module wants them."""
        module = self.module(pl_module)
        wanted = module.training_rollouts
        if batch.completions is not None or wanted is None:
            return
        whole = copy.copy(batch)
        batch.become(without_spares(whole, wanted))
        sampling = self.train_sampling(trainer.global_step, module, wanted, batch)
        self.prepare(trainer, module, batch, sampling)
        samples = self._fill(trainer, module, batch, sampling)
        revive(self, trainer, module, wanted, batch, samples, whole)
        self._log_rollout(module, batch, trainer.global_step)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: AudioQABatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fill a validation batch."""
        self._evaluate(trainer, pl_module, batch, batch_idx)

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: AudioQABatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fill a test batch."""
        self._evaluate(trainer, pl_module, batch, batch_idx)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: AudioQABatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fill a prediction batch."""
        self._evaluate(trainer, pl_module, batch, batch_idx)

    def train_sampling(
        self, step: int, module: RolloutModule, wanted: TrainingRollouts, batch: AudioQABatch, attempt: int = 0
    ) -> list[SamplingParams]:
        """Return how the completions of a training batch are drawn.

        Args:
            step: Optimizer steps taken.
            module: The module with the ``student``.
            wanted: What it wants.
            batch: B questions.
            attempt: How often they were asked before within the step.
        """
        seeds = request_seeds(self._base_seed(), step, [question.id for question in batch.questions], attempt)
        stop = end_token_ids(module.student.processor.tokenizer)
        return [
            SamplingParams(wanted.num_completions, self.max_new_tokens, wanted.temperature, seed, stop)
            for seed in seeds
        ]

    def _log_rollout(self, pl_module: LightningModule, batch: AudioQABatch, version: int) -> None:
        done = batch.completions
        assert done is not None
        metrics = {
            "time/rollout": done.seconds,
            "rollout/tokens_per_s": int(done.lengths.sum()) / max(done.seconds, 1e-9),
            "rollout/weight_version": float(version),
        }
        pl_module.log_dict(metrics, on_step=True, on_epoch=False, batch_size=len(batch))

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, batch: AudioQABatch, batch_idx: int) -> None:
        module = self.module(pl_module)
        stop = end_token_ids(module.student.processor.tokenizer)
        wanted = module.evaluation_rollouts
        n, temperature = wanted.num_completions, wanted.temperature
        seeds = [0] * len(batch)
        if temperature > 0:
            seeds = request_seeds(self._base_seed(), 0, [question.id for question in batch.questions])
        sampling = [SamplingParams(n, self.eval_max_new_tokens, temperature, seed, stop) for seed in seeds]
        if batch_idx == 0:
            self.prepare(trainer, module, batch, sampling)
        if (answered := earlier_completions(batch, module.completed.predictions)) is not None:
            batch.completions = answered
            return
        self._fill(trainer, module, batch, sampling)

    def _fill(
        self, trainer: Trainer, pl_module: RolloutModule, batch: AudioQABatch, sampling: list[SamplingParams]
    ) -> list[list[CompletionOutput]]:
        begun = time.perf_counter()
        samples, version = self.sample(trainer, pl_module, batch, sampling)
        self.put(pl_module, batch, samples, version, time.perf_counter() - begun, sampling)
        return samples

    def put(
        self,
        pl_module: RolloutModule,
        batch: AudioQABatch,
        samples: list[list[CompletionOutput]],
        version: str,
        seconds: float,
        sampling: Sequence[SamplingParams],
    ) -> Completions:
        """Give a batch its completions.

        Args:
            pl_module: The module with the ``student``.
            batch: B questions.
            samples: ``[B][G]`` completions.
            version: The weights that drew them.
            seconds: How long it took.
            sampling: How each question's were drawn.

        Returns:
            The completions, in tensors.
        """
        tokenizer = pl_module.student.processor.tokenizer
        done = to_completions(samples, tokenizer, sampling[0].stop_token_ids, batch.prompt_ids.device)
        done.weight_version = version
        done.seconds = seconds
        done.seeds = [one.seed for one in sampling]
        batch.completions = done
        return done

    def sample_again(
        self,
        trainer: Trainer,
        pl_module: RolloutModule,
        batch: AudioQABatch,
        sampling: list[SamplingParams],
        rows: Sequence[int],
    ) -> list[list[CompletionOutput]]:
        """Draw completions of some of a batch's questions; called on all ranks together, of which some may have none.

        Args:
            trainer: The trainer.
            pl_module: The module with the ``student`` whose policy it is.
            batch: B questions.
            sampling: How to draw each one's completions.
            rows: Which of them.

        Returns:
            The completions of these.
        """
        if not rows:
            return []
        return self.sample(trainer, pl_module, batch.chosen(rows), [sampling[row] for row in rows])[0]

    def _base_seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))


def end_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end a completion, ``<|im_end|>`` first."""
    known = tokenizer.get_vocab()
    ids = [known[token] for token in ("<|im_end|>", "<|endoftext|>", tokenizer.eos_token) if token in known]
    return tuple(dict.fromkeys(ids))


def request_seeds(seed: int, step: int, question_ids: Sequence[str], attempt: int = 0) -> list[int]:
    """Derive the seed of each question's request from what a resumed run and any split over ranks know alike.

    Args:
        seed: The run's seed.
        step: Optimizer steps taken.
        question_ids: The batch's questions; one that occurs twice gets two seeds.
        attempt: How often they were asked before within the step.

    Returns:
        A seed below 2**48 for each question.
    """
    seen: Counter[str] = Counter()
    seeds = []
    for question_id in question_ids:
        text = f"{seed}/{step}/{question_id}/{seen[question_id]}" + f"/{attempt}" * (attempt > 0)
        seen[question_id] += 1
        seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))
    return seeds


def to_completions(
    samples: list[list[CompletionOutput]], tokenizer: Any, end_tokens: Sequence[int], device: torch.device | str = "cpu"
) -> Completions:
    """Put completions into tensors.

    Args:
        samples: ``[B][G]`` completions.
        tokenizer: Decodes them.
        end_tokens: Tokens that are no part of the text.
        device: Where the tensors go.

    Returns:
        The completions, right-padded.
    """
    longest = max((len(s.token_ids) for group in samples for s in group), default=0)
    shape = (len(samples), len(samples[0]), max(longest, 1))
    ids = torch.full(shape, tokenizer.pad_token_id, dtype=torch.long)
    logprobs = torch.zeros(shape)
    for b, group in enumerate(samples):
        for g, sample in enumerate(group):
            length = len(sample.token_ids)
            ids[b, g, :length] = torch.tensor(sample.token_ids, dtype=torch.long)
            logprobs[b, g, :length] = torch.tensor(sample.logprobs)
    lengths = np.array([[len(s.token_ids) for s in group] for group in samples])
    done = Completions(
        ids=ids,
        mask=torch.from_numpy(np.arange(shape[-1]) < lengths[..., None]),
        texts=[[completion_text(s.token_ids, tokenizer, end_tokens) for s in group] for group in samples],
        finished=np.array([[s.finished for s in group] for group in samples]),
        logprobs=logprobs,
        lengths=lengths,
        reference_logprobs=_padded([[s.reference_logprobs for s in group] for group in samples], shape),
        teacher_logprobs=_padded([[s.teacher_logprobs for s in group] for group in samples], shape, torch.nan),
        blind_logprobs=_padded([[s.blind_logprobs for s in group] for group in samples], shape, torch.nan),
    )
    return (done.pin_memory() if torch.device(device).type == "cuda" else done).to(device)


def _padded(
    scores: list[list[list[float] | None]], shape: tuple[int, int, int], rest: float = 0.0
) -> torch.Tensor | None:
    """Put what others think of completions into a tensor ``[B, G, C]``; None where nobody was asked."""
    if all(row is None for group in scores for row in group):
        return None
    padded = torch.full(shape, rest)
    for b, group in enumerate(scores):
        for g, row in enumerate(group):
            assert row is not None, "either all completions of a batch are scored or none"
            padded[b, g, : len(row)] = torch.tensor(row)
    return padded


def completion_text(token_ids: Sequence[int], tokenizer: Any, end_tokens: Sequence[int]) -> str:
    """Decode a completion without its end token; other special tokens stay visible."""
    kept = token_ids[:-1] if token_ids and token_ids[-1] in end_tokens else token_ids
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module and all its parts to evaluation, and each part back to what it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
