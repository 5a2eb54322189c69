"""A vLLM server's side of weights over gloo: a weight transfer engine for servers that compute on the CPU.

vLLM 0.32 has engines for NVIDIA GPUs only. This one is registered by a plugin that the server is started with, and is
told what vLLM's own NCCL engine is told.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from inference.weight_transfer.buckets import announced, cut, nbytes, unpack
from inference.weight_transfer.gloo_group import GlooGroup, visit
from records.hub_files import HubTensor


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """Where the trainer is met.

    Attributes:
        master_address: Address of the trainer's rank 0.
        master_port: Its port.
        rank_offset: Rank of this server's first worker.
        world_size: The trainer and all workers of all servers.
        packed_buffer_size_bytes: Size of a bucket.
        seconds: Limit of the meeting and of each bucket.
    """

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    packed_buffer_size_bytes: int
    seconds: float


@dataclass
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """What will come: names, types and shapes, in order."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooReceiver(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """Receives buckets and loads them into the model."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo
    _group: GlooGroup | None = None
    _bucket_bytes = 0

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Meet the trainer; a group from before is left."""
        self.shutdown()
        config = self.parallel_config
        rank = init_info.rank_offset + config.data_parallel_index * config.world_size + config.rank
        store, address = visit(init_info.master_address, init_info.master_port, init_info.seconds)
        self._group = GlooGroup(store, rank, init_info.world_size, address, init_info.seconds)
        self._bucket_bytes = init_info.packed_buffer_size_bytes

    def start_weight_update(self) -> None:
        """Have the layers take their weights anew."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        """Receive all buckets; one is loaded while the next one comes."""
        if self._group is None:
            raise RuntimeError("no trainer has been met: init_weight_transfer_engine comes first")
        model: Any = self.model
        try:
            shapes = announced(update_info.names, update_info.dtype_names, update_info.shapes)
            for bucket, run in self._buckets(self._group, cut(shapes, self._bucket_bytes)):
                model.load_weights(unpack(bucket, run))
                del bucket
        except BaseException:
            self.shutdown()  # the trainer must not wait for one that has given up
            raise

    @staticmethod
    def _buckets(
        group: GlooGroup, runs: list[dict[str, HubTensor]]
    ) -> Iterator[tuple[torch.Tensor, dict[str, HubTensor]]]:
        """Yield each bucket when it has come, and have the next one sent meanwhile."""
        under_way: deque[tuple[torch.Tensor, dict[str, HubTensor]]] = deque()
        for run in runs:
            under_way.append((torch.empty(nbytes(run), dtype=torch.uint8), run))
            group.broadcast(under_way[-1][0])
            if len(under_way) > 1:
                group.wait()
                yield under_way.popleft()
        while under_way:
            group.wait()
            yield under_way.popleft()

    def finish_weight_update(self) -> None:
        """Have the layers compute with what has come."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        group, self._group = self._group, None
        if group is not None:
            group.close()
