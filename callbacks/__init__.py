"""Side effects of a run as Lightning callbacks: rollouts, weight updates, logging, checkpoints, files.

Names for configurations (``class_path: callbacks.VLLMRollout``) that stay when files move.
"""

import runtime.matplotlib_folder as _  # noqa: F401
from runtime.short_names import short_names

__getattr__, __dir__ = short_names(
    __name__,
    {
        "AccuracyLogger": "tracking.accuracy_logger",
        "AudioCache": "audio_cache",
        "BestCheckpoint": "checkpoints.checkpointing",
        "CompletionTable": "tracking.completion_table",
        "DifficultyCurriculum": "difficulty_curriculum",
        "GlooTransfer": "rollout.weight_transfers",
        "IPCTransfer": "rollout.weight_transfers",
        "LastCheckpoint": "checkpoints.checkpointing",
        "LocalRollout": "rollout.local_rollout",
        "NCCLTransfer": "rollout.weight_transfers",
        "PredictionWriter": "writers.prediction_writer",
        "RecordWriter": "writers.record_writer",
        "RemotePredictionWriter": "writers.remote_prediction_writer",
        "RewardLogger": "tracking.reward_logger",
        "VLLMRollout": "rollout.vllm_rollout",
        "WeightsExport": "checkpoints.weights_export",
        "YieldReport": "writers.yield_report",
    },
)
