"""Steps of ms-swift's own trainers, run in ms-swift's environment: ``python swift_steps.py sft|grpo|whole SETTINGS``.

SETTINGS is JSON: data (folder), steps, threads, group, tokens, batch. Prints the seconds of each step but the first as
JSON on the last line. ``grpo`` is the learner alone: its completions are random tokens of the wanted length. In
``whole`` transformers samples them, as ms-swift does without vLLM.
"""

import copy
import itertools
import json
import random
import sys
import time

import torch
from swift.callbacks import callbacks_map
from swift.pipelines import rlhf_main, sft_main
from transformers import TrainerCallback

TASK, SETTINGS = sys.argv[1], json.loads(sys.argv[2])
LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
torch.set_num_threads(SETTINGS["threads"])
stamps: list[float] = []


class Stamps(TrainerCallback):
    """Notes when steps begin and end."""

    def __init__(self, *_: object) -> None:
        """Take whatever is given."""

    def on_step_end(self, *_: object, **__: object) -> None:
        """Note the time."""
        stamps.append(time.perf_counter())


def arguments() -> list[str]:
    """Return what both trainers are told."""
    data = SETTINGS["data"]
    return [
        *("--model", f"{data}/model", "--model_type", "qwen2_audio", "--template", "qwen2_audio"),
        *("--dataset", f"{data}/{TASK}.jsonl", "--tuner_type", "lora", "--lora_rank", "8", "--lora_alpha", "16"),
        *("--lora_dropout", "0", "--target_regex", LINEARS, "--torch_dtype", "float32", "--bf16", "false"),
        *("--fp16", "false", "--gradient_accumulation_steps", "1", "--max_steps", str(SETTINGS["steps"] + 1)),
        *("--learning_rate", "1e-5", "--gradient_checkpointing", "false", "--attn_impl", "sdpa"),
        *("--save_strategy", "no", "--eval_strategy", "no", "--split_dataset_ratio", "0", "--logging_steps", "1"),
        *("--dataloader_num_workers", "0", "--dataset_num_proc", "1", "--report_to", "none"),
        *("--output_dir", f"{data}/out_swift", "--use_hf", "true", "--callbacks", "stamps"),
        *("--per_device_train_batch_size", str(SETTINGS["batch"])),
    ]


def random_completions(self: object, samples: list) -> list:
    """Stand in for generation."""
    samples = self._preprocess_inputs(samples)  # type: ignore[attr-defined]
    rng = random.Random(0)
    for sample in samples:
        sample.response_token_ids = [[rng.randrange(10, 800) for _ in range(SETTINGS["tokens"])]]
        sample.messages = [*copy.deepcopy(list(sample.messages)), {"role": "assistant", "content": "x"}]
        sample.finish_reason = "stop"
    return samples


callbacks_map["stamps"] = Stamps
if TASK == "sft":
    sft_main(arguments())
else:
    from swift.rewards import ORM, orms
    from swift.rlhf_trainers.grpo_trainer import GRPOTrainer

    class RandomReward(ORM):
        """A reward, so that there are advantages."""

        def __call__(self, completions: list, **_: object) -> list[float]:
            """Draw."""
            return [random.random() for _ in completions]

    orms["random"] = RandomReward
    if TASK == "grpo":
        GRPOTrainer._generate_completions = random_completions
    rlhf_main(
        [
            *("--rlhf_type", "grpo", "--use_vllm", "false", "--num_generations", str(SETTINGS["group"])),
            *("--beta", "0.04", "--max_completion_length", str(SETTINGS["tokens"]), "--temperature", "1.0"),
            *("--reward_funcs", "random", "--log_completions", "false"),
            *arguments(),
        ]
    )
print(json.dumps([after - before for before, after in itertools.pairwise(stamps)]))
