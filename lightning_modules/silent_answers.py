"""Which questions can be answered without hearing: the student answers each k times in silence."""

import time
import uuid
from collections.abc import Iterator

from typing_extensions import override

from answers.answers import match_option
from datamodules.batching.batch import AudioQABatch
from lightning_modules.audio_qa import AudioQASettings, StudentModule
from lightning_modules.doors import EvaluationRollouts, RecordStage
from lightning_modules.qa_evaluation import QAEvaluation
from lightning_modules.served_qa import ServedStudent
from records.records import Question
from records.request_records import ItemResult, Usage
from records.silent_answers import SilentAnswer
from runtime.errors import UserError, refuse_below


class SilentAnswersModule(StudentModule, RecordStage):
    """``predict`` writes k answers to each question as records, by ``callbacks.RecordWriter``; a killed run goes on.

    Training leaves out the questions of which all k are right (``data.silent_answers``): what rewards them teaches to
    read, not to listen. Chance answers a question with n options right k of k times in (1/n)^k of the cases; one that
    always takes the same option does so in 1/n, whatever k, unless it is asked with options in another order, too.
    """

    record_type = SilentAnswer

    def __init__(self, weights: str, samples: int = 4, temperature: float = 1.0, served: bool = True) -> None:
        """Load the student's processor, and the student where it is not on servers.

        Args:
            weights: Hub name or directory of the student.
            samples: k, answers to each question.
            temperature: Sampling temperature.
            served: Let the rollout servers read the weights from where they are; else they are loaded here.

        Raises:
            UserError: Several answers of temperature 0, which are all the same.
        """
        refuse_below(1, "model.", samples=samples)
        refuse_below(0, "model.", temperature=temperature)
        if temperature == 0 and samples > 1:
            raise UserError(f"model.samples is {samples}, and at temperature 0 all answers are the same: set it to 1")
        if served:
            QAEvaluation.__init__(self)
            self.student = ServedStudent(weights)  # type: ignore[assignment]
            self.model_name = str(weights)
        else:
            super().__init__(AudioQASettings(weights=weights))
        self.samples = samples
        self.temperature = temperature
        self.provenance = {"model": self.model_name, "samples": samples, "temperature": temperature}
        self._run_id = uuid.uuid4().hex[:12]
        self._made: list[ItemResult] = []

    @property
    @override
    def evaluation_rollouts(self) -> EvaluationRollouts:
        return EvaluationRollouts(self.samples or 1, self.temperature)

    @override
    def setup(self, stage: str) -> None:
        """Refuse clips that are heard.

        Raises:
            UserError: The data are not silent, or it is another stage than ``predict``.
        """
        super().setup(stage)
        if stage != "predict":
            raise UserError(f"SilentAnswersModule is for predict, not for {stage}")
        data = self._questions
        if data is None or data.variant.probe != "silence":
            raise UserError("SilentAnswersModule asks without sound: set data.probe to silence")

    def predict_step(self, batch: AudioQABatch, batch_idx: int) -> int:  # type: ignore[override]
        """Read the answers; the writer takes them with :meth:`outcomes`."""
        done = batch.completions
        if done is None:
            raise UserError(
                "nobody answered this batch: add callbacks.VLLMRollout or callbacks.LocalRollout to trainer.callbacks"
            )
        for question, texts, ends in zip(batch.questions, done.texts, done.finished.tolist(), strict=True):
            left = self.completed.remaining(question.id, range(len(texts)))
            records = tuple(self._answer(question, sample, texts[sample], ends[sample]) for sample in left)
            usage = Usage(question.id, self._run_id, len(left), started=time.time(), ended=time.time())
            self._made.append(ItemResult(records, (), usage))
        return len(batch)

    def _answer(self, question: Question, sample: int, completion: str, finished: bool) -> SilentAnswer:
        choice = match_option(completion, question.options, finished)
        return SilentAnswer(
            question_id=question.id,
            sample=sample,
            samples=self.samples or 1,
            choice=choice,
            correct=None if question.answer is None else choice == question.answer,
            completion=completion,
            model=self.model_name,
            prompt_version=str(self.prediction_metadata["prompt_version"]),
            temperature=self.temperature,
        )

    @override
    def outcomes(self) -> list[ItemResult]:
        done, self._made = self._made, []
        return done

    @override
    def drain(self) -> Iterator[None]:
        yield
