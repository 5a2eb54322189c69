"""The HTTP client of an endpoint, and the proxy between them."""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import openai

from inference.chat_api.endpoint_settings import EndpointSettings
from runtime.errors import UserError


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment asks for.

    Attributes:
        url: Its address, which may carry credentials.
        variable: The environment variable that names it.
    """

    url: str
    variable: str

    def __str__(self) -> str:
        """Return it for a message, without credentials."""
        host = urlsplit(self.url).netloc.rpartition("@")[2]
        return f"the proxy {urlsplit(self.url).scheme}://{host} ({self.variable})"


def is_this_machine(host: str) -> bool:
    """Return True for names and addresses of the machine itself, which no proxy can reach.

    Args:
        host: A host's name or address, without port and brackets.
    """
    host = host.rstrip(".").casefold()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy that requests to an address go through, or None.

    Args:
        url: The address. One of this machine never has a proxy, nor has one that ``NO_PROXY`` names.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_this_machine(host) or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    proxies = getproxies()
    for kind in (parts.scheme, "all"):
        if found := proxies.get(kind):
            variable = next(
                (name for name in (f"{kind}_proxy", f"{kind}_proxy".upper()) if os.environ.get(name) == found),
                "of the system's settings",
            )
            return Proxy(found if "://" in found else f"http://{found}", variable)
    return None


def open_client(settings: EndpointSettings, key: str) -> openai.AsyncOpenAI:
    """Return the client; nothing is sent.

    Args:
        settings: Where requests go.
        key: The key, or nothing.

    Raises:
        UserError: The proxy cannot be used; the message names it.
    """
    proxy = proxy_for(settings.address)
    try:
        # the client would read the environment's proxies by itself, those of this machine and unusable ones too
        # followed to another host, a redirection would take the key's own header along
        http = openai.DefaultAsyncHttpxClient(
            **({"proxy": proxy.url} if proxy else {"trust_env": False}),
            verify=_certificates(settings.address),
            follow_redirects=False,
        )
    except (ImportError, ValueError) as error:
        assert proxy is not None
        needs = "socksio" if isinstance(error, ImportError) else None
        raise UserError(
            f"requests to {settings.label} would go through {proxy}, which "
            + (f"needs the package {needs}: pip install {needs}" if needs else "is not a proxy's address: correct it")
            + f", or unset the variable, or add {urlsplit(settings.address).hostname} to NO_PROXY"
        ) from None
    return openai.AsyncOpenAI(
        base_url=settings.address,
        api_key=key or "none",  # the client insists on one
        timeout=settings.timeout,
        max_retries=0,  # repeated by ChatEndpoint, where it is counted
        default_headers={settings.key_header: key} if key and not _bears(settings) else None,
        default_query=dict(settings.query),
        http_client=http,
    )


def request_headers(settings: EndpointSettings, key: str) -> dict[str, Any]:
    """Return headers for each request: none, or the mark that leaves the client's own one for the key out.

    Args:
        settings: Where requests go.
        key: The key, or nothing.
    """
    return {} if key and _bears(settings) else {"Authorization": openai.Omit()}


def _bears(settings: EndpointSettings) -> bool:
    return settings.key_header.casefold() == "authorization"


def _certificates(url: str) -> Any:
    """Return what certificates are checked against: SSL_CERT_FILE or SSL_CERT_DIR where they are set."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if urlsplit(url).scheme != "https" or not (file or folder):
        return True
    try:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    except OSError as error:
        raise UserError(f"SSL_CERT_FILE or SSL_CERT_DIR ({file or folder}) holds no certificates: {error}") from None
