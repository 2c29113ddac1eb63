"""The classification page and its HTTP API: a recording is uploaded, its windows and the whole of it are classified."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http import HTTPStatus
from itertools import pairwise
from typing import Any, BinaryIO, Final, Protocol, Self

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from acoustic_env.audio.decode import Mono
from acoustic_env.audit.listen_audio import describe
from acoustic_env.errors import ClipError
from acoustic_env.models.predictor import LEAST, Prediction
from acoustic_env.options import ServeSettings
from acoustic_env.web.decoder import Decoder, TooLongError
from acoustic_env.web.metrics import Metrics
from acoustic_env.web.pages import add_files
from acoustic_env.web.problems import Problem

PREDICT: Final = "/api/v1/predict"
STREAM: Final = "/api/v1/predict/stream"
_CHUNK_S: Final = 10.0  # classified at a time, so that answers appear early and a client that left is noticed
_FRAMES_PER_S: Final = 20
_OVERHEAD: Final = 64 << 10  # of a multipart form around its file
_LOG: Final = logging.getLogger(__name__)


Item = dict[str, Any] | Problem
_FORM: Final = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
UPLOAD: Final = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}
_PROBLEM: Final = {"description": "Refused: problem details.", "content": {"application/problem+json": {}}}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = dict.fromkeys(
    (400, 403, 408, 413, 415, 421, 422, 429, 500, 503), _PROBLEM
)


class WindowAnswer(BaseModel):
    """The answer for one window."""

    start_s: float = Field(description="Start in seconds from the start of the recording.")
    end_s: float = Field(description="End in seconds.")
    posterior: dict[str, float] = Field(description="Calibrated probability by class, 0 to 1.")
    unlike: bool | None = Field(description="Whether it is unlike the training clips; null where that is not known.")


class RecordingAnswer(BaseModel):
    """The answer for the whole recording."""

    posterior: dict[str, float] = Field(description="Calibrated probability by class, 0 to 1.")
    unlike: bool | None = Field(description="Whether it is unlike the training clips; null where that is not known.")


class Answer(BaseModel):
    """The answer for a recording and its windows."""

    seconds: float = Field(description="Length in seconds.")
    recording: RecordingAnswer
    windows: list[WindowAnswer]


class WindowPredictor(Protocol):
    """What answers for waveforms: a `Predictor` of this process, or replicas elsewhere that hold one."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""

    @property
    def window_s(self) -> float:
        """Length of a window, s."""

    def predict_windows(self, waveform: Mono, /, *, sample_rate: int) -> Iterable[Prediction]:
        """Predict a waveform window by window, as `Predictor.predict_windows`."""

    def pool(self, windows: Sequence[Prediction], /) -> Prediction:
        """Return the answer for a whole recording, as `Predictor.pool`."""


class Classification:
    """Classifies uploads: a bounded number at a time, each in a thread with a decoding process."""

    def __init__(self, predictor: WindowPredictor, settings: ServeSettings, metrics: Metrics) -> None:
        self.predictor, self.settings, self.metrics = predictor, settings, metrics
        self._decoder = Decoder(settings, predictor.window_s)
        self._threads = ThreadPoolExecutor(settings.concurrency, "classify")
        self._closing = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._admitted = 0
        self._minute, self._counts = 0, Counter[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)
        self._decoder.close()

    async def start(self, request: Request, *, pictures: bool) -> AsyncIterator[Item]:
        """Receive an upload and return its answers as they arrive, the recording's last.

        Args:
            request: with a multipart form.
            pictures: whether windows come with their spectrograms.

        Raises:
            Problem: it is refused, or nothing of it can be classified; a later one is the last item.
        """
        self._admit(request.client.host if request.client else "")
        self._admitted += 1
        try:
            upload = await _receive_file(request, self.settings)
        except BaseException:
            self._admitted -= 1
            raise
        items: asyncio.Queue[Item | None] = asyncio.Queue()
        gone = threading.Event()
        task = asyncio.create_task(self._run(upload, items, gone, pictures))
        self._tasks.add(task)  # the loop itself holds it weakly
        task.add_done_callback(self._tasks.discard)
        first = await items.get()
        if isinstance(first, Problem):
            raise first
        return _drain(first, items, gone)

    def _admit(self, client: str) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._counts = minute, Counter()
        self._counts[client] += 1
        if self._counts[client] > self.settings.per_minute:
            raise _unread(HTTPStatus.TOO_MANY_REQUESTS, f"at most {self.settings.per_minute} requests a minute", 60)
        if self._admitted >= self.settings.concurrency + self.settings.waiting:
            raise _unread(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests are waiting; try again", 2)

    async def _run(
        self, upload: UploadFile, items: asyncio.Queue[Item | None], gone: threading.Event, pictures: bool
    ) -> None:
        loop = asyncio.get_running_loop()

        def emit(item: Item) -> None:
            loop.call_soon_threadsafe(items.put_nowait, item)

        try:
            await loop.run_in_executor(self._threads, self._classify, upload.file, emit, gone, pictures)
        except Exception as error:  # noqa: BLE001  a program error must not end the server
            items.put_nowait(_problem_of(error, self.settings))
        finally:
            self._admitted -= 1
            await upload.close()
            items.put_nowait(None)

    def _classify(self, file: BinaryIO, emit: Callable[[Item], None], gone: threading.Event, pictures: bool) -> None:
        windows: list[Prediction] = []
        start = 0.0
        with closing(self._decoder.pieces(file, self._closing)) as pieces:
            for piece, rate in pieces:
                for first, chunk in _chunks(piece, rate, self.predictor.window_s):
                    if gone.is_set() or self._closing.is_set():
                        return
                    if windows and len(chunk) < LEAST * self.predictor.window_s * rate:
                        continue  # too little of a window, as at the end of any other recording
                    for found in self.predictor.predict_windows(chunk, sample_rate=rate):
                        own = chunk[round(found.start_s * rate) : round(found.end_s * rate)]
                        at = start + first / rate
                        window = replace(found, start_s=found.start_s + at, end_s=found.end_s + at)
                        windows.append(window)
                        times = {"start_s": window.start_s, "end_s": window.end_s}
                        picture = {"spectrogram": _picture(own, rate)} if pictures else {}
                        emit({**times, **_as_json(window), **picture})
                    self.metrics.audio.inc(len(chunk) / rate)
                start += len(piece) / rate
        emit({"seconds": start, "recording": _as_json(self.predictor.pool(windows))})


def classification_page(service: Classification) -> APIRouter:
    """Return the routes of the classification page and of its API."""
    page = APIRouter()
    add_files(page, "classify_page")

    @page.get("/api/v1/model", summary="What the classifier knows, and the limits of an upload")
    def describe_model() -> dict[str, Any]:
        return {
            "classes": list(service.predictor.classes),
            "window_s": service.predictor.window_s,
            "max_bytes": _largest(service.settings),
            "max_seconds": service.settings.max_seconds,
        }

    @page.post(PREDICT, summary="Classify a recording", response_model=Answer, openapi_extra=UPLOAD, responses=PROBLEMS)
    async def predict(request: Request) -> Any:
        windows: list[Item] = []
        async for item in await service.start(request, pictures=False):
            if isinstance(item, Problem):
                raise item
            if "recording" in item:
                return item | {"windows": windows}
            windows.append(item)
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the server is ending")

    @page.post(
        STREAM, summary="Classify a recording, a JSON line for each window as soon as it is known",
        response_class=StreamingResponse, openapi_extra=UPLOAD, responses=PROBLEMS,
    )  # fmt: skip
    async def predict_stream(request: Request) -> StreamingResponse:
        items = await service.start(request, pictures=True)
        return StreamingResponse(_lines(items), media_type="application/x-ndjson")

    @page.get("/healthz", summary="Whether the server answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @page.get("/metrics", summary="Counts for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return page


async def _lines(items: AsyncIterator[Item]) -> AsyncIterator[str]:
    async for item in items:
        line = {"problem": item.as_json()} if isinstance(item, Problem) else item
        yield json.dumps(line) + "\n"


async def _drain(first: Item | None, items: asyncio.Queue[Item | None], gone: threading.Event) -> AsyncIterator[Item]:
    try:
        item = first
        while item is not None:
            yield item
            item = await items.get()
    finally:
        gone.set()


def _as_json(found: Prediction) -> dict[str, Any]:
    return {"posterior": found.posterior, "unlike": found.unlike}


def _picture(waveform: Mono, rate: int) -> dict[str, Any]:
    return describe(waveform, rate, max(1, round(len(waveform) / rate * _FRAMES_PER_S)), relative=False)


def _chunks(waveform: Mono, rate: int, window_s: float) -> Iterator[tuple[int, Mono]]:
    """Yield start and samples of about ten seconds at a time, in whole windows; the last takes what is left."""
    samples = window_s * rate
    windows = max(1, round(len(waveform) // samples))
    step = max(1, int(_CHUNK_S // window_s))
    edges = [round(count * samples) for count in range(0, windows, step)] + [len(waveform)]
    for first, stop in pairwise(edges):
        yield first, waveform[first:stop]


def _problem_of(error: Exception, settings: ServeSettings) -> Problem:
    if isinstance(error, ClipError):
        return Problem.of(error)
    if isinstance(error, TooLongError):
        return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the recording is longer than {settings.max_seconds:g} s")
    _LOG.error("a recording could not be classified", exc_info=error)
    return Problem.of(ClipError("compute_failed", "the recording could not be classified"))


# ---- the upload


def _largest(settings: ServeSettings) -> int:
    return int(settings.max_megabytes * 10**6)


def _unread(status: HTTPStatus, detail: str, retry_s: int | None = None) -> Problem:
    """Return a problem that ends the connection, since the body is unread."""
    wait = {"Retry-After": str(retry_s)} if retry_s else {}
    return Problem(status, detail, headers={"Connection": "close", **wait})


def _too_large(settings: ServeSettings) -> Problem:
    return _unread(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"an upload has at most {_largest(settings):,} bytes")


async def _receive_file(request: Request, settings: ServeSettings) -> UploadFile:
    """Return the file of a multipart form.

    Raises:
        Problem: it is too large, too slow, or there is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise _unread(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected a multipart form with the recording as `file`")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > _largest(settings) + _OVERHEAD:
        raise _too_large(settings)
    limited = Request(request.scope, _counted(request.receive, settings))
    try:
        async with asyncio.timeout(settings.upload_seconds):
            form = await limited.form(max_files=1, max_fields=1)
    except TimeoutError as error:
        msg = f"the upload took longer than {settings.upload_seconds:g} s"
        raise _unread(HTTPStatus.REQUEST_TIMEOUT, msg) from error
    except ClientDisconnect as error:
        raise _unread(HTTPStatus.BAD_REQUEST, "the upload broke off") from error
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise Problem(HTTPStatus.BAD_REQUEST, "the form has no file named `file`")
    return file


def _counted(receive: Receive, settings: ServeSettings) -> Receive:
    left = _largest(settings) + _OVERHEAD

    async def receive_counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(settings)
        return message

    return receive_counted
