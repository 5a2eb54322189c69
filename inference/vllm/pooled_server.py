"""One rollout server among several, and what is known of it."""

import random
import threading
from dataclasses import dataclass, field

from inference.vllm.client import ServerError, ServerUnreachable, VLLMClient
from inference.vllm.server_info import ServerInfo

LONGEST_BACKOFF = 15.0


class StaleWeights(ServerUnreachable):
    """A server sampled with other weights than it was given: it was restarted."""


class WeightsAwaited(ServerUnreachable):
    """A server waits for the next push, before which it cannot be used."""


class ServersLost(ServerError):
    """No server came back in time."""


@dataclass
class PooledServer:
    """One server and what is known of it.

    Attributes:
        client: Speaks with it.
        info: How it was started; None until it has answered.
        in_flight: Completions asked for and not yet received.
        failures: Failures since it last did its work.
        retry_at: When to ask it again after a failure.
        suspect: Its weights must be looked at before it is used again.
        gate_due: The parity gate has not passed since it was started.
        awaits: It has other weights than it is to have, and gets them only when the trainer's ranks push together.
        lock: Held while it is brought back.
    """

    client: VLLMClient
    info: ServerInfo | None = None
    in_flight: int = 0
    failures: int = 0
    retry_at: float = 0.0
    suspect: bool = False
    gate_due: bool = True
    awaits: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Its address."""
        return self.client.url

    def has_room(self, completions: int) -> bool:
        """True when it can compute so many more completions at once, or does nothing."""
        most = self.info.max_num_seqs if self.info else None
        return self.in_flight == 0 or most is None or self.in_flight + completions <= most


def backoff(failures: int) -> float:
    """Return how long to wait after so many failures: doubling up to 15 s, with jitter."""
    return float(min(LONGEST_BACKOFF, 0.5 * 2 ** max(failures - 1, 0)) * random.uniform(0.5, 1.0))
