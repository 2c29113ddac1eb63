"""The listening page's server: what may be asked, by whom, and what is answered.

Who may ask. A random token opens the page; it becomes an HttpOnly, SameSite=Strict cookie and leaves the address. The
Host header must be this server's (a foreign name resolved to this address is refused), requests that a browser marks
as another site's are refused, and a POST must come from this page's own origin.

What may be asked. The three files of the page, the state of the session, and clips by their row number in the sample.
No request holds a path, and nothing but the sample's clips can be reached. Labels in question are told, and nothing
else of a row: not its clip id, role, stratum, score, or whether the label is a given one.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import socket
import sys
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from acoustic_env.audit.listen import InvalidAnswerError, Session, order_for
from acoustic_env.audit.listen_audio import ClipCache
from acoustic_env.errors import ClipError, UsageError

PAGE: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
LARGEST_POST: Final = 64 << 10
IDLE_S: Final = 30.0
_ROW: Final = re.compile(r"/(audio|api/rows)/(\d{1,9})")
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")
_HEADERS: Final = {
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
_OPEN_SESAME: Final = (
    "<!doctype html><meta charset='utf-8'><meta http-equiv='refresh' content='0;url=/'><title>Listen</title>"
    "<p><a href='/'>Open the listening page</a></p>"
)


class _Refused(Exception):  # noqa: N818  the outcome's own name
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ListenServer(ThreadingHTTPServer):
    """Serves one session until `shutdown`.

    Args:
        host: address to listen at.
        port: 0 for a free one.
        session: takes the answers.
        clips: what is played.
        annotator: name proposed to who comes first, or None.

    Raises:
        UsageError: the address is taken or not this machine's.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, session: Session, clips: ClipCache, annotator: str | None = None) -> None:
        self.session = session
        self.clips = clips
        self.annotator = annotator
        self.token = secrets.token_urlsafe(24)
        self.page = {path: (_page_file(name), kind) for path, (name, kind) in PAGE.items()}
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            msg = f"--host {host} --port {port}: {error}; choose another port, or 0 for a free one"
            raise UsageError(msg) from error
        self.host = host
        self.names = frozenset({host.casefold(), "localhost", socket.gethostname().casefold()})

    @property
    def port(self) -> int:
        """The port listened at."""
        return int(self.server_address[1])

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the page."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    @property
    def url(self) -> str:
        """The address to open, token included."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers share cookies between the ports of a host."""
        return f"listen_{self.port}"

    def accepts_host(self, header: str | None) -> bool:
        """Whether a Host header can only mean this server: DNS rebinding makes a foreign name resolve to it."""
        try:
            parts = urlsplit(f"//{header or ''}")
            name, port = (parts.hostname or "").casefold(), parts.port or 80
        except ValueError:
            return False
        if port != self.port:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return address.is_loopback if self.loopback else True  # an address cannot be rebound

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"acoustic-env: listening page: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201


def _page_file(name: str) -> bytes:
    return (files("acoustic_env.audit") / "page" / name).read_bytes()


class _Handler(BaseHTTPRequestHandler):
    server: ListenServer
    protocol_version = "HTTP/1.1"
    server_version = "listen"
    sys_version = ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the token would stand in the log."""

    def _answer(self, respond: Any) -> None:
        try:
            self._check_host_and_site()
            respond()
        except _Refused as refused:
            self.close_connection = True
            self._send(refused.status, {"error": str(refused)})
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._send(HTTPStatus.INSUFFICIENT_STORAGE, {"error": f"the answer could not be written: {error}"})

    def _check_host_and_site(self) -> None:
        if len(self.headers.get_all("Host", [])) != 1 or not self.server.accepts_host(self.headers["Host"]):
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "this is not the host asked for")
        site = self.headers.get("Sec-Fetch-Site", "none")
        opening = self.path.startswith("/?token=") and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("same-origin", "none") and not opening:
            raise _Refused(HTTPStatus.FORBIDDEN, "asked by another site")

    def _check_cookie(self) -> None:
        try:
            sent = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            sent = None
        if sent is None or not self._is_token(sent.value):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the address that `acoustic-env audit listen` printed")

    def _is_token(self, sent: str) -> bool:
        return hmac.compare_digest(sent.encode("utf-8", "replace"), self.server.token.encode())

    def _get(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/" and "token" in query:
            if not self._is_token(query["token"][0]):
                raise _Refused(HTTPStatus.FORBIDDEN, "a wrong or an old token: every start has its own")
            set_cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            self._send_bytes(HTTPStatus.OK, _OPEN_SESAME.encode(), PAGE["/"][1], {"Set-Cookie": set_cookie})
            return
        self._check_cookie()
        row = _ROW.fullmatch(parts.path)
        if parts.path in self.server.page:
            self._send_bytes(HTTPStatus.OK, *self.server.page[parts.path])
        elif parts.path == "/api/session":
            session = self.server.session
            known = {
                "sample": session.sample_id,
                "annotator": self.server.annotator,
                "annotators": session.annotators(),
            }
            self._send(HTTPStatus.OK, known)
        elif parts.path == "/api/state":
            self._send(HTTPStatus.OK, self._state(query.get("annotator", [""])[0]))
        elif row and int(row[2]) < len(self.server.session.rows):
            self._send_clip(int(row[2])) if row[1] == "audio" else self._send_row(int(row[2]))
        else:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _state(self, name: str) -> dict[str, Any]:
        session = self.server.session
        try:
            annotator = session.known_as(name)
        except InvalidAnswerError as refused:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(refused)) from refused
        given = {row: answer for (_, row), answer in session.counted(annotator).items()}
        answered = sorted(given, key=lambda row: given[row].time_utc)
        rows = [
            {"row": row, "label": session.rows[row].label}
            | ({"answer": given[row].answer, "note": given[row].note} if row in given else {})
            for row in order_for(session.rows, session.sample_id, annotator)
        ]
        return {"annotator": annotator, "rows": rows, "answered": answered}

    def _send_row(self, row: int) -> None:
        try:
            clip = self.server.clips[row]
        except ClipError as error:
            place = self.server.clips.wanted[row]
            said = {"error": error.message, "video": place.video, "length_s": place.length_s}
            self._send(HTTPStatus.OK, said)
            return
        self._send(HTTPStatus.OK, {"seconds": clip.seconds, "spectrogram": clip.spectrogram})

    def _send_clip(self, row: int) -> None:
        try:
            wav = self.server.clips[row].wav
        except ClipError as error:
            raise _Refused(HTTPStatus.NOT_FOUND, error.message) from error
        headers = {"Accept-Ranges": "bytes"}
        wanted = _RANGE.fullmatch(self.headers.get("Range", "").replace(" ", ""))
        if wanted is None or wanted.group() == "bytes=-":
            self._send_bytes(HTTPStatus.OK, wav, "audio/wav", headers)
            return
        first, last = wanted.groups()
        start = int(first) if first else max(0, len(wav) - int(last))
        stop = min(int(last) + 1, len(wav)) if first and last else len(wav)
        if start >= stop:
            headers["Content-Range"] = f"bytes */{len(wav)}"
            self._send_bytes(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", "audio/wav", headers)
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(wav)}"
        self._send_bytes(HTTPStatus.PARTIAL_CONTENT, wav[start:stop], "audio/wav", headers)

    def _post(self) -> None:
        entry = self._posted()
        if urlsplit(self.path).path != "/api/answers":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        session = self.server.session
        try:
            answer = session.record(entry)
        except InvalidAnswerError as refused:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(refused)) from refused
        note = None
        try:
            session.write_annotations()
        except UsageError as error:
            note = f"the answer is in the journal; the table is not written: {error}"
            print(f"acoustic-env: {note}", file=sys.stderr)  # noqa: T201
        counts = session.counted(answer.annotator).get((answer.annotator, answer.row))
        standing = {"answer": counts.answer, "note": counts.note} if counts else {"answer": None, "note": None}
        self._send(HTTPStatus.OK, {"row": answer.row, **standing, "warning": note})

    def _posted(self) -> dict[str, Any]:
        """The JSON object sent, once everything about the request is in order."""
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise _Refused(HTTPStatus.FORBIDDEN, "asked by another site")
        self._check_cookie()
        if self.headers.get_content_type() != "application/json" or "Transfer-Encoding" in self.headers:
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "answers are JSON of known length")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_POST:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LARGEST_POST:,} bytes")
        try:
            entry = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "not JSON") from error
        if not isinstance(entry, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "not a JSON object")
        return entry

    def _send(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(document).encode(), "application/json; charset=utf-8")

    def _send_bytes(self, status: HTTPStatus, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        sent = _HEADERS | {"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})
        for name, value in sent.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
