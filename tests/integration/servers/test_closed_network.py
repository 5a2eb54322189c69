"""A real server, and a trainer of two nodes, on network addresses of their own (network namespaces)."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.vllm.bearer_token import VARIABLE
from tests.integration.interruptions.test_sigkill import config, steps

ROOT = Path(__file__).resolve().parents[3]
TOKEN = "a-secret-of-some-length"
HOSTS = {f"sightsound-{os.getpid()}-{name}": f"10.77.13.{1 + at}" for at, name in enumerate(("server", "a", "b"))}
SERVER_HOST, *NODES = HOSTS
SERVER = f"http://{HOSTS[SERVER_HOST]}:8000"
WAY: dict[str, Any] = {}
"""Arguments of the rollout callback that say how weights travel; without any, through a folder that all see."""

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


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """Three hosts: the first one has the switch to which the others are connected."""
    try:
        for host in HOSTS:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here")
    try:
        ip("-n", SERVER_HOST, "link", "add", "eth0", "type", "bridge")
        for number, node in enumerate(NODES):
            port = f"port{number}"
            ip("-n", node, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", SERVER_HOST)
            ip("-n", SERVER_HOST, "link", "set", port, "master", "eth0", "up")
        for host, address in HOSTS.items():
            ip("-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)


@pytest.fixture(scope="module")
def said(network: None, server_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Start the server; what it says and logs."""
    out, log = tmp_path_factory.mktemp("server") / "out", tmp_path_factory.mktemp("server") / "log"
    command = [
        *("ip", "netns", "exec", SERVER_HOST, sys.executable, "-m", "inference.vllm_server", "--max-num-seqs", "32"),
        *("--model", str(server_weights), "--host", HOSTS[SERVER_HOST], "--max-model-len", "768"),
        *("--log-file", str(log)),
    ]
    with open(out, "wb") as output:
        process = subprocess.Popen(command, env={**os.environ, VARIABLE: TOKEN}, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 500
        while "ready on" not in out.read_text():
            assert process.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.5)
        yield out, log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ask(token: str | None) -> tuple[list[int], int, object]:
    """Ask the server from the other host."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {VARIABLE: token} if token else {}
    command = ["ip", "netns", "exec", NODES[0], sys.executable, "-c", ASK, SERVER, json.dumps(ROUTES[:7])]
    if token is None:
        command[-1] = json.dumps(ROUTES)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    statuses, health, known = json.loads(done.stdout.splitlines()[-1])
    return statuses, health, known


@pytest.mark.slow
def test_a_stranger_gets_401_everywhere(said: tuple[Path, Path]) -> None:
    assert ask(None) == (
        [401] * len(ROUTES),
        200,
        f"{SERVER} wants a secret: set {VARIABLE} here to what the server has",
    )
    statuses, health, known = ask(TOKEN)
    assert 401 not in statuses and health == 200 and isinstance(known, list) and known[1] == 1
    assert TOKEN not in "".join(file.read_text() for file in said)


@pytest.mark.slow
def test_two_nodes_train_with_a_server_on_a_third(
    said: tuple[Path, Path], world: Path, server_weights: Path, tmp_path: Path
) -> None:
    """Started by the launch file on each node, past a proxy that is not there; the secret is in no log."""
    root = tmp_path / "run"
    values = config("grpo", world, root)
    values["trainer"] |= {"max_steps": 3, "limit_val_batches": 1, "strategy": "ddp"}
    values["trainer"]["logger"] = {
        "class_path": "WandbLogger",
        "init_args": {"project": "nodes", "save_dir": str(root), "offline": True},
    }
    servers = {"server_urls": [SERVER], "max_new_tokens": 6, "retry_seconds": 60, "run_id": "run"}
    values["trainer"]["callbacks"][0] = {"class_path": "callbacks.VLLMRollout", "init_args": servers | WAY}
    values["model"]["init_args"]["weights"] = str(server_weights)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "http_proxy": "http://10.77.13.99:1", VARIABLE: TOKEN},
        **{"GLOO_SOCKET_IFNAME": "eth0", "HOSTS": " ".join(HOSTS[node] for node in NODES)},
        **{"GPUS": "1", "SERVERS": "0", "RANKS": "1", "ROOT": str(root), "MODEL": str(server_weights)},
        **{"WANDB_DATA_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path)},
    }
    fit = ["bash", str(ROOT / "launch" / "torchrun.sh"), "fit", "--config", str(tmp_path / "config.yaml")]
    logs = [open(tmp_path / f"node{number}", "w+") for number in range(2)]  # noqa: SIM115
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", node, *fit],
            env=environment | {"NODE": str(number)},
            stdout=logs[number],
            stderr=subprocess.STDOUT,
        )
        for number, node in enumerate(NODES)
    ]
    try:
        statuses = [node.wait(540) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
        texts = [(tmp_path / f"node{number}").read_text() for number in range(2)]
    assert statuses == [0, 0], "\n".join(text[-4000:] for text in texts)
    done = steps(root)  # of both ranks
    assert sorted(record["step"] for record in done) == [1, 1, 2, 2, 3, 3]
    assert {record["version"] for record in done} == {"run:0", "run:1", "run:2"}
    first = [set(record["questions"]) for record in done if record["step"] == 1]
    assert first[0].isdisjoint(first[1])
    assert f"through {root}/weight_sync" in "".join(texts) or WAY
    assert "cannot reach rank 0" not in "".join(texts)
    assert TOKEN not in "".join([*texts, *(file.read_text() for file in said)])
    assert TOKEN not in "".join(file.read_text(errors="replace") for file in root.rglob("*") if file.is_file())
