"""Cross-modal on-policy distillation: a teacher that sees scores what the student says of what it hears."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from datamodules.batching.batch import Completions
from datamodules.media.video import FrameSampling
from datamodules.prompts.questions import TEACHER_PROMPTS, Prompt, TeacherPromptName
from lightning_modules.objectives.advantages import MeanOverRanks
from lightning_modules.objectives.distillation import decayed, teacher_term
from runtime.errors import UserError, refuse_below


@dataclass(frozen=True, kw_only=True)
class OnPolicyDistillation:
    """A frozen vision-language teacher on servers scores each sampled token; see docs/on_policy_distillation.md.

    Attributes:
        teacher_urls: Servers of the teacher. Start one with ``python -m inference.vllm_server --model
            Qwen/Qwen2.5-VL-7B-Instruct --limit-mm-per-prompt '{"image": 8}'``; none of them may be among the rollout
            servers.
        weight: lambda, how much the teacher's term counts beside the task's advantages. Weights of 0 in
            ``objective.reward_weights`` leave the teacher alone.
        decay_steps: Optimizer steps over which the weight falls in a line to 0; null keeps it.
        clip: Largest difference of a token from the batch's mean, in nats.
        against: What the teacher's score is compared with. ``student``: the student's own, so that the student comes to
            speak as the teacher does, style included. ``blind_teacher``: the teacher's without the frames, so that only
            what the frames tell counts; each completion is then scored twice.
        spare_answer: Leave the tokens inside of the answer's tags to the task reward alone.
        verdicts: The checker's verdicts (a file, a folder, or a list of both): the teacher speaks only on questions of
            which a trace was accepted, and nothing is asked about the others. Null asks about all.
        wrong_frames: Show the teacher the frames of another clip, always the same: a control. What still improves then
            is not due to what is seen.
        prompt: How the teacher is asked: name of a prompt of ``datamodules.prompts.questions`` that speaks of frames,
            or a prompt's own name and template. It should want the format that the student's prompt wants.
        frames: Which frames of a clip are shown, and how large.
        clips: Folder of the clips with pictures, under the names that the data have; ``data.root`` unless given.
        tokenizer: Hub name or folder of the teacher's tokenizer; by default the checkpoint that its server names.
    """

    teacher_urls: list[str]
    weight: float = 1.0
    decay_steps: int | None = None
    clip: float = 5.0
    against: Literal["student", "blind_teacher"] = "student"
    spare_answer: bool = False
    verdicts: str | list[str] | None = None
    wrong_frames: bool = False
    prompt: TeacherPromptName | Prompt = "teacher-audio-cot"
    frames: FrameSampling = FrameSampling()  # noqa: RUF009  (frozen)
    clips: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        refuse_below(0, "model.distillation.", weight=self.weight)
        refuse_below(1, "model.distillation.", decay_steps=self.decay_steps)
        if not self.clip > 0:
            raise UserError(f"model.distillation.clip is {self.clip}, and must be above 0")
        if (gets := self.whole_prompt.modalities) != "video":
            raise UserError(
                f"model.distillation.prompt {self.whole_prompt.name!r} speaks of {gets}, and the teacher sees frames: "
                f"choose one of {', '.join(TEACHER_PROMPTS)}, or set the prompt's own modalities to video"
            )
        if self.whole_prompt.takes_hint:
            raise UserError(f"model.distillation.prompt {self.whole_prompt.name!r} wants a hint, and there is none")

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses."""
        return (self.teacher_urls,) if isinstance(self.teacher_urls, str) else tuple(self.teacher_urls)

    @property
    def whole_prompt(self) -> Prompt:
        """How the teacher is asked.

        Raises:
            UserError: No prompt has the name.
        """
        if not isinstance(self.prompt, str):
            return self.prompt
        if self.prompt not in TEACHER_PROMPTS:
            raise UserError(
                f"model.distillation.prompt must be one of {', '.join(TEACHER_PROMPTS)}, found {self.prompt!r}"
            )
        return TEACHER_PROMPTS[self.prompt]

    def advantages(
        self, done: Completions, step: int, mean_over_ranks: MeanOverRanks
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the teacher adds to each token's advantage ``[B, G, C]``, and what is worth logging of it.

        Args:
            done: Completions that the teacher has scored.
            step: Optimizer steps taken.
            mean_over_ranks: Averages a tensor over all ranks, which must call this together.

        Raises:
            UserError: Nobody has asked the teacher.
        """
        if done.teacher_logprobs is None or done.logprobs is None:
            raise UserError(
                "model.distillation names a teacher, and nobody has asked it to score the rollouts: that is done by "
                "callbacks.VLLMRollout; with another callback leave model.distillation out"
            )
        term = teacher_term(done.teacher_logprobs, done.logprobs, done.blind_logprobs, self.clip, mean_over_ranks)
        weight = decayed(self.weight, step, self.decay_steps)
        return weight * term.advantages, {
            "train/teacher_kl": term.kl,
            "train/teacher_clipped": term.clipped,
            "train/teacher_tokens": term.tokens,
            "train/teacher_weight": torch.full_like(term.kl, weight),
        }
