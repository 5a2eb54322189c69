"""Where requests to an endpoint go, and the key that they carry."""

import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from inference.chat_api.retries import RetryPolicy
from runtime.errors import UserError

Scalar = int | float | None | str | bool
BodyField = Scalar | list[Scalar] | dict[str, Scalar | list[Scalar] | dict[str, Any]]
"""A field of a request. Not ``Any``: the command line would read the string "yes" as true."""

_SET_ELSEWHERE = {
    "model": "endpoint.model",
    "messages": "the prompt of the stage",
    "n": "the stage's samples",
}
"""Fields that the program sets and records or relies on, and what they are set with."""

_SECRET_FIELD = re.compile(r"key|token|secret|password|sig|signature|code|auth", re.IGNORECASE)


@dataclass
class EndpointSettings:
    """Where requests go. The key comes from the environment only.

    Attributes:
        base_url: The API's address, for example ``http://127.0.0.1:8000/v1``. A query is sent with each request:
            ``https://NAME.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21`` (with ``key_header:
            api-key``).
        model: The model's name there.
        name: What the endpoint is called in records; by default the address' host.
        api_key_env: Environment variable with the key; without it none is sent.
        key_header: Header that carries the key: ``Authorization`` (as ``Bearer KEY``) or the name of one that holds the
            key alone, such as Azure's ``api-key``.
        in_flight: Requests under way at once.
        timeout: Seconds without a byte after which a request is given up; one that gets its reply little by little has
            four times as long.
        stream: Ask for replies in pieces, which some endpoints insist on; where one says so it is done unasked.
        retry: How failed requests are repeated.
        extra_body: Further fields of each request, for what the API does not standardise (``top_k``,
            ``structured_outputs``, ``logprob_token_ids``, ...). They win over what a stage sends; null leaves a field
            out. Not ``model``, ``messages`` and ``n``, which have options of their own.
    """

    base_url: str
    model: str
    name: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    key_header: str = "Authorization"
    in_flight: int = 64
    timeout: float = 120.0
    stream: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    extra_body: dict[str, BodyField] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be sent: addresses that are none or carry credentials, no model, fields set elsewhere."""
        self.base_url = self.base_url.strip()
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            shown = without_credentials(self.base_url)
            raise UserError(f"endpoint.base_url must look like http://127.0.0.1:8000/v1, found {shown!r}")
        if parts.username or parts.password or any(_SECRET_FIELD.search(name) for name in self.query):
            raise UserError(
                "endpoint.base_url must not carry credentials: put the key into the environment variable "
                f"{self.api_key_env} (endpoint.api_key_env)"
            )
        if not re.fullmatch(r"[A-Za-z0-9-]+", self.key_header):
            raise UserError(f"endpoint.key_header must be a header's name such as api-key, found {self.key_header!r}")
        if self.model.strip() in ("", "None"):  # the command line makes text of null
            raise UserError("endpoint.model must be the model's name at the endpoint, found none")
        for name, option in _SET_ELSEWHERE.items():
            if name in self.extra_body:
                raise UserError(
                    f"endpoint.extra_body must not hold {name!r}, or records would say something else than was asked: "
                    f"it is set with {option}"
                )
        if self.in_flight < 1:
            raise UserError(f"endpoint.in_flight must be 1 or more, found {self.in_flight}")
        if not self.timeout > 0:
            raise UserError(f"endpoint.timeout must be more than 0 seconds, found {self.timeout}")

    @property
    def label(self) -> str:
        """What the endpoint is called in records."""
        return self.name or str(urlsplit(self.base_url).netloc)

    @property
    def address(self) -> str:
        """The address without its query."""
        return urlunsplit(urlsplit(self.base_url)._replace(query="", fragment=""))

    @property
    def query(self) -> dict[str, str]:
        """The address' query, sent with each request."""
        return dict(parse_qsl(urlsplit(self.base_url).query, keep_blank_values=True))

    def key(self) -> str:
        """Return the key, or nothing where there is none.

        Raises:
            UserError: The variable holds what cannot be a key; the message does not show it.
        """
        value = os.environ.get(self.api_key_env, "")
        key = value.strip()
        fault = None
        if value and not key:
            fault = "holds nothing but white space"
        elif not key.isascii() or not key.isprintable():
            fault = "holds a key with characters that no HTTP header can carry"
        elif any(character.isspace() for character in key):
            fault = "holds a key with white space in it"
        elif len(key) > 1 and key[0] == key[-1] and key[0] in "\"'":
            fault = "holds a key in quotation marks"
        if fault:
            raise UserError(f"the environment variable {self.api_key_env} {fault}: set it to the key alone")
        return key


def without_credentials(address: str) -> str:
    """Return an address for a message, also one that is none: without what may be a password or a key in it.

    Args:
        address: The address.
    """
    before, at, after = address.rpartition("@")
    scheme, slashes, _ = before.partition("//")
    return (scheme + slashes if slashes else "") + ("***@" if at else "") + after.partition("?")[0]
