"""Only this machine's browser, on this page: what other sites and other names of this address ask for is refused.

A page of another site may let the browser send requests here, and a name of its own may be made to point here
(DNS rebinding). The first shows in ``Sec-Fetch-Site`` and ``Origin``, the second in ``Host``.
"""

from collections.abc import Awaitable, Callable, Collection

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def refusal(request: Request, hosts: Collection[str]) -> str | None:
    """Return why a request is refused, or None when it is not.

    Args:
        request: The request.
        hosts: The names and ports by which this page is reached.
    """
    host = request.headers.get("host", "")
    if host.lower() not in hosts:
        return f"the host {host!r} is not this page's"
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return "another site asks"
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() not in {f"http://{name}" for name in hosts}:
        return f"the origin {origin!r} is not this page's"
    return None


def guard(hosts: Collection[str]) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    """Return a middleware that answers 403 to other origins and hosts, and forbids pages to bring in anything else.

    Args:
        hosts: The names and ports by which this page is reached.
    """

    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        why = refusal(request, hosts)
        response = PlainTextResponse(f"refused: {why}\n", 403) if why else await answer(request)
        response.headers.update(HEADERS)
        return response

    return guarded
