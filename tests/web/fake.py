"""A predictor that tells low from high tones, and a running server of it."""

from __future__ import annotations

import http.client
import io
import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from acoustic_env.errors import ClipError
from acoustic_env.options import ServeSettings
from acoustic_env.web.access import SameOrigin
from acoustic_env.web.app import Server
from acoustic_env.web.classify import PREDICT, STREAM, Classification, classification_page
from acoustic_env.web.metrics import Metrics
from tests.sounds import Sound

LOW, HIGH = "low <b>tone</b>", "high tone"


@dataclass(frozen=True)
class FakeWindow:
    """An answer for a window."""

    start_s: float
    end_s: float
    posterior: dict[str, float]
    unlike: bool | None


@dataclass(frozen=True)
class FakePrediction:
    """An answer for a recording."""

    posterior: dict[str, float]
    unlike: bool | None


class FakePredictor:
    """High is the share of power above 1 kHz; a window near silence is unlike the training clips."""

    classes = (LOW, HIGH)
    window_s = 1.0

    def predict_windows(self, waveform: Sound, *, sample_rate: int) -> list[FakeWindow]:
        if len(waveform) < 0.1 * sample_rate:
            raise ClipError("too_short", "shorter than 0.1 s")
        starts = range(0, len(waveform), sample_rate)
        return [self._answer(waveform[s : s + sample_rate], s / sample_rate, sample_rate) for s in starts]

    def _answer(self, window: Sound, start_s: float, rate: int) -> FakeWindow:
        power = np.abs(np.fft.rfft(window)) ** 2
        high = float(power[np.fft.rfftfreq(len(window), 1 / rate) > 1000].sum() / max(power.sum(), 1e-12))
        unlike = bool(np.abs(window).max() < 1e-3)
        return FakeWindow(start_s, start_s + len(window) / rate, {LOW: 1 - high, HIGH: high}, unlike)

    def pool(self, windows: Sequence[FakeWindow]) -> FakePrediction:
        means = {name: float(np.mean([w.posterior[name] for w in windows])) for name in self.classes}
        return FakePrediction(means, all(window.unlike for window in windows))


@dataclass
class Client:
    """A program that uses the API."""

    server: Server
    service: Classification
    timeout_s: float = 30.0

    def request(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            return self._request(path, body, headers)
        except ConnectionError:  # a refusal with the body unread may end in a reset before it is read
            return self._request(path, body, headers)

    def _request(
        self, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.access.port, timeout=self.timeout_s)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET" if body is None else "POST", path, body, sent)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def upload(self, file: bytes, path: str = PREDICT, **headers: str) -> tuple[int, Any]:
        """Status and JSON of the answer."""
        body, kind = form(file)
        status, got, data = self.request(path, body, Content_Type=kind, **headers)
        if status != 200:
            assert got["Content-Type"] == "application/problem+json", data
        return status, json.loads(data)

    def begin_upload(self) -> http.client.HTTPConnection:
        """Begin an upload in chunks that the caller sends, and may never end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.access.port, timeout=self.timeout_s)
        head, kind = form(b"")
        connection.putrequest("POST", PREDICT)
        connection.putheader("Content-Type", kind)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        head = head.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        connection.send(b"%x\r\n%s\r\n" % (len(head), head))
        return connection

    def stream(self, file: bytes) -> list[Any]:
        """Lines of the streamed answer."""
        body, kind = form(file)
        status, _, data = self.request(STREAM, body, Content_Type=kind)
        assert status == 200, data
        return [json.loads(line) for line in data.splitlines()]


def form(file: bytes, field: str = "file") -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'
    return head.encode() + file + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def wav(sound: Any, rate: int = 16_000, kind: str = "WAV") -> bytes:
    """A file of a sound."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=kind)
    return buffer.getvalue()


@contextmanager
def serving(predictor: Any = None, **settings: Any) -> Iterator[Client]:
    """A running server with other limits than the defaults."""
    metrics = Metrics(PREDICT, STREAM)
    with Classification(predictor or FakePredictor(), ServeSettings(**settings), metrics) as service:
        page = classification_page(service)
        with Server("127.0.0.1", 0, page, access=SameOrigin, metrics=metrics) as server:
            thread = threading.Thread(target=server.serve)
            thread.start()
            try:
                yield Client(server, service)
            finally:
                server.shutdown()
                thread.join()
