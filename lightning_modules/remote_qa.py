"""Multiple-choice questions for a model behind an OpenAI-compatible endpoint, scored as those of a student are."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from datamodules.batching.clip_requests import ClipRequest, ClipRequests
from datamodules.media.audio import audio_part
from datamodules.media.video import image_parts, video_parts, video_timing
from inference.chat_api.budget import BudgetSettings
from inference.chat_api.chat_endpoint import Choice, EndpointSettings, RequestFailed
from lightning_modules.chat_stage import ChatStage, Work, refuse_sampling, spoken
from lightning_modules.qa_evaluation import QAEvaluation
from records.reasoning_tags import tagged_thought, without_tags
from records.records import Prediction, Question
from records.request_records import ItemResult, RequestError, Usage
from runtime.errors import UserError
from runtime.uninterrupted import uninterrupted


class RemoteQAModule(ChatStage, QAEvaluation):
    """A model behind an endpoint that answers questions about clips: ``validate``, ``test`` and ``predict``.

    The DataModule prepares what is sent (``data.requests``): the sound, silent frames, or both. Many questions are
    under way at once. A question that is refused for good, whose clip cannot be decoded or whose request fails too
    often is counted as unanswered. ``callbacks.RemotePredictionWriter`` writes answers and
    failures while they are made, and tells which questions were answered before.

    Attributes:
        errors: What could not be had in the running epoch.
        usage: What the questions of the running epoch took.
    """

    record_type = Prediction
    asks_endpoint = True

    def __init__(
        self,
        endpoint: EndpointSettings,
        send: Literal["images", "video"] = "images",
        timing: bool = False,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int | None = None,
        budget: BudgetSettings = BudgetSettings(),  # noqa: B008  (frozen)
    ) -> None:
        """Prepare; nothing is sent before the first batch.

        Args:
            endpoint: The OpenAI-compatible server of the model.
            send: ``images`` sends the frames as a list of images, ``video`` as one video (``video_url`` with JPEG
                frames, as vLLM reads it).
            timing: For ``video``: tell vLLM how far the frames are apart, which it takes to be a second otherwise. It
                refuses this (400) unless it was started with ``--trust-request-mm-kwargs``.
            temperature: Sampling temperature; 0 takes the likeliest answer, as the tests of students do.
            max_tokens: Longest answer.
            seed: Seed of the requests; null sends none.
            budget: Prices and limits.
        """
        refuse_sampling(max_tokens, temperature)
        super().__init__(endpoint, budget, requests_per_item=1)
        self.model_name = endpoint.model
        self.send = send
        self.timing = timing
        self.fields = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
        self.errors: list[RequestError] = []
        self.usage: list[Usage] = []
        self._asked: dict[str, Question] = {}

    def validation_step(self, batch: ClipRequests, batch_idx: int) -> None:
        """Ask a batch's questions, without waiting for the answers."""
        self.predict_step(batch, batch_idx)

    def test_step(self, batch: ClipRequests, batch_idx: int) -> None:
        """Ask a batch's questions, without waiting for the answers."""
        self.predict_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> int:
        """Ask a batch's questions, without waiting for the answers; keep those that have come.

        Args:
            batch: The questions.
            batch_idx: The batch's number.

        Returns:
            How many were asked.
        """
        if not isinstance(batch, ClipRequests):
            raise UserError("RemoteQAModule asks an endpoint: say in data.requests what is sent of each clip")
        fresh = []
        for item in batch.items:
            self._asked[item.question.id] = item.question
            if known := self.completed.predictions.get(item.question.id):
                self.keep(item.question, known)
            else:
                fresh.append(item)
        try:
            return super().predict_step(fresh, batch_idx)
        finally:
            self.keep_finished()

    def keep_finished(self) -> None:
        """Keep the answers that have come, without waiting for others."""
        with uninterrupted():
            self._collect(self.outcomes())

    def collect(self) -> Iterator[None]:
        """Wait for all answers that are under way, and yield whenever some were kept."""
        for _ in self.drain():
            self.keep_finished()
            yield

    def on_validation_epoch_end(self) -> None:
        """Wait for the last answers; log ``val/accuracy`` and its companions."""
        self._end()
        super().on_validation_epoch_end()

    def on_test_epoch_end(self) -> None:
        """Wait for the last answers; log ``test/accuracy`` and its companions."""
        self._end()
        super().on_test_epoch_end()

    def on_predict_epoch_end(self) -> None:
        """Wait for the last answers."""
        self._end()

    def question_id(self, item: ClipRequest) -> str:
        """Return which question an item is about."""
        return item.question.id

    def messages(self, item: ClipRequest) -> list[dict[str, Any]]:
        """Return the chat that asks a question: frames, then sound, then text."""
        parts = (image_parts if self.send == "images" else video_parts)(list(item.images)) if item.images else []
        if item.wav:
            parts.append(audio_part(item.wav))
        return [{"role": "user", "content": [*parts, {"type": "text", "text": item.text}]}]

    async def ask(self, item: ClipRequest, work: Work) -> None:
        """Ask one question; a failure gives an empty answer, and a spent budget none."""
        question = item.question
        if item.error is not None:
            work.errors.append(RequestError.now(question.id, "media", item.lasting, item.error))
            work.records.append(self._answer(item, Choice("")))
            return
        timed = self.send == "video" and self.timing and item.images
        extra = video_timing(item.rate) if timed else None
        asking = self.endpoint.chat(self.messages(item), work.tally, extra, **self.fields)
        reply = await self._settle(question.id, [None], asking, work)
        choice = Choice("") if reply is None else reply.choices[0]
        try:
            if reply is not None:
                spoken(choice)
        except RequestFailed as failed:
            self._note(question.id, None, failed, work)
            choice = dataclasses.replace(choice, text="", reasoning="")
        if not work.unpaid:
            work.records.append(self._answer(item, choice))

    def _answer(self, item: ClipRequest, choice: Choice) -> Prediction:
        return self.read_answer(
            item.question, completion_of(choice), choice.finish_reason != "length", **self.prediction_metadata
        )

    def _collect(self, outcomes: Sequence[ItemResult]) -> None:
        for outcome in outcomes:
            self.usage.append(outcome.usage)
            self.errors += outcome.errors
            for prediction in outcome.records:
                assert isinstance(prediction, Prediction)
                self.keep(self._asked[prediction.question_id], prediction)

    def _begin(self) -> None:
        super()._begin()
        self.errors, self.usage, self._asked = [], [], {}

    def _end(self) -> None:
        for _ in self.collect():
            pass
        places = {name: place for place, name in enumerate(self._asked)}
        self.predictions.sort(key=lambda prediction: places[prediction.question_id])  # answers come in any order


def completion_of(choice: Choice) -> str:
    """Return what a model said; reasoning that the server returned by itself goes where others write it.

    Args:
        choice: The completion.
    """
    reasoning = without_tags(choice.reasoning)
    return tagged_thought(reasoning) + choice.text if reasoning else choice.text
