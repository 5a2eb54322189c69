"""From silent frames to questions about what must be heard: the first stage of a corpus of one's own videos."""

import time
from typing import Any, Literal

from answers.written_question import read_question
from datamodules.batching.items import TeacherExample
from datamodules.media.video import image_parts, video_parts
from datamodules.prompts.question_kinds import QuestionKind, chosen_kinds
from datamodules.prompts.question_writer import WRITE_QUESTION
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import Choice, EndpointSettings, Reply, RequestFailed
from lightning_modules.chat_stage import ChatStage, Work, refuse_sampling, side_by_side, spoken
from lightning_modules.teacher import request_seed
from records.proposed_question import ProposedQuestion
from records.reasoning_tags import split_thought
from records.request_records import RequestError
from runtime.errors import UserError, refuse_below


class QuestionWriterModule(ChatStage):
    """Asks a vision-language model, which gets silent frames only, for questions about what must be heard.

    Each question of a clip is of another kind, and the kinds are spread evenly over clips. What is no question is
    written down as it was said, with the kind of its fault.
    """

    record_type = ProposedQuestion

    def __init__(
        self,
        endpoint: EndpointSettings,
        questions_per_clip: int = 2,
        kinds: list[str] | None = None,
        send: Literal["images", "video"] = "images",
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_tokens: int = 1024,
        seed: int | None = 0,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008  (frozen)
    ) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: The OpenAI-compatible server of the teacher.
            questions_per_clip: How many questions are asked for, each in a request of its own and of another kind.
            kinds: Names of the kinds of question (``datamodules.prompts.question_kinds``); null takes all.
            send: ``images`` sends the frames as a list of images, ``video`` as one video, as in the teacher's stage.
            temperature: Sampling temperature.
            top_p: Nucleus of the sampling.
            max_tokens: Longest completion.
            seed: Where the requests' seeds and each clip's kinds come from; null sends no seeds.
            budget: Prices and limits.
        """
        refuse_below(1, "model.", questions_per_clip=questions_per_clip)
        refuse_sampling(max_tokens, temperature, top_p)
        self.kinds = chosen_kinds(kinds)
        if questions_per_clip > len(self.kinds):
            raise UserError(
                f"model.questions_per_clip is {questions_per_clip}, but there are {len(self.kinds)} kinds and each "
                "question of a clip is of another one: lower it, or name more in model.kinds"
            )
        if "seed" in endpoint.extra_body:
            raise UserError("endpoint.extra_body must not hold 'seed', which records keep: it is set with model.seed")
        super().__init__(endpoint, budget, requests_per_item=questions_per_clip)
        self.samples: int = questions_per_clip
        self.send = send
        self.sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self.sampling_sent = {name: endpoint.extra_body.get(name, value) for name, value in self.sampling.items()}
        self.seed = seed
        self.prompt = WRITE_QUESTION
        self.provenance = {
            "model": endpoint.model,
            "prompt_version": self.prompt.identifier,
            "sampling": dict(self.sampling_sent),
        }

    def question_id(self, item: TeacherExample) -> str:
        """Return which clip an item is."""
        return item.question.id

    def kind(self, clip: str, sample: int) -> QuestionKind:
        """Return which kind of question a sample of a clip asks for: always the same one.

        Args:
            clip: The clip's id.
            sample: Which of its questions.
        """
        return self.kinds[(request_seed(self.seed or 0, f"kinds of {clip}") + sample) % len(self.kinds)]

    def messages(self, item: TeacherExample, kind: QuestionKind) -> list[dict[str, Any]]:
        """Return the chat that asks for a question of a kind: the frames and then the text."""
        parts = (image_parts if self.send == "images" else video_parts)(list(item.images))
        return [{"role": "user", "content": [*parts, {"type": "text", "text": self.prompt.render(kind)}]}]

    async def ask(self, item: TeacherExample, work: Work) -> None:
        """Ask for those of a clip's questions that are neither on disk nor refused for good."""
        clip = item.question.id
        if item.error is not None:
            work.errors.append(RequestError.now(clip, "media", item.lasting, item.error))
            return

        async def one(sample: int) -> None:
            kind = self.kind(clip, sample)
            seed = None if self.seed is None else request_seed(self.seed, clip) + sample
            asking = self.endpoint.chat(self.messages(item, kind), work.tally, None, seed=seed, **self.sampling)
            reply = await self._settle(clip, [sample], asking, work)
            if reply is None:
                return
            try:
                work.records.append(self._proposal(clip, sample, kind, spoken(reply.choices[0]), reply, seed))
            except RequestFailed as failed:
                self._note(clip, sample, failed, work)

        await side_by_side([one(sample) for sample in self.completed.remaining(clip, range(self.samples))])

    def _proposal(
        self, clip: str, sample: int, kind: QuestionKind, choice: Choice, reply: Reply, seed: int | None
    ) -> ProposedQuestion:
        written = read_question(split_thought(choice.text).said, choice.finish_reason != "length")
        return ProposedQuestion(
            question_id=clip,
            sample=sample,
            kind=kind.name,
            completion=choice.text,
            text=written.text,
            options=written.options,
            fault=written.fault,
            model=self.endpoint_settings.model,
            endpoint=self.endpoint_settings.label,
            prompt_version=self.prompt.identifier,
            sampling=dict(self.sampling_sent),
            seed=seed,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            created=round(time.time(), 3),
        )
