"""A student of eight million parameters whose shapes alone are known, and a machine without GPUs."""

import json
import socket
from pathlib import Path

import pytest

from planning.geometry import KNOWN
from planning.machine import Machine


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    config = json.loads((KNOWN / "Qwen2-Audio-7B" / "config.json").read_text(encoding="utf-8"))
    config["text_config"] |= {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
    config["text_config"] |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 8192}
    config["audio_config"] |= {"d_model": 128, "encoder_layers": 4, "encoder_attention_heads": 2}
    config["audio_config"] |= {"encoder_ffn_dim": 512}
    config["audio_token_index"] = 5
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture
def cpu() -> Machine:
    return Machine("cpu", 8, 1, 1, 0, 0.0, 0.1, 10, 1, 1, 24)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
