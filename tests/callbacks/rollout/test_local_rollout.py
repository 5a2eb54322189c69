"""Rollouts in the process itself."""

from pathlib import Path

import pytest

from callbacks.rollout.local_rollout import LocalRollout
from runtime.errors import UserError
from tests.callbacks.rollout.test_vllm_rollout import trainer
from tests.support.questions import Learner, Questions


class Sharded(Learner):
    """A module whose weights are spread over the ranks."""

    def configure_model(self) -> None:
        self.student.sharded = True


@pytest.mark.parametrize(
    ("stage", "trains", "settings"),
    [
        ("fit", True, {}),
        ("fit", False, {"limit_val_batches": 1, "num_sanity_val_steps": 0}),  # not after the first epoch
        ("validate", False, {"limit_val_batches": 1}),
        ("test", False, {}),
    ],
)
def test_sharded_weights_are_refused_before_the_first_step(
    tmp_path: Path, server_weights: Path, stage: str, trains: bool, settings: dict
):
    module = Sharded(str(server_weights))
    module.rollouts_in_training = trains
    run = getattr(trainer(tmp_path, LocalRollout(max_new_tokens=2), **settings), stage)
    with pytest.raises(UserError, match=r"LocalRollout needs the whole weights on each device.*VLLMRollout"):
        run(module, datamodule=Questions(module.student.processor, 2, 2))
    assert module.train_batches == module.val_batches == []


def test_sharded_weights_are_trained_where_nothing_is_rolled_out(tmp_path: Path, server_weights: Path):
    module = Sharded(str(server_weights))
    module.rollouts_in_training = False
    steps = []
    module.training_step = lambda batch, batch_idx: steps.append(batch_idx)  # type: ignore[method-assign]
    run = trainer(tmp_path, LocalRollout(max_new_tokens=2))
    run.fit(module, datamodule=Questions(module.student.processor, 2, 2))
    assert steps == [0]
