"""The web application and the server that runs it on this machine."""

from __future__ import annotations

import socket
import threading
from typing import Final, Self

import uvicorn
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException

from acoustic_env import __version__
from acoustic_env.errors import UsageError
from acoustic_env.web import problems
from acoustic_env.web.access import Access, AccessMiddleware, SameOrigin
from acoustic_env.web.metrics import Metrics, MetricsMiddleware

GRACE_S: Final = 2.0


def create_app(access: SameOrigin, *pages: APIRouter, metrics: Metrics | None = None) -> FastAPI:
    """Return the application with the routes of the given pages, for those who have access."""
    # No tracing: a span would hold the query of the first address, and so the token.
    app = FastAPI(
        title="acoustic-env", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        telemetry={"tracing": False},
    )  # fmt: skip
    for page in pages:
        app.include_router(page)
    app.add_exception_handler(HTTPException, problems.answer)
    app.add_middleware(AccessMiddleware, access=access)
    if metrics is not None:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is a free one.

    Raises:
        UsageError: the address is in use or not one of this machine.

    >>> with listen("127.0.0.1", 0) as bound:
    ...     bound.getsockname()[0]
    '127.0.0.1'
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--host {host} --port {port}: {error}; choose another port, or 0 for a free one") from error


class Server:
    """Serve pages at one address until `shutdown`.

    Args:
        host: address to listen at.
        port: 0 for a free one.
        pages, metrics: as for `create_app`.
        access: who may use them; by default those who have the token.

    Raises:
        UsageError: the address is in use or not one of this machine.
    """

    def __init__(
        self, host: str, port: int, *pages: APIRouter, access: type[SameOrigin] = Access, metrics: Metrics | None = None
    ) -> None:
        self._socket = listen(host, port)
        address, port = self._socket.getsockname()[:2]
        self.access = access(host, address, port)
        app = create_app(self.access, *pages, metrics=metrics)
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
        config.server_header = False
        self._server = uvicorn.Server(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def serve(self) -> None:
        """Answer requests until `shutdown`, or until this thread is interrupted.

        Requests in progress have `GRACE_S` to end: the server's threads are daemons, as a clip may take long to fetch.
        """
        done = threading.Event()  # Thread.join would take an interrupted wait for the thread's end

        def run() -> None:
            try:
                self._server.run([self._socket])
            finally:
                done.set()

        threading.Thread(target=run, daemon=True).start()
        try:
            while not done.wait(0.1) and not self._server.should_exit:
                pass
        finally:
            self.shutdown()
            done.wait(GRACE_S)

    def shutdown(self) -> None:
        """End `serve`."""
        self._server.should_exit = True
