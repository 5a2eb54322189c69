"""Against a real vLLM server."""

from pathlib import Path

import pytest

from callbacks.parity import measure_parity
from callbacks.vllm_client import VLLMClient
from callbacks.vllm_server import VLLMServer
from datamodules.collate import Collator
from datamodules.prompts import THINK_SHORT
from lightning_modules.student import Student
from tests.rollouts.questions import example

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def student(server_weights: Path) -> Student:
    return Student(str(server_weights)).eval()


@pytest.fixture
def client(vllm_server: VLLMServer) -> VLLMClient:
    return VLLMClient(vllm_server.url, request_seconds=60)


def test_parity(client: VLLMClient, student: Student):
    batch = Collator(student.processor, THINK_SHORT)([example(i) for i in range(4)])
    for temperature in (1.0, 0.7):
        parity = measure_parity(client, student, batch, temperature)
        print(parity)
        assert parity.largest_gap < 1e-3
