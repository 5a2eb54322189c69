"""A real server on a network address of another host (a network namespace): closed to whoever lacks the secret."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.vllm.bearer_token import VARIABLE

TOKEN = "a-secret-of-some-length"
HOSTS = {"sightsound-server": "10.77.13.1", "sightsound-trainer": "10.77.13.2"}
SERVER = f"http://{HOSTS['sightsound-server']}:8000"
ROUTES = (
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/version"),
    ("GET", "/weight_info"),
    ("GET", "/is_paused"),
    ("GET", "/server_info"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/pause"),
    ("POST", "/collective_rpc"),
    ("POST", "/update_weight_version"),
    ("POST", "/sleep"),
)
ASK = """
import json, os, sys, requests
from inference.vllm.bearer_token import VARIABLE
from inference.vllm.client import ServerRefused, VLLMClient
session = requests.Session()
session.trust_env = False
session.headers["Connection"] = "close"  # uvicorn drops a connection after an error without saying so
if token := os.environ.get(VARIABLE):
    session.headers["Authorization"] = f"Bearer {token}"
routes = json.loads(sys.argv[2])
statuses = [session.request(verb, sys.argv[1] + route, json={}, timeout=20).status_code for verb, route in routes]
health = session.get(sys.argv[1] + "/health", timeout=20).status_code
client = VLLMClient(sys.argv[1])
try:
    known = [client.weight_version(), len(client.first_token([1, 2, 3], 1.0, 0, 60.0))]
except ServerRefused as error:
    known = str(error)
print(json.dumps([statuses, health, known]))
"""


def ip(*arguments: str, host: str | None = None) -> None:
    inside = ["ip", "netns", "exec", host] if host else []
    subprocess.run([*inside, "ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[None]:
    """Two hosts with a cable between them."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here")
    try:
        ends = list(zip(HOSTS, ("sightsound0", "sightsound1"), strict=True))
        ip("link", "add", ends[0][1], "type", "veth", "peer", "name", ends[1][1])
        for host, end in ends:
            ip("link", "set", end, "netns", host)
            ip("addr", "add", f"{HOSTS[host]}/24", "dev", end, host=host)
            for device in (end, "lo"):
                ip("link", "set", device, "up", host=host)
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)


def ask(token: str | None) -> tuple[list[int], int, object]:
    """Ask the server from the other host."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {VARIABLE: token} if token else {}
    command = ["ip", "netns", "exec", "sightsound-trainer", sys.executable, "-c", ASK, SERVER, json.dumps(ROUTES[:7])]
    if token is None:
        command[-1] = json.dumps(ROUTES)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    statuses, health, known = json.loads(done.stdout.splitlines()[-1])
    return statuses, health, known


@pytest.mark.slow
@pytest.mark.usefixtures("network")
def test_a_stranger_gets_401_everywhere(server_weights: Path, tmp_path: Path) -> None:
    command = [
        *("ip", "netns", "exec", "sightsound-server", sys.executable, "-m", "inference.vllm_server"),
        *("--model", str(server_weights), "--host", HOSTS["sightsound-server"], "--log-file", str(tmp_path / "log")),
    ]
    with open(tmp_path / "out", "wb") as output:
        process = subprocess.Popen(command, env={**os.environ, VARIABLE: TOKEN}, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while "ready on" not in (tmp_path / "out").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "out").read_text()
            time.sleep(0.5)
        assert ask(None) == (
            [401] * len(ROUTES),
            200,
            f"{SERVER} wants a secret: set {VARIABLE} here to what the server has",
        )
        statuses, health, known = ask(TOKEN)
        assert 401 not in statuses and health == 200 and known == ["default", 1]
        assert TOKEN not in (tmp_path / "log").read_text() + (tmp_path / "out").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
