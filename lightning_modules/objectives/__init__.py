"""Eq. 1 and Eq. 2 and what can stand in place of their parts, advantages and rewards, as pure functions.

Names for configurations (``class_path: lightning_modules.objectives.GSPO``) that stay when files move.
"""

from runtime.short_names import short_names

__getattr__, __dir__ = short_names(
    __name__,
    {
        "BatchReward": "batch_reward",
        "CISPO": "surrogates",
        "ClippedRatio": "surrogates",
        "ConstantLength": "averages",
        "GDPO": "advantages",
        "GSPO": "surrogates",
        "GroupCentred": "advantages",
        "GroupNormalised": "advantages",
        "GroupTokenMean": "averages",
        "K1": "kl",
        "K2": "kl",
        "K3": "kl",
        "LengthReward": "length_rewards",
        "Objective": "objective",
        "OverlongPenalty": "length_rewards",
        "RepetitionPenalty": "length_rewards",
        "ResponseMean": "averages",
        "SAPO": "surrogates",
        "SequenceMask": "importance",
        "SequenceTruncation": "importance",
        "TokenMask": "importance",
        "TokenMean": "averages",
        "TokenTruncation": "importance",
    },
)
