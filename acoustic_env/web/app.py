"""The web application and the server that runs it on this machine."""

from __future__ import annotations

import socket
import threading
from typing import Final, Self

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from acoustic_env.errors import UsageError
from acoustic_env.web.access import Access, AccessMiddleware

GRACE_S: Final = 2.0


def create_app(access: Access, *pages: APIRouter) -> FastAPI:
    """Return the application with the given pages, for those who have the token.

    Args:
        access: who may use it.
        pages: routes of each page, such as `annotate.annotation_page`.
    """
    # No tracing: a span would hold the query of the first address, and so the token.
    app = FastAPI(title="acoustic-env", openapi_url=None, redirect_slashes=False, telemetry={"tracing": False})
    for page in pages:
        app.include_router(page)
    app.add_exception_handler(HTTPException, _describe)
    app.add_middleware(AccessMiddleware, access=access)
    return app


async def _describe(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Server:
    """Serve pages at one address until `shutdown`.

    Args:
        host: address to listen at.
        port: 0 for a free one.
        pages: as for `create_app`.

    Raises:
        UsageError: the address is in use or not one of this machine.
    """

    def __init__(self, host: str, port: int, *pages: APIRouter) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            msg = f"--host {host} --port {port}: {error}; choose another port, or 0 for a free one"
            raise UsageError(msg) from error
        address, port = self._socket.getsockname()[:2]
        self.access = Access(host, address, port)
        app = create_app(self.access, *pages)
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
        thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not self._server.should_exit:
                thread.join(0.1)
        finally:
            self.shutdown()
            thread.join(GRACE_S)

    def shutdown(self) -> None:
        """End `serve`."""
        self._server.should_exit = True
