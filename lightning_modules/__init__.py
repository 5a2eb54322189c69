"""The LightningModules; what they are made of is in the folders below.

Names for configurations (``class_path: lightning_modules.GRPOModule``) that stay when files move.
"""

from runtime.short_names import short_names

__getattr__, __dir__ = short_names(
    __name__,
    {
        "AccuracyReward": "objectives.rewards",
        "AudioQAModule": "audio_qa",
        "AudioTextVerifier": "audio_text_verifier",
        "EndpointJudge": "endpoint_judge",
        "FactVerifierModule": "fact_verifier",
        "FormatReward": "objectives.rewards",
        "GRPOModule": "grpo",
        "GroundingReward": "grounding_reward",
        "QuestionWriterModule": "question_writer",
        "RemoteQAModule": "remote_qa",
        "SFTModule": "sft",
        "ServedQAModule": "served_qa",
        "SilentAnswersModule": "silent_answers",
        "TeacherModule": "teacher",
        "TrainedJudge": "trained_judge",
    },
)
