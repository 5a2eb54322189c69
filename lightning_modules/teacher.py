"""The teacher T (paper, section 3.1): n reasoning traces of each question from silent frames."""

import hashlib
import time
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from answers.answers import match_option
from datamodules.batching.items import TeacherExample
from datamodules.media.probes import shuffle_options
from datamodules.media.video import image_parts, video_parts, video_timing
from datamodules.prompts.questions import NO_CLIP, TEACHER_PROMPTS, Prompt, TeacherPromptName
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import Choice, EndpointSettings, Reply, RequestFailed
from inference.chat_api.retries import EndpointError, Failure
from lightning_modules.chat_stage import ChatStage, Work, refuse_sampling, side_by_side, spoken
from records.reasoning_tags import split_thought, without_tags
from records.records import Question, Trace
from records.request_records import RequestError
from runtime.errors import UserError

_VLLM_FRAMES = 32
_MOST_SAMPLES = 1000


class TeacherModule(ChatStage):
    """Samples n traces r_i = T(P(v, q)) of each question from a vision-language model that gets silent frames only."""

    record_type = Trace

    def __init__(
        self,
        endpoint: EndpointSettings,
        samples: int = 8,
        prompt: TeacherPromptName | Prompt = "teacher-audio-cot",
        send: Literal["images", "video"] = "images",
        timing: bool = False,
        n_in_one_request: bool = True,
        shuffle_options: bool = False,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_tokens: int = 768,
        seed: int | None = 0,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008  (frozen)
    ) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: The OpenAI-compatible server of the teacher.
            samples: Traces of each question, n in the paper.
            prompt: Name of a prompt of ``datamodules.prompts.questions``, or a prompt's own name and template.
            send: ``images`` sends the frames as a list of images, ``video`` as one video (``video_url`` with JPEG
                frames, as vLLM reads it).
            timing: For ``video``: tell vLLM how far the frames are apart, which it takes to be a second otherwise, and
                that all count, of which it drops those after the first 32 otherwise. It refuses this (400) unless it
                was started with ``--trust-request-mm-kwargs``.
            n_in_one_request: Ask for all samples in one request (``n``); else one request for each sample. Where some
                did not come, in this run or in one before, these alone are asked for again.
            shuffle_options: Show each sample the options in another order, the same one in each run, so that agreement
                is not a habit of choosing the first. Each sample is a request of its own then.
            temperature: Sampling temperature.
            top_p: Nucleus of the sampling.
            max_tokens: Longest completion.
            seed: Where the seeds of the requests come from, each question and sample its own; null sends none.
            budget: Prices and limits.
        """
        if not 1 <= samples <= _MOST_SAMPLES:
            raise UserError(f"model.samples must be between 1 and {_MOST_SAMPLES}, found {samples}")
        refuse_sampling(max_tokens, temperature, top_p)
        if isinstance(prompt, str) and prompt not in TEACHER_PROMPTS:
            raise UserError(f"model.prompt must be one of {', '.join(TEACHER_PROMPTS)}, found {prompt!r}")
        together = n_in_one_request and not shuffle_options
        super().__init__(endpoint, budget, requests_per_item=1 if together else samples)
        self.samples: int = samples
        self.prompt = TEACHER_PROMPTS[prompt] if isinstance(prompt, str) else prompt
        self.send = send
        self.timing = timing
        self.n_in_one_request = together and samples > 1
        self.shuffle_options = shuffle_options
        self.sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        ours = endpoint.extra_body
        if "seed" in ours:
            raise UserError("endpoint.extra_body must not hold 'seed', which traces record: it is set with model.seed")
        self.sampling_sent = {name: ours.get(name, value) for name, value in self.sampling.items()}
        if shuffle_options:
            self.sampling_sent["shuffle_options"] = True  # traces of both ways are not mixed
        self.seed = seed
        self._gives_several = False
        self.provenance = {
            "model": endpoint.model,
            "prompt_version": self.prompt.identifier,
            "sampling": dict(self.sampling_sent),
        }

    def remaining(self, question_id: str) -> list[int]:
        """Return which samples of a question are neither on disk nor refused for good."""
        return self.completed.remaining(question_id, range(self.samples))

    def question_id(self, item: TeacherExample) -> str:
        """Return which question an item is about."""
        return item.question.id

    def predict_step(self, batch: Sequence[TeacherExample], batch_idx: int) -> int:
        """Begin to ask about a batch's questions.

        Args:
            batch: The questions.
            batch_idx: The batch's number.

        Raises:
            UserError: The prompt speaks of frames and there are none, or there are frames and it speaks of none.
        """
        for item in batch:
            if item.error is None and bool(item.images) == (self.prompt.modalities == NO_CLIP):
                shown = "shows frames of each clip" if item.images else "shows no frames (data.blind)"
                raise UserError(
                    f"model.prompt {self.prompt.name!r} does not fit data that {shown}: a model that is to see nothing "
                    "needs data.blind and the prompt 'prior', any other teacher needs neither"
                )
        return super().predict_step(batch, batch_idx)

    def messages(self, item: TeacherExample, sample: int = 0) -> list[dict[str, Any]]:
        """Return the chat that asks the teacher for a sample: the frames, where there are any, and then the text."""
        parts = (image_parts if self.send == "images" else video_parts)(list(item.images)) if item.images else []
        text = {"type": "text", "text": self.prompt.render(self.asked(item.question, sample))}
        return [{"role": "user", "content": [*parts, text]}]

    def asked(self, question: Question, sample: int) -> Question:
        """Return a question as a sample is asked it, with the options in an order of its own where that is wanted."""
        return shuffle_options(question, sample) if self.shuffle_options else question

    async def ask(self, item: TeacherExample, work: Work) -> None:
        """Ask for the samples that remain."""
        question = item.question
        if item.error is not None:
            work.errors.append(RequestError.now(question.id, "media", item.lasting, item.error))
            return
        if self.send == "video" and not self.timing and len(item.images) > _VLLM_FRAMES:
            rank_zero_warn(
                f"vLLM drops all but the first {_VLLM_FRAMES} of a video's {len(item.images)} frames unless it was "
                'started with --media-io-kwargs \'{"video": {"num_frames": -1}}\': see model.timing'
            )
        extra = video_timing(item.rate) if self.send == "video" and self.timing else None
        seed = None if self.seed is None else request_seed(self.seed, question.id)

        async def all_of(samples: list[int]) -> None:
            if not self.n_in_one_request:
                groups = [[sample] for sample in samples]
            else:
                groups = [samples] if seed is None else consecutive(samples)
            await side_by_side([together(group) for group in groups if group])

        async def together(samples: list[int]) -> None:
            asking = self.endpoint.chat(
                self.messages(item, samples[0]),
                work.tally,
                extra,
                n=len(samples) if len(samples) > 1 else None,
                seed=None if seed is None else seed + samples[0],
                **self.sampling,
            )
            noted = [None] if len(samples) == self.samples > 1 else samples
            reply = await self._settle(question.id, noted, asking, work)
            if reply is not None:
                await all_of(self._keep(question, samples, reply, seed, work))

        await all_of(self.remaining(question.id))

    def _keep(
        self, question: Question, samples: Sequence[int], reply: Reply, seed: int | None, work: Work
    ) -> list[int]:
        """Keep the samples that came; return those to be asked for again, alone: the others are paid for."""
        self._gives_several = self._gives_several or len(reply.choices) > 1
        places = [choice.index for choice in reply.choices]
        if max(places) >= len(samples):  # counted from 1
            places = list(range(len(places)))
        found = dict(zip(places, reply.choices, strict=True))
        again = []
        for place, sample in enumerate(samples):
            choice = found.get(place)
            if choice is None or (choice.failure is not None and choice.failure.action == "retry"):
                again.append(sample)
                continue
            try:
                seed_of_sample = None if seed is None else seed + sample
                work.records.append(self._trace(question, sample, spoken(choice), reply, seed_of_sample))
            except RequestFailed as failed:
                self._note(question.id, sample, failed, work)
        if again and len(samples) > 1 and not self._gives_several:
            raise EndpointError(
                f"{self.endpoint_settings.label} returned 1 of {len(samples)} samples: it does not support n, set "
                "model.n_in_one_request to false"
            )
        if len(again) < len(samples):
            return again
        lost = Failure("missing sample", "retry", f"none of {len(samples)} samples came")
        for sample in again:
            self._note(question.id, sample, RequestFailed(lost), work)
        return []

    def _trace(self, question: Question, sample: int, choice: Choice, reply: Reply, seed: int | None) -> Trace:
        reasoning, answer = read_trace(choice, self.asked(question, sample))
        return Trace(
            question_id=question.id,
            sample=sample,
            reasoning=reasoning,
            answer=answer,
            model=self.endpoint_settings.model,
            endpoint=self.endpoint_settings.label,
            prompt_version=self.prompt.identifier,
            sampling=dict(self.sampling_sent),
            seed=seed,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens if len(reply.choices) == 1 else None,
            created=round(time.time(), 3),
        )


def read_trace(choice: Choice, question: Question) -> tuple[str, str | None]:
    """Return the reasoning of a completion and the option it chose, or None where no reader could say.

    The reasoning is what the server returns as such, else what is thought inside tags, else what precedes the answer;
    it never holds a tag. What is said of an answer in thoughts is no answer.

    Args:
        choice: The completion.
        question: The question with its options.
    """
    parts = split_thought(choice.text)
    reasoning = without_tags(choice.reasoning) or parts.reasoning
    said = parts.said if parts.said.strip() else choice.text
    index = match_option(said, question.options, choice.finish_reason != "length")
    return reasoning, None if index is None else question.options[index]


def request_seed(seed: int, question_id: str) -> int:
    """Return the seed of a question's first sample; those of the others follow it."""
    digest = hashlib.sha256(f"{seed}/{question_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - 4096)


def consecutive(numbers: Sequence[int]) -> list[list[int]]:
    """Return ascending numbers in groups that have no gaps: seeds of one request's samples follow one another.

    Args:
        numbers: For example the samples that are missing.
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
