"""A run with a real rollout server, killed with SIGKILL, asks the same of the same weights when it is resumed."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference.vllm_server import VLLMServer
from tests.integration.interruptions.test_sigkill import STEPS, config, fit, killed

pytestmark = pytest.mark.server


def with_server(values: dict[str, Any], root: Path, weights: Path, server: VLLMServer) -> dict[str, Any]:
    values["trainer"]["callbacks"][0] = {
        "class_path": "tests.support.interruption.RecordingVLLMRollout",
        "init_args": {"record": f"{root}/asked.jsonl", "server_urls": [server.url]},
    }
    values["trainer"]["limit_val_batches"] = 1
    values["model"]["init_args"]["weights"] = str(weights)
    return values


def asked(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "asked.jsonl").read_text(encoding="utf-8").splitlines()]


def test_same_prompts_seeds_and_weight_versions(
    world: Path, tmp_path: Path, vllm_server: VLLMServer, server_weights: Path
) -> None:
    whole = tmp_path / "whole"
    fit(with_server(config("grpo", world, whole), whole, server_weights, vllm_server), whole)
    expected = {record["step"]: record for record in asked(whole)}
    assert sorted(expected) == list(range(STEPS))
    root = tmp_path / "killed"
    values = with_server(config("grpo", world, root), root, server_weights, vllm_server)
    killed(values, root, "optimizer", 5)
    before = asked(root)
    assert [record["step"] for record in before] == list(range(6))
    fit(values, root, "--ckpt_path", "last")
    after = asked(root)[len(before) :]
    assert [record["step"] for record in after] == list(range(4, STEPS))  # the last checkpoint was of step 4
    run_id = before[0]["version"].partition(":")[0]
    for record in before + after:
        same = expected[record["step"]]
        assert (record["prompts"], record["seeds"]) == (same["prompts"], same["seeds"])
        assert record["version"] == f"{run_id}:{record['step']}"
        assert same["version"].endswith(f":{record['step']}")
