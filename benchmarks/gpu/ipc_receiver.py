"""A server's side of a push over IPC, in a process of its own: ``python -m benchmarks.gpu.ipc_receiver``.

vLLM's own engine takes the weights; its model is a dictionary, so that none of vLLM's kernels is needed: vLLM's folder
of Python files suffices. The routes are those that the trainer uses of a vLLM server. Prints its port, ends with its
parent.
"""

import contextlib
import json
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

from benchmarks.gpu.ipc_push import fingerprint
from runtime.parent_death import end_with_parent


class Kept(nn.Module):
    """What stands for a server's model: it keeps what it is given, in place from the second time on."""

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def load_weights(self, weights: Any) -> None:
        """Keep weights, as vLLM's models load them."""
        for name, value in weights:
            if name in self.kept:
                self.kept[name].copy_(value)
            else:
                self.kept[name] = value.clone()


class Engine(IPCWeightTransferEngine):
    """vLLM's engine without the layers that it would prepare for a reload."""

    def __init__(self, model: Kept) -> None:
        """Take weights for a model on the first GPU."""
        nothing: Any = SimpleNamespace(parallel_config=None, model_config=None)
        super().__init__(WeightTransferConfig(backend="ipc"), nothing, torch.device("cuda", 0), model)
        self.kept = model.kept

    def start_weight_update(self) -> None:
        """There are no layers to prepare."""

    def finish_weight_update(self) -> None:
        """Let go of the trainer's bucket."""
        self.shutdown()


@dataclass
class State:
    """What the routes share."""

    engine: Engine
    version: str = "default"
    paused: bool = False


def answer(state: State, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Do what a route of a vLLM server does.

    Args:
        state: Of the server.
        path: The route, without its query.
        body: What was sent.
    """
    engine = state.engine
    match path:
        case "/get_world_size":
            return {"world_size": 1}
        case "/is_paused":
            return {"is_paused": state.paused}
        case "/pause" | "/resume":
            state.paused = path == "/pause"
        case "/init_weight_transfer_engine":
            engine.init_transfer_engine(engine.parse_init_info(body["init_info"]))
        case "/start_weight_update":
            engine.start_weight_update()
        case "/update_weights":
            engine.receive_weights(engine.parse_update_info(body["update_info"]))
            torch.cuda.synchronize()
        case "/finish_weight_update":
            engine.finish_weight_update()
            state.version = body.get("weight_version", state.version)
        case "/weight_info":
            return {"weight_version": state.version}
        case "/fingerprints":
            return {"fingerprints": {name: fingerprint(value) for name, value in engine.kept.items()}}
        case _:
            raise ValueError(f"no route {path}")
    return {}


def without_kernels() -> None:
    """Let the engine's one import of vLLM's models, a check of draft models, do without them and their kernels."""
    checks: Any = ModuleType("vllm.model_executor.model_loader.mtp_validation")
    checks.disable_mtp_completeness_check = contextlib.nullcontext
    for name in ("vllm.model_executor", "vllm.model_executor.model_loader"):
        sys.modules[name] = ModuleType(name)
    sys.modules[checks.__name__] = checks


def main() -> None:
    """Serve until the parent ends."""
    end_with_parent()
    without_kernels()
    torch.zeros(1, device="cuda")
    state = State(Engine(Kept()))

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}") or {}
            code = 200
            try:
                said = answer(state, self.path.partition("?")[0], body)
            except Exception as error:
                code, said = 500, {"error": f"{type(error).__name__}: {error}"}
            data = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
