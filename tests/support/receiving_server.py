"""A fake rollout server that is sent weights over gloo, as vLLM's own routes and our engine take them."""

from typing import Any

import torch

from benchmarks.fake_server import FakeServer
from inference.weight_transfer.buckets import announced, cut, nbytes, unpack
from inference.weight_transfer.gloo_group import GlooGroup, visit


class ReceivingServer(FakeServer):
    """Its worker lives in this process; it refuses what vLLM 0.32 refuses."""

    def start(self) -> None:
        """Start as a fresh process would: met by nobody."""
        super().start()
        self.received: dict[str, torch.Tensor] = {}
        self.largest_bucket = self.meetings = 0
        self.active = self.stale = False
        self.group: GlooGroup | None = None

    def stop(self) -> None:
        """Stop as a killed process would."""
        super().stop()
        self.leave()

    def leave(self) -> None:
        """Close the connection to the trainer."""
        group, self.group = self.group, None
        if group is not None:
            group.close()

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        """Return status and body of the answer to a request."""
        steps = {
            "/init_weight_transfer_engine": self.meet,
            "/start_weight_update": self.begin,
            "/update_weights": self.receive,
            "/finish_weight_update": self.finish,
        }
        if route == "/get_world_size":
            return 200, {"world_size": 1}
        if route not in steps:
            return super().answer(route, body)
        if failure := self.behave(route, body):
            return failure[0], {"error": {"message": failure[1]}}
        try:
            steps[route](body)
        except Exception as error:
            return 500, {"error": {"message": f"{type(error).__name__}: {error}"}}
        return 200, {}

    def meet(self, body: Any) -> None:
        """Meet the trainer."""
        info = body["init_info"]
        if self.settings.get("weight_transfer") is not None:
            raise RuntimeError("Weight transfer not configured. Please set weight_transfer_config.")
        self.leave()
        store, address = visit(info["master_address"], info["master_port"], info["seconds"])
        self.group = GlooGroup(store, info["rank_offset"], info["world_size"], address, info["seconds"])
        self.bucket_bytes = info["packed_buffer_size_bytes"]
        self.meetings += 1

    def begin(self, body: Any) -> None:
        """Take weights anew."""
        assert self.paused, "weights must not change under running requests"
        if self.active:
            raise RuntimeError("start_weight_update called while a weight update is already active.")
        self.active = True

    def receive(self, body: Any) -> None:
        """Receive them; what an interrupted update has left in the layers spoils the next one."""
        assert self.active and self.group is not None
        shapes = announced(**body["update_info"])
        arrived: dict[str, torch.Tensor] = {}
        spoilt, self.stale = self.stale, True
        try:
            for run in cut(shapes, self.bucket_bytes):
                bucket = torch.empty(nbytes(run), dtype=torch.uint8)
                self.group.broadcast(bucket)
                self.group.wait()
                self.largest_bucket = max(self.largest_bucket, bucket.nbytes)
                arrived |= {name: value.clone() for name, value in unpack(bucket, run)}
        except RuntimeError:
            self.active = False
            self.leave()
            raise
        self.received = {name: torch.zeros_like(value) for name, value in arrived.items()} if spoilt else arrived

    def finish(self, body: Any) -> None:
        """Compute with them."""
        if not self.active:
            raise RuntimeError("finish_weight_update called without a matching start_weight_update.")
        self.active = self.stale = False
        if body:
            self.version = body["weight_version"]
            self.weights = self.version
