"""Several rollout servers as one: waits for them, spreads requests, and brings back those that were lost."""

import logging
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from inference.chat_api.endpoint_settings import without_credentials
from inference.rollout_requests import MOST_THREADS, Prompt, RolloutRequests, Then
from inference.vllm.client import RequestOutput, VLLMClient
from inference.vllm.pooled_server import PooledServer, ServersLost
from inference.weight_transfer.weight_keeper import WeightKeeper
from runtime.errors import UserError

log = logging.getLogger("lightning.pytorch.rollout")  # below Lightning's logger, so that it is seen

PROGRESS_SECONDS = 10.0


class ServerPool:
    """The rollout servers of a run.

    Attributes:
        servers: The servers.
        keeper: Makes them have the run's weights.
        setting: What their addresses are called in a configuration.
    """

    setting = "server_urls"

    def __init__(
        self,
        urls: Sequence[str],
        wait_seconds: float = 600.0,
        retry_seconds: float = 600.0,
        request_seconds: float = 600.0,
        watch_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        """Describe the servers.

        Args:
            urls: Their addresses.
            wait_seconds: How long to wait for them at the start.
            retry_seconds: How long to try again when they are lost in mid-run.
            request_seconds: Give up a single request after this time.
            watch_seconds: How often to look after servers that take long, and to say so.

        Raises:
            UserError: There are none, or an address is no address.
        """
        self.wait_seconds = wait_seconds
        self.retry_seconds = retry_seconds
        self.watch_seconds = watch_seconds
        addresses = checked_addresses(urls, self.setting)
        self.servers = [PooledServer(VLLMClient(url, request_seconds, MOST_THREADS)) for url in addresses]
        self.keeper = WeightKeeper(self.servers, retry_seconds, request_seconds)

    def close(self) -> None:
        """Close all connections, after pushes under way: no server is left with half of the weights."""
        self.keeper.end()
        for server in self.servers:
            server.client.close()

    def wait(self, completions: int, checkpoint: str = "DIR") -> None:
        """Wait until every server is ready, and check how it was started.

        Args:
            completions: Most completions that one prompt will have.
            checkpoint: Named in the advice on how to start a server.

        Raises:
            ServersLost: One did not become ready in time.
            UserError: One was started in a way that rollouts cannot use.
        """
        self.keeper.completions = completions
        deadline = time.monotonic() + self.wait_seconds
        for server in self.servers:
            wait_until_healthy(server.client, deadline, self.wait_seconds, checkpoint)
            self.keeper.inspect(server)

    def generate(self, prompts: Sequence[Prompt], then: Then | None = None) -> list[RequestOutput]:
        """Draw completions of many prompts at once, on whichever server has room.

        Args:
            prompts: The prompts.
            then: What else is done with each answer as soon as it has come.

        Returns:
            The answers in the order of the prompts, all drawn with the expected weights.

        Raises:
            ServersLost: A request could not be served for ``retry_seconds``.
            UserError: A server refused a request.
        """
        return RolloutRequests(prompts, self.keeper, self.retry_seconds, self.watch_seconds, then).answers()


def checked_addresses(urls: Sequence[str], setting: str = "server_urls") -> list[str]:
    """Return the addresses of servers, each once.

    Args:
        urls: As configured.
        setting: What they are called there.

    Raises:
        UserError: There are none, or one is no address or carries credentials.
    """
    if not urls:
        raise UserError(f"{setting} is empty: name at least one server, such as http://127.0.0.1:8000")
    for url in urls:
        if "@" in url:
            raise UserError(
                f"{setting} must not carry credentials, found {without_credentials(url)!r}: logs and "
                "configurations name the addresses; reach the server through a tunnel or a private network"
            )
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{setting}: {url!r} is no address, expected something like http://127.0.0.1:8000")
    return list(dict.fromkeys(urls))


def wait_until_healthy(client: VLLMClient, deadline: float, seconds: float, checkpoint: str) -> None:
    """Wait until a server answers, and say every 10 s that it is waited for.

    Args:
        client: Speaks with it.
        deadline: When to give up, on the monotonic clock.
        seconds: How long that is altogether, for the message.
        checkpoint: Named in the advice on how to start a server.

    Raises:
        ServersLost: It did not answer in time.
    """
    begun = reported = time.monotonic()
    port = urlsplit(client.url).port or 80
    advice = f"start one with `python -m inference.vllm_server --model {checkpoint} --port {port}`"
    announced = False
    while not client.healthy():
        now = time.monotonic()
        if now > deadline:
            raise ServersLost(f"no rollout server answered at {client.url} within {seconds:.0f} s: {advice}")
        if not announced or now - reported >= PROGRESS_SECONDS:
            announced, reported = True, now
            log.info(f"Waiting for the rollout server {client.url} since {now - begun:.0f} s ({advice})")
        time.sleep(min(1.0, max(0.05, deadline - now)))
