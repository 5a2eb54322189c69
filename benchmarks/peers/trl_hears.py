"""Does TRL give an audio model its audio? Run in TRL's environment: ``python trl_hears.py DATA``.

Takes one GRPO step through TRL's own trainer and prints, as JSON on the last line, which arguments the model was called
with, or the error that ended the run.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

data = Path(sys.argv[1])
seen: set[str] = set()
model = Qwen2AudioForConditionalGeneration.from_pretrained(data / "model", dtype=torch.float32)
model.register_forward_pre_hook(
    lambda module, args, kwargs: seen.update(name for name, value in kwargs.items() if value is not None),
    with_kwargs=True,
)
rows = [json.loads(line) for line in (data / "grpo.jsonl").read_text().splitlines()]
audio = [{"type": "audio", "audio": row["audios"][0], "text": None} for row in rows]
text = [{"type": "text", "text": row["question"], "audio": None} for row in rows]
prompts = [[{"role": "user", "content": [a, t]}] for a, t in zip(audio, text, strict=True)]
result: dict[str, object] = {}
try:
    trainer = GRPOTrainer(
        model=model,
        processing_class=AutoProcessor.from_pretrained(data / "model"),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=r".*language_model.*\.(q_proj|v_proj)"),
        reward_funcs=lambda completions, **_: [float(len(str(c)) % 7) for c in completions],
        args=GRPOConfig(
            output_dir=str(data / "out_trl"), max_steps=1, per_device_train_batch_size=8, num_generations=8,
            max_completion_length=16, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        ),
    )  # fmt: skip
    trainer.train()
except Exception as error:
    result["error"] = f"{type(error).__name__}: {str(error)[:300]}"
result |= {"arguments": sorted(seen), "hears": "input_features" in seen}
print(json.dumps(result))
