"""Starts and stops a vLLM server as the rollout callback needs it; ``python -m callbacks.vllm_server --help``."""

import argparse
import atexit
import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from callbacks import vllm_short_audio
from datamodules.records import UserError

ROOT = Path(__file__).parents[1]
PROGRESS_SECONDS = 10.0


class ServerStartError(UserError):
    """The server did not start; the message has the end of its log."""


class VLLMServer:
    """A vLLM server as a process group of its own, for use in a ``with`` statement."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        port: int | None = None,
        host: str = "127.0.0.1",
        max_num_seqs: int = 64,
        max_model_len: int | None = None,
        dtype: str = "float32",
        kv_cache_gib: int = 1,
        threads: int | None = None,
        log_file: str | os.PathLike[str] | None = None,
        start_seconds: float = 600.0,
        allow_public_host: bool = False,
        extra: Sequence[str] = (),
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the server; it is started by ``with`` or :meth:`start`.

        Args:
            model: Directory or Hub name of a student's checkpoint.
            port: Port, or None for a free one.
            host: Address to listen on. Rollouts need vLLM's development mode, which lets everybody who reaches the
                server run its administrative routes, so only loopback addresses are accepted.
            max_num_seqs: Completions that are computed at once; no prompt can have more.
            max_model_len: Longest prompt and completion together; by default the model's limit.
            dtype: Type of the weights and of the computation.
            kv_cache_gib: Memory for keys and values on the CPU, in GiB.
            threads: CPU threads of the CPU build, by default all cores but one: small models wait for each other's
                threads longer than they compute when a core is taken (7 times slower, measured). From some 30 M
                parameters on, and while nothing else computes, all cores are quicker (1.6 times on two).
            log_file: Where the server's output goes, by default a temporary file.
            start_seconds: Give up when it is not ready after this time.
            allow_public_host: Accept a host that is not loopback.
            extra: Further arguments for vLLM.
            report: Called with progress lines; by default they are printed to stderr.

        Raises:
            UserError: The host is not a loopback address.
        """
        if not allow_public_host and not _is_loopback(host):
            raise UserError(
                f"{host} is not a loopback address: the server's development mode lets everybody who reaches it change "
                "its weights and run its administrative routes; use 127.0.0.1 with an SSH tunnel, or insist with "
                "--allow-public-host inside a closed network"
            )
        self.model = str(model)
        self.host = host
        self.port = port or _free_port(host)
        self.max_num_seqs = max_num_seqs
        self.max_model_len = max_model_len
        self.dtype = dtype
        self.kv_cache_gib = kv_cache_gib
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        self.start_seconds = start_seconds
        self.extra = list(extra)
        self.report = report or (lambda line: print(line, file=sys.stderr, flush=True))
        self.log_file = Path(log_file) if log_file else Path(tempfile.mkdtemp(prefix="vllm-")) / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for ``server_urls``."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def command(self) -> list[str]:
        """Return the command line."""
        return [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model, "--host", self.host, "--port", str(self.port)),
            "--enable-scale-out",  # token ids in, token ids out
            *("--generation-config", "vllm"),  # not the model's own top-k, top-p and repetition penalty
            *("--logprobs-mode", "processed_logprobs"),  # at the sampling temperature
            *("--max-num-seqs", str(self.max_num_seqs), "--dtype", self.dtype),
            *(("--max-model-len", str(self.max_model_len)) if self.max_model_len else ()),
            *("--limit-mm-per-prompt", '{"audio": 1, "image": 0, "video": 0}'),  # no eyes in memory where there are any
            *("--disable-log-stats", "--disable-uvicorn-access-log"),
            # On the CPU compiling takes longer than a small run, and a prompt that is split over two steps while its
            # sampling is seeded ends vLLM 0.32's engine ("CPU Generator does not use offset")
            *(() if _has_gpu() else ("--enforce-eager", "--no-enable-chunked-prefill")),
            *self.extra,
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment: development mode for weight updates, threads that are bound to no core."""
        ours = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # On the CPU, compute in the engine's process: a worker of its own spins for a second after each rollout and
            # takes a core from the learner (a GRPO step of mini: 2.4 s, 1.2 s without). GPUs do so by themselves.
            **({} if _has_gpu() else {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        if vllm_short_audio.has_short_window(self.model):
            plugin = vllm_short_audio.install(self.log_file.parent / "vllm-plugin")
            paths = [str(plugin), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            ours["PYTHONPATH"] = os.pathsep.join(paths)
        return {**os.environ, **ours}

    def start(self, wait: bool = True) -> Self:
        """Start the server.

        Args:
            wait: Return only when it is ready.

        Raises:
            ServerStartError: It ended or did not become ready in time.
        """
        if not _is_free(self.host, self.port):
            raise ServerStartError(f"port {self.port} of {self.host} is in use already: choose another port")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.stop)
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Wait until the server is ready, with a line of progress every 10 s.

        Raises:
            ServerStartError: It ended or did not become ready in time.
        """
        assert self.process is not None, "start() comes first"
        begun = reported = time.monotonic()
        self.report(f"vLLM server: starting on {self.url}, log in {self.log_file}")
        while True:
            if self.process.poll() is not None:
                raise ServerStartError(
                    f"the vLLM server ended with status {self.process.returncode}; the end of its log:\n{self._tail()}"
                )
            with contextlib.suppress(requests.RequestException):
                if _get(f"{self.url}/health") == 200:
                    break
            now = time.monotonic()
            if now - begun > self.start_seconds:
                self.stop()
                raise ServerStartError(
                    f"the vLLM server was not ready after {now - begun:.0f} s; the end of its log:\n{self._tail()}"
                )
            if now - reported >= PROGRESS_SECONDS:
                reported = now
                self.report(f"vLLM server: starting since {now - begun:.0f} s: {self._tail(1)[-120:].strip()}")
            time.sleep(0.5)
        self.report(f"vLLM server: ready on {self.url} after {time.monotonic() - begun:.0f} s")

    def stop(self) -> None:
        """Stop the server and everything that it started; harmless when it does not run."""
        atexit.unregister(self.stop)
        process, self.process = self.process, None
        if process is None:
            return
        group = process.pid  # it leads its own session
        with contextlib.suppress(ProcessLookupError):
            process.terminate()  # the API process takes its engine and workers along
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        deadline = time.monotonic() + 5
        while _group_lives(group) and time.monotonic() < deadline:
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        process.wait()

    def kill(self) -> None:
        """End the whole process group at once, as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tail(self, lines: int = 25) -> str:
        try:
            text = self.log_file.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def _get(url: str) -> int:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=5).status_code


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a stopped server do not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main(args: Sequence[str] | None = None) -> None:
    """Run a server in the foreground until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m callbacks.vllm_server",
        description="Start a vLLM server for rollouts: token ids in and out, weight updates, exact log-probabilities. "
        "Further arguments are handed to vLLM.",
    )
    parser.add_argument("--model", required=True, help="directory or Hub name of a student's checkpoint")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default: 127.0.0.1)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="completions computed at once (default: 64)")
    parser.add_argument("--max-model-len", type=int, help="longest prompt and completion together (default: model's)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    parser.add_argument("--kv-cache-gib", type=int, default=1, help="GiB for keys and values on the CPU (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores but one)")
    parser.add_argument("--log-file", help="where the server's output goes (default: a temporary file)")
    parser.add_argument(
        "--allow-public-host",
        action="store_true",
        help="accept a host that is not loopback: everybody who reaches it can then change the weights",
    )
    known, extra = parser.parse_known_args(args)
    try:
        server = VLLMServer(**vars(known), extra=extra)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with server:
            assert server.process is not None
            status = server.process.wait()
        sys.exit(f"the vLLM server ended with status {status}, see {server.log_file}")
    except UserError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
