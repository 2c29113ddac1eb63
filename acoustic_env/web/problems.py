"""Errors over HTTP: problem details as JSON (RFC 9457), with the code of the errors table where a clip is at fault."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from acoustic_env.errors import ClipError, ErrorCode

_STATUS: Final[Mapping[ErrorCode, HTTPStatus]] = {
    "not_audio": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "compute_failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Problem(HTTPException):
    """A refused request: what is wrong, the remedy, and the code of the errors table where a recording is at fault."""

    def __init__(
        self, status: int, detail: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code

    @classmethod
    def of(cls, error: ClipError) -> Problem:
        """Return the problem of a recording that cannot be used.

        >>> Problem.of(ClipError("empty", "no samples")).as_json()
        {'type': 'about:blank', 'title': 'Unprocessable Entity', 'status': 422, 'detail': 'no samples', 'code': 'empty'}
        """
        status = _STATUS.get(error.code, HTTPStatus.UNPROCESSABLE_ENTITY)
        return cls(int(status), error.message, error.code)

    def as_json(self) -> dict[str, Any]:
        """Return the members of the problem."""
        title = HTTPStatus(self.status_code).phrase
        found = {"type": "about:blank", "title": title, "status": self.status_code, "detail": self.detail}
        return found | ({"code": self.code} if self.code else {})

    def response(self) -> Response:
        """Return the answer that says so."""
        return JSONResponse(self.as_json(), self.status_code, self.headers, "application/problem+json")


async def answer(_request: Request, error: Exception) -> Response:
    """Answer an `HTTPException` as a problem (an exception handler)."""
    assert isinstance(error, HTTPException)
    if not isinstance(error, Problem):
        error = Problem(error.status_code, str(error.detail), None, error.headers)
    return error.response()
