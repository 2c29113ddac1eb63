"""Who may use the pages: this server's own names, requests of the pages themselves, and for some, a secret token.

The Host header must be this server's, so that a foreign name resolved to this address (DNS rebinding) is refused.
Requests that a browser marks as another site's are refused, and a POST of a browser must come from a page of this
origin. A random token opens the pages that hold a user's data; it becomes an HttpOnly, SameSite=Strict cookie and
leaves the address.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acoustic_env.web.problems import Problem

LARGEST_POST: Final = 64 << 10
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# Opens the page from within its own site, so that the strict cookie counts even when the link came from a mail.
_ENTRY: Final = (
    "<!doctype html><meta charset='utf-8'><meta http-equiv='refresh' content='0;url=/'><title>acoustic-env</title>"
    "<p><a href='/'>Open the page</a></p>"
)


class SameOrigin:
    """The names of one server, for pages that anybody who reaches it may use.

    Args:
        host: the host as the user gave it.
        address: the address that the server listens at.
        port: its port.
    """

    def __init__(self, host: str, address: str, port: int) -> None:
        self.host, self.port = host, port
        self.loopback = ipaddress.ip_address(address).is_loopback
        self._names = frozenset({host.casefold(), "localhost", socket.gethostname().casefold()})
        shown = socket.gethostname() if host in ("0.0.0.0", "::", "") else host
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"

    def check(self, request: Request) -> Response | None:
        """Return an answer that takes the place of the page's; None to let the request through.

        A program sends neither Origin nor Sec-Fetch-Site; every browser sends Origin with a POST.

        Raises:
            Problem: the request is refused.
        """
        opened = request.method in ("GET", "HEAD") and request.headers.get("sec-fetch-mode") == "navigate"
        self._check_host_and_site(request, opened=opened)
        if "origin" in request.headers:
            self._check_origin(request)
        return None

    def _check_host_and_site(self, request: Request, *, opened: bool) -> None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._accepts_host(hosts[0]):
            raise _refusal(HTTPStatus.MISDIRECTED_REQUEST, "this server has another host name")
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not opened:
            raise _refusal(HTTPStatus.FORBIDDEN, "requested by another site")

    def _check_origin(self, request: Request) -> None:
        if request.method == "POST" and request.headers.get("origin") != f"http://{request.headers['host']}":
            raise _refusal(HTTPStatus.FORBIDDEN, "requested by another site")

    def _accepts_host(self, header: str) -> bool:
        try:
            parts = urlsplit(f"//{header}")
            name, port = (parts.hostname or "").casefold(), parts.port or 80
        except ValueError:
            return False
        if port != self.port:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return address.is_loopback if self.loopback else True  # an address cannot be rebound


class Access(SameOrigin):
    """The token and names of one server, for pages that hold a user's data."""

    def __init__(self, host: str, address: str, port: int) -> None:
        super().__init__(host, address, port)
        self.token = secrets.token_urlsafe(24)
        self.cookie = f"acoustic_env_{port}"  # browsers share cookies between the ports of a host
        self.url += f"?token={self.token}"

    def check(self, request: Request) -> Response | None:
        """Return the page that trades the token for a cookie; None to let the request through.

        Raises:
            Problem: the request is refused.
        """
        entering = request.url.path == "/" and "token" in request.query_params
        opened = entering and request.headers.get("sec-fetch-mode") == "navigate"
        self._check_host_and_site(request, opened=opened)
        if entering and request.method in ("GET", "HEAD"):
            return self._enter(request.query_params["token"])
        self._check_origin(request)
        if not self._is_token(request.cookies.get(self.cookie, "")):
            raise _refusal(HTTPStatus.FORBIDDEN, "open the address that the acoustic-env command printed")
        if request.method == "POST":
            _check_body(request)
        return None

    def _enter(self, token: str) -> Response:
        if not self._is_token(token):
            raise _refusal(HTTPStatus.FORBIDDEN, "wrong or old token: every start of the command has its own")
        return HTMLResponse(
            _ENTRY, headers={"Set-Cookie": f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"}
        )

    def _is_token(self, sent: str) -> bool:
        return hmac.compare_digest(sent.encode("utf-8", "replace"), self.token.encode())


class AccessMiddleware:
    """Check every request before any page sees it; add the security headers to every response."""

    def __init__(self, app: ASGIApp, access: SameOrigin) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        try:
            response = self._access.check(Request(scope))
        except Problem as problem:
            response = problem.response()
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        await (response or self._app)(scope, receive, send_secured)


def _refusal(status: HTTPStatus, reason: str) -> Problem:
    """Return a refusal with its reason; the connection ends, since a body may be unread."""
    return Problem(status, reason, headers={"Connection": "close"})


def _check_body(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or "transfer-encoding" in request.headers:
        raise _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected JSON of known length")
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > LARGEST_POST:
        raise _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST_POST:,} bytes")
