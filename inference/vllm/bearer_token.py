"""A shared secret between trainer and rollout server: who does not have it is refused by every route but ``/health``.

vLLM's own ``--api-key`` guards ``/v1`` only; the routes that change weights and run administrative calls stay open
beside it. vLLM imports this file by name (``--middleware``) into the server's process: it needs nothing but Python.
"""

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

VARIABLE = "SIGHTSOUND_SERVER_TOKEN"
"""The environment variable with the secret, of the server's and of the trainer's processes."""

SHORTEST = 16
"""Characters that a secret must have."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def read_token() -> str | None:
    """Return the secret of this process's environment, None where there is none.

    Raises:
        ValueError: It cannot be one; the message does not show it.
    """
    token = os.environ.get(VARIABLE, "")
    if not token:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"{VARIABLE} must be at least {SHORTEST} printable ASCII characters without spaces: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


class BearerToken:
    """ASGI middleware around a whole server."""

    def __init__(self, app: App) -> None:
        """Guard an application.

        Args:
            app: What is guarded.

        Raises:
            ValueError: The environment has no secret, so that nobody would be let in or everybody.
        """
        token = read_token()
        if token is None:
            raise ValueError(f"{VARIABLE} is not set")
        self.app = app
        self._expected = _digest(f"Bearer {token}".encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with 401."""
        open_to_all = scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] == "/health")
        if open_to_all or self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    def _may_pass(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(_digest(given[0]), self._expected)


def _digest(header: bytes) -> bytes:
    return hashlib.sha256(header).digest()  # of equal length, so that a comparison's time says nothing


async def _refuse(send: Send) -> None:
    message = f"this server wants the bearer token that its {VARIABLE} holds"
    body = json.dumps({"error": {"message": message, "type": "Unauthorized", "code": 401}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
