"""Multiple-choice audio questions: the student answers."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch.distributed.device_mesh import DeviceMesh

from datamodules.batching.batch import AudioQABatch
from lightning_modules.doors import RolloutModule
from lightning_modules.models import frozen_weights
from lightning_modules.models.checkpoints.loading import present_loading
from lightning_modules.models.sharding import ShardingSettings, copies_of
from lightning_modules.models.student import Student
from lightning_modules.models.student_settings import StudentSettings
from lightning_modules.models.weight_types import gathered_type
from lightning_modules.qa_evaluation import QAEvaluation
from records.records import Prediction
from runtime.errors import UserError
from runtime.lightning_internals import collective_timeout
from runtime.settings import takes


@dataclass(frozen=True, kw_only=True)
class AudioQASettings(StudentSettings):
    """A student that answers questions; how it is loaded is said in :class:`.models.student_settings.StudentSettings`.

    Attributes:
        sharding: How weights are spread over the ranks under ModelParallelStrategy.
    """

    sharding: ShardingSettings = ShardingSettings()  # noqa: RUF009  (frozen)


class StudentModule(QAEvaluation, RolloutModule):
    """What all modules around a student share: how it is loaded, sharded and resumed, and that it answers questions.

    Completions come from a rollout callback (``callbacks.VLLMRollout`` or
    ``callbacks.LocalRollout``), which fills each batch before the step sees it.

    Attributes:
        settings: What it was told.
        student: The student.
    """

    settings: AudioQASettings
    student: Student
    _frozen: str | None = None

    def __init__(self, settings: AudioQASettings) -> None:
        """Load the student.

        Args:
            settings: How.
        """
        super().__init__()
        self.settings = settings
        self._gathered_type = gathered_type(settings.sharding.param_dtype, present_loading())
        self.student = Student(**settings.of_student())
        self.strict_loading = False  # frozen weights are not in checkpoints: they come from `weights`
        self.model_name = str(settings.weights)

    def configure_model(self) -> None:
        """Under ``ModelParallelStrategy`` spread the weights over the ranks; remember which ones stay as they are."""
        if self.device_mesh is not None and not self.student.sharded:
            self._shard(self.device_mesh)
        self._frozen = self._frozen or frozen_weights.fingerprint(self)

    def _shard(self, mesh: DeviceMesh) -> None:
        if mesh["tensor_parallel"].size() > 1:
            raise UserError("set trainer.strategy.init_args.tensor_parallel_size to 1: weights are sharded, not split")
        replicas = self.settings.sharding.replicas
        copies = copies_of(mesh["data_parallel"], replicas, collective_timeout(self.trainer) if replicas > 1 else None)
        for student in self.modules():
            if isinstance(student, Student):
                student.shard(copies, self._gathered_type)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note which frozen weights the trained ones belong to."""
        checkpoint[frozen_weights.KEY] = self._frozen

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the trained weights, for checkpoints; the frozen ones are in ``weights``.

        They are left out here and not when a checkpoint is written, because by then sharded ones have been gathered.
        """
        kept = self.checkpoint_names()
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in kept}

    def checkpoint_names(self) -> set[str]:
        """Return the names of the weights that a run changes, which are those in its checkpoints."""
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other frozen weights or of another configuration.

        Raises:
            UserError: It was written beside other frozen weights, or lacks a trained weight.
        """
        if frozen_weights.differ(checkpoint, self._frozen):
            raise UserError(
                f"the weights in {self.model_name} that are not trained are not those that the checkpoint was trained "
                "with (they have been replaced, or are loaded in another model.dtype): resume with those, or start "
                "afresh without ckpt_path"
            )
        if "state_dict" not in checkpoint:
            return  # a strategy that shards the weights has loaded them by now
        kept = self.checkpoint_names()
        found = checkpoint["state_dict"].keys()
        if kept != found:
            missing, unknown = sorted(kept - found), sorted(found - kept)
            raise UserError(
                f"the checkpoint does not fit this model: {len(missing)} trained weights are missing from it"
                f"{f' (such as {missing[0]})' if missing else ''}, {len(unknown)} are unknown"
                f"{f' (such as {unknown[0]})' if unknown else ''}; resume with the configuration that wrote it"
            )

    def validation_step(self, batch: AudioQABatch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Read the completions' answers; those of further loaders are to questions with another sound."""
        if dataloader_idx:
            self.probed += self._answers(batch)
        else:
            self._read(batch)
        return None

    def test_step(self, batch: AudioQABatch, batch_idx: int) -> STEP_OUTPUT:
        """Read the completions' answers."""
        self._read(batch)
        return None

    def predict_step(self, batch: AudioQABatch, batch_idx: int) -> list[Prediction]:
        """Read the completions' answers and return them."""
        return self._read(batch)

    def _read(self, batch: AudioQABatch) -> list[Prediction]:
        read = self._answers(batch)
        for question, prediction in zip(batch.questions, read, strict=True):
            self.keep(question, prediction)
        return read

    def _answers(self, batch: AudioQABatch) -> list[Prediction]:
        if batch.completions is None:
            raise UserError(
                "nobody generated completions for this batch: add callbacks.VLLMRollout or "
                "callbacks.LocalRollout to trainer.callbacks"
            )
        prediction_metadata = self.prediction_metadata
        read = []
        finished = batch.completions.finished.tolist()
        for question, texts, ended in zip(batch.questions, batch.completions.texts, finished, strict=True):
            read.append(self.read_answer(question, texts[0], bool(ended[0]), **prediction_metadata))
        return read


class AudioQAModule(StudentModule):
    """A student that answers audio questions; ``validate``, ``test`` and ``predict`` need nothing more."""

    @takes(AudioQASettings)
    def __init__(self, *weights: Any, **settings: Any) -> None:
        """Load the student, as :class:`AudioQASettings` describes."""
        super().__init__(AudioQASettings(*weights, **settings))
