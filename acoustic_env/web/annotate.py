"""The annotation page: its files, the state of the session, and clips by their row number in the sample.

No request holds a path, and only the sample's clips can be reached. The page is told the label in question and nothing
else of a row: not its clip id, role, stratum, score, or whether the label is a given one.
"""

from __future__ import annotations

import json
import re
import sys
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response

from acoustic_env.audit.listen import InvalidAnswerError, Session, order_for
from acoustic_env.audit.listen_audio import ClipCache
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.web.pages import add_files

_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)")


async def _posted(request: Request) -> dict[str, Any]:
    try:
        entry = json.loads(await request.body())
    except ValueError as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "not JSON") from error
    if not isinstance(entry, dict):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "not a JSON object")
    return entry


def annotation_page(session: Session, clips: ClipCache, annotator: str | None = None) -> APIRouter:
    """Return the routes of the annotation page; `annotator` is a name proposed to the first visitor."""
    page = APIRouter()
    add_files(page, "annotate_page")

    @page.get("/api/session")
    def describe_session() -> dict[str, Any]:
        return {"sample": session.sample_id, "annotator": annotator, "annotators": session.annotators()}

    @page.get("/api/state")
    def describe_state(annotator: str = "") -> dict[str, Any]:
        try:
            name = session.known_as(annotator)
        except InvalidAnswerError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        given = {row: answer for (_, row), answer in session.counted(name).items()}
        rows = [
            {"row": row, "label": session.rows[row].label}
            | ({"answer": given[row].answer, "note": given[row].note} if row in given else {})
            for row in order_for(session.rows, session.sample_id, name)
        ]
        return {"annotator": name, "rows": rows, "answered": sorted(given, key=lambda row: given[row].time_utc)}

    @page.get("/api/rows/{row:int}")
    def describe_clip(row: int) -> dict[str, Any]:
        place = clips.wanted[_existing(row, session)]
        try:
            clip = clips[row]
        except ClipError as error:
            return {"error": error.message, "video": place.video, "length_s": place.length_s}
        return {"seconds": clip.seconds, "spectrogram": clip.spectrogram}

    @page.get("/audio/{row:int}", response_class=Response)
    def play(row: int, range_: Annotated[str, Header(alias="Range")] = "") -> Response:
        try:
            wav = clips[_existing(row, session)].wav
        except ClipError as error:
            raise HTTPException(HTTPStatus.NOT_FOUND, error.message) from error
        return _part(wav, range_)

    @page.post("/api/answers")
    def record(entry: Annotated[dict[str, Any], Depends(_posted)]) -> dict[str, Any]:
        try:
            answer = session.record(entry)
        except InvalidAnswerError as error:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
        except OSError as error:
            raise HTTPException(HTTPStatus.INSUFFICIENT_STORAGE, f"the answer could not be written: {error}") from error
        warning = None
        try:
            session.write_annotations()
        except UsageError as error:
            warning = f"the answer is in the journal; the table is not written: {error}"
            print(f"acoustic-env: {warning}", file=sys.stderr)  # noqa: T201
        counts = session.counted(answer.annotator).get((answer.annotator, answer.row))
        kept = {"answer": counts.answer, "note": counts.note} if counts else {"answer": None, "note": None}
        return {"row": answer.row, **kept, "warning": warning}

    return page


def _existing(row: int, session: Session) -> int:
    if row >= len(session.rows):
        raise HTTPException(HTTPStatus.NOT_FOUND, "no such row")
    return row


def _part(wav: bytes, wanted: str) -> Response:
    """Return the part of a file that a Range header asks for; the whole file where it asks for none."""
    headers = {"Accept-Ranges": "bytes"}
    found = _RANGE.fullmatch(wanted.replace(" ", ""))
    if found is None or found.group() == "bytes=-":
        return Response(wav, media_type="audio/wav", headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(0, len(wav) - int(last))
    stop = min(int(last) + 1, len(wav)) if first and last else len(wav)
    if start >= stop:
        headers["Content-Range"] = f"bytes */{len(wav)}"
        return Response(b"", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers, "audio/wav")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(wav)}"
    return Response(wav[start:stop], HTTPStatus.PARTIAL_CONTENT, headers, "audio/wav")
