"""Counts of requests in Prometheus' text format."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """What a server has done so far on the `measured` paths of its API; all others count as `other`."""

    def __init__(self, *measured: str) -> None:
        self._measured = frozenset(measured)
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("acoustic_env_requests", "Requests answered.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "acoustic_env_request_seconds", "Seconds to the end of an answer.", ("path",),
            buckets=_BUCKETS, registry=registry,
        )  # fmt: skip
        self.in_progress = Gauge("acoustic_env_requests_in_progress", "Requests in progress.", registry=registry)
        self.audio = Counter("acoustic_env_audio_seconds", "Seconds of audio classified.", registry=registry)

    def path(self, path: str) -> str:
        """Return the label of a path: a client cannot add labels."""
        return path if path in self._measured else "other"

    def text(self) -> bytes:
        """Return the text that Prometheus reads."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Count every request, the refused ones too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status = 500  # of an answer that never started

        async def send_counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        path, begun = self._metrics.path(scope["path"]), time.perf_counter()
        with self._metrics.in_progress.track_inprogress():
            try:
                await self._app(scope, receive, send_counted)
            finally:
                self._metrics.requests.labels(path, str(status)).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - begun)
