"""The servers that receive one stream of weights, driven together over their routes for weight updates.

This is what vLLM's trainer-side engines ask for as a ``VLLMWeightSyncClient``, for several servers at once, with time
limits and with sentences that name the server.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from inference.vllm.client import ServerError, ServerFailed, ServerRefused, ServerUnreachable, VLLMClient


class TransferBroken(ServerUnreachable):
    """Weights did not reach all servers that were to receive them; those that live can be sent them again."""


class Receivers:
    """Servers of one group, whose workers have the ranks after the sender's.

    Attributes:
        clients: Speak with them.
        workers: Processes of each that receive.
        version: Name of the weights that are sent next.
        problem: What was wrong with the last step; None where nothing was.
        seconds: How long each step may take.
    """

    def __init__(self, clients: Sequence[VLLMClient], seconds: float) -> None:
        """Ask the servers how many workers they have.

        Args:
            clients: Speak with them.
            seconds: How long each step may take.

        Raises:
            ServerError: One does not answer.
        """
        self.clients = list(clients)
        self.seconds = seconds
        self.version = ""
        self.problem: str | None = None
        self.workers = [client.world_size() for client in self.clients]

    @property
    def world_size(self) -> int:
        """The sender and all workers."""
        return 1 + sum(self.workers)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Have the servers meet the sender; each is told the rank of its first worker.

        Args:
            init_info: What vLLM's engine on their side wants to know.
        """
        offsets = {client.url: 1 + sum(self.workers[:place]) for place, client in enumerate(self.clients)}

        def meet(client: VLLMClient) -> None:
            mine = init_info | ({"rank_offset": offsets[client.url]} if "rank_offset" in init_info else {})
            try:
                client.init_weight_transfer(mine, self.seconds)
            except ServerFailed as error:
                raise _explained(client, error) from None

        self._all("meet the trainer", meet)

    def start_weight_update(self) -> None:
        """Finish requests under way, hold new ones back, and begin to take weights."""

        def start(client: VLLMClient) -> None:
            interrupted = client.is_paused()
            client.pause(self.seconds)
            if interrupted:
                _clear(client, self.seconds)
            client.start_weight_update(self.seconds)

        self._all("begin", start)

    def update_weights(self, update_info: Any) -> None:
        """Have the servers receive and load; they return when all has come.

        Args:
            update_info: What comes, as vLLM's engine on their side wants to know it.
        """
        self._all("receive the weights", lambda client: client.update_weights(update_info, self.seconds))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have the servers compute with what has come, name it, and go on.

        Args:
            weight_version: Its name, :attr:`version` unless given.

        Raises:
            ServerRefused: One reports another version afterwards.
        """
        version = weight_version or self.version

        def finish(client: VLLMClient) -> None:
            client.finish_weight_update(version, self.seconds)
            client.resume()
            found = client.weight_version()
            if found != version:
                raise ServerRefused(
                    f"{client.url} reports weight version {found!r} right after it was given {version!r}: "
                    "does another run use the same server?"
                )

        self._all("finish", finish)

    def _all(self, what: str, work: Callable[[VLLMClient], None]) -> None:
        """Do something with all servers at once.

        Raises:
            TransferBroken: Some went away or took too long; all are named.
            ServerRefused: One refused.
        """
        errors: dict[str, Exception] = {}
        self.problem = None

        def run(client: VLLMClient) -> None:
            try:
                work(client)
            except Exception as error:
                errors[client.url] = error
                self.problem = "; ".join(map(str, errors.values()))  # known before the others have ended

        threads = [threading.Thread(target=run, args=(client,), daemon=True) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors.values():
            if not isinstance(error, ServerUnreachable):
                raise error
        if errors:
            raise TransferBroken(f"{len(errors)} of {len(self.clients)} servers did not {what}: {self.problem}")


def _clear(client: VLLMClient, seconds: float) -> None:
    """Have a server forget an update that was not finished, whose half-filled layers would take the next one's weights.

    Whether one has begun does not show: it is finished, then one is begun and finished that brings nothing.
    """
    for step in (client.finish_weight_update, client.start_weight_update, client.finish_weight_update):
        try:
            step(seconds=seconds)
        except ServerFailed:
            if not client.healthy():
                raise


def _explained(client: VLLMClient, error: ServerFailed) -> ServerError:
    """Say what to do where a server was started without a way, or with another one."""
    said = str(error)
    if "not configured" in said or "Invalid init_info" in said:
        return ServerRefused(
            f"{client.url} was started for weights by another way ({said[-200:]}): start it with --weight-transfer and "
            "the way that the rollout callback has, or leave weight_transfer away on both sides, for files"
        )
    return error
