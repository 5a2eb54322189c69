"""Questions answered by a student whose weights are on rollout servers alone."""

from lightning_modules.audio_qa import StudentModule
from lightning_modules.models.architectures.architecture import Architecture
from lightning_modules.models.checkpoints.checkpoint_folder import load_architecture, load_processor
from lightning_modules.qa_evaluation import QAEvaluation


class ServedStudent:
    """What must be known of a student that servers load themselves: its processor and where its weights are.

    Attributes:
        weights: Hub name or directory of its checkpoint.
        processor: Its processor.
        architecture: Its architecture.
    """

    sharded = False

    def __init__(self, weights: str) -> None:
        """Load the processor; weights are not read.

        Args:
            weights: Hub name or directory of a student's checkpoint.

        Raises:
            WeightsError: There is none.
        """
        self.weights = weights
        self.processor = load_processor(weights)
        self.architecture: Architecture = load_architecture(weights)[0]


class ServedQAModule(StudentModule):
    """A student that answers audio questions through rollout servers, which read its weights from where they are.

    Nothing is computed here, so that it needs no GPU and no memory; ``test``, ``validate`` and ``predict`` only, with
    ``callbacks.VLLMRollout``. Where a server cannot read the weights, ``AudioQAModule`` sends them.
    """

    def __init__(self, weights: str) -> None:
        """Load the student's processor.

        Args:
            weights: Hub name or directory of a student's checkpoint; a directory must be there under
                the same path for the servers.
        """
        QAEvaluation.__init__(self)
        self.student: ServedStudent = ServedStudent(weights)  # type: ignore[assignment]
        self.model_name = str(weights)
