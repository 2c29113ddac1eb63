"""A real S3 protocol on loopback: moto's server behind a proxy that can throttle, stall, drop and forget conditions.

The fixtures are made known in `tests/conftest.py`: one server for the session.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import pytest

Fault = Literal["throttle", "stall", "drop", "drop_answer", "fail"]
SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
INTERNAL = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We failed.</Message></Error>'


@dataclass
class S3Server:
    """The server and its faults.

    Attributes:
        endpoint: URL of the proxy.
        bucket: of the test.
        choose: (method, path, number of the request) -> fault or None.
        ignore_conditions: behave like a server without conditional writes.
        stall_s: how long a stalled request hangs.
        requests: (method, path) of every request.
    sent: bytes of the answers' bodies.
        done: faults that were dealt.
    """

    endpoint: str
    bucket: str = ""
    choose: Callable[[str, str, int], Fault | None] = lambda _method, _path, _number: None
    ignore_conditions: bool = False
    stall_s: float = 3.0
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    done: list[Fault] = field(default_factory=list)

    @property
    def url(self) -> str:
        """A store in the test's bucket."""
        return f"s3://{self.bucket}/a store"

    def reset(self) -> None:
        """No faults; a fresh bucket."""
        self.choose = lambda _method, _path, _number: None
        self.ignore_conditions = False
        self.requests.clear()
        self.sent = 0
        self.done.clear()
        self.bucket = f"bucket-{uuid.uuid4().hex[:12]}"


def _handler(server: S3Server, upstream: tuple[str, int], lock: threading.Lock) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self._body()
            with lock:
                server.requests.append((self.command, self.path))
                fault = server.choose(self.command, self.path, len(server.requests))
                if fault:
                    server.done.append(fault)
            if fault in ("throttle", "fail"):
                self._answer(503 if fault == "throttle" else 500, SLOW_DOWN if fault == "throttle" else INTERNAL, [])
                return
            if fault == "stall":
                time.sleep(server.stall_s)
            if fault in ("drop", "stall"):
                self.close_connection = True
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            if server.ignore_conditions:
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
            upstream_connection = http.client.HTTPConnection(*upstream, timeout=30)
            upstream_connection.request(self.command, self.path, body, headers)
            answer = upstream_connection.getresponse()
            data = answer.read()
            upstream_connection.close()
            if fault == "drop_answer":
                self.close_connection = True
                return
            self._answer(answer.status, data, answer.getheaders())

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return body

        def _answer(self, status: int, data: bytes, headers: list[tuple[str, str]]) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                server.sent += len(data)
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815  http.server's names

        def log_message(self, *_arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the session; AWS variables point to it."""
    with serve() as server:
        yield server


@contextmanager
def serve() -> Iterator[S3Server]:
    """Run the server and its proxy; AWS variables point to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    server = S3Server("")
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server, moto.get_host_and_port(), threading.Lock()))
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    server.endpoint = f"http://127.0.0.1:{proxy.server_port}"
    urllib.request.urlopen(f"{server.endpoint}/moto-api/data.json", timeout=300).read()  # it loads what it needs now
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    proxy.shutdown()
    proxy.server_close()
    moto.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A fresh bucket, no faults yet, and a client that gives up waiting after a second."""
    from acoustic_env.io import filesystem, retry

    s3_server.reset()
    filesystem.remote_filesystem.cache_clear()
    filesystem.remote_filesystem(f"s3://{s3_server.bucket}").filesystem.mkdir(s3_server.bucket)
    filesystem.remote_filesystem.cache_clear()
    monkeypatch.setattr(filesystem, "READ_TIMEOUT_S", 1)
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.02)
    return s3_server
