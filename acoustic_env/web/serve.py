"""The classification page and its API on Ray Serve.

The deployment `Pages` is the application of `acoustic-env serve`; it decodes, and sends windows to the deployment
`Model`, whose replicas hold the classifier and compute windows of several requests together. A window whose replica
dies is sent to another one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, Self

import tenacity
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from acoustic_env.audio.decode import Mono
from acoustic_env.config import from_mapping
from acoustic_env.errors import AcousticEnvError, ClipError, UsageError
from acoustic_env.io.location import local_path
from acoustic_env.models.predictor import Prediction, Predictor, Window, cut_windows
from acoustic_env.options import RayServeSettings
from acoustic_env.pipeline.cluster import cluster, cluster_resources
from acoustic_env.web.access import SameOrigin
from acoustic_env.web.app import create_app
from acoustic_env.web.classify import PREDICT, STREAM, Classification, classification_page
from acoustic_env.web.metrics import Metrics

APP: Final = "acoustic-env"
MODEL: Final = "Model"
ATTEMPTS: Final = 4  # for a window, which may itself be what kills its replica
ANSWER_S: Final = 300.0  # for a window, the start of a new replica included
_REFUSALS: Final = 64  # requests that a replica of the pages takes beyond those it admits, to refuse them itself
_LOG: Final = logging.getLogger(__name__)


class Model:
    """A replica of the classifier."""

    def __init__(self, settings: RayServeSettings) -> None:
        self._predictor = Predictor.load(settings.bundle, window_s=settings.window_s)

        @serve.batch(max_batch_size=settings.batch, batch_wait_timeout_s=settings.batch_wait_ms / 1e3)
        async def batched(windows: list[Window]) -> list[Prediction | ClipError]:
            return await asyncio.to_thread(self._predict, windows)

        self._batched = batched

    async def predict(self, window: Window) -> Prediction | ClipError:
        """Return the answer for a window; an error as a value, so that it is this window's alone."""
        answer: Prediction | ClipError = await self._batched(window)
        return answer

    def _predict(self, windows: Sequence[Window]) -> list[Prediction | ClipError]:
        try:
            return [*self._predictor.predict_clips(windows)]
        except Exception as error:  # noqa: BLE001  of one window: the others of the batch have their answers
            if len(windows) > 1:
                return [answer for window in windows for answer in self._predict([window])]
            _LOG.error("a window could not be classified", exc_info=error)
            return [ClipError("compute_failed", "the recording could not be classified")]

    async def pool(self, windows: Sequence[Prediction]) -> Prediction:
        """Return the answer for a whole recording."""
        return self._predictor.pool(windows)


class RemotePredictor:
    """A `Predictor` whose windows are computed by replicas, known by their handle."""

    def __init__(self, model: DeploymentHandle[Any], classes: Sequence[str], window_s: float) -> None:
        self._model, self.classes, self.window_s = model, classes, window_s

    def predict_windows(self, waveform: Mono, /, *, sample_rate: int) -> Iterator[Prediction]:
        """Predict as `Predictor.predict_windows`: the same windows, the same numbers."""
        for windows in cut_windows(waveform, sample_rate, self.window_s):
            sent = [self._model.predict.remote(window) for window in windows]
            for window, response in zip(windows, sent, strict=True):
                answer = _result(response, self._model.predict, window)
                if isinstance(answer, ClipError):
                    raise answer
                yield answer

    def pool(self, windows: Sequence[Prediction], /) -> Prediction:
        """Return the answer for a whole recording."""
        found: Prediction = _result(self._model.pool.remote(windows), self._model.pool, windows)
        return found


def _result(response: Any, method: DeploymentHandle[Any], argument: object) -> Any:
    """Return a replica's answer; another one's where that replica died."""
    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RayActorError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(0.05, max=1),
        reraise=True,
    ):
        with attempt:
            if attempt.retry_state.attempt_number > 1:
                response = method.remote(argument)
            return response.result(timeout_s=ANSWER_S)
    raise AssertionError  # the last attempt has raised


def application(arguments: Mapping[str, Any]) -> serve.Application:
    """Return the application: the import path of a Serve config is `acoustic_env.web.serve:application`.

    Args:
        arguments: fields of `RayServeSettings`.

    Raises:
        UsageError: wrong settings, no bundle there, one that this installation cannot use, or its weights are missing.
    """
    settings = from_mapping(RayServeSettings, arguments, "args of the Serve application")
    folder = local_path(settings.bundle)
    if folder is not None:  # replicas have other working directories
        settings = settings.replace(bundle=str(folder.absolute()))
    predictor = Predictor.load(settings.bundle, window_s=settings.window_s)
    one = {"num_cpus": 1}
    model = serve.deployment(
        name=MODEL, num_replicas=settings.replicas, max_ongoing_requests=2 * settings.batch, ray_actor_options=one
    )(Model)
    pages = serve.deployment(
        name="Pages", num_replicas=settings.page_replicas, ray_actor_options=one,
        max_ongoing_requests=settings.concurrency + settings.waiting + _REFUSALS,
    )(serve.ingress(_pages(settings, predictor.classes, predictor.window_s))())  # fmt: skip
    return pages.bind(model.bind(settings))


def _pages(settings: RayServeSettings, classes: Sequence[str], window_s: float) -> Callable[[], FastAPI]:
    """Return what builds the web application in its replica."""

    def build() -> FastAPI:
        model = serve.get_deployment_handle(MODEL, serve.get_replica_context().app_name)
        metrics = Metrics(PREDICT, STREAM)
        service = Classification(RemotePredictor(model, classes, window_s), settings, metrics)
        return create_app(_access(settings), classification_page(service), metrics=metrics)

    return build


def _access(settings: RayServeSettings) -> SameOrigin:
    address = "127.0.0.1" if settings.host == "localhost" else settings.host
    try:
        ipaddress.ip_address(address)
    except ValueError:  # a name that leads to the nodes
        address = "0.0.0.0"
    return SameOrigin(settings.host, address, settings.port)


def _reason() -> str:
    """Return what the deployments say, such as the error that ended a replica as it started."""
    deployments = serve.status().applications[APP].deployments.values()
    return "; ".join(found.message.strip() for found in deployments if found.message)


class RayServer:
    """The application on a Ray cluster, until the end of the block.

    Args:
        settings: of the application.
        address: of a cluster to join; None takes RAY_ADDRESS (set by `ray job submit`), else starts a local one.

    Raises:
        UsageError: the cluster has too few CPUs, or as for `application`.
        AcousticEnvError: the application does not start.
    """

    def __init__(self, settings: RayServeSettings, address: str | None = None) -> None:
        self.access = _access(settings)
        self._ended = threading.Event()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        with ExitStack() as started:
            started.enter_context(cluster(address))
            offered = cluster_resources()
            needed = settings.replicas + settings.page_replicas
            if offered.cpus < needed:
                raise UsageError(
                    f"replicas={settings.replicas}, page_replicas={settings.page_replicas}: one CPU each, and the "
                    f"cluster has {offered.cpus:g}; take fewer, or add nodes"
                )
            if running := serve.status().applications:
                msg = f"Ray Serve runs {', '.join(running)} on this cluster; end it first: its job, or serve shutdown"
                raise UsageError(msg)
            deployed = application(settings.as_json())
            # One without applications may still listen at another port.
            serve.shutdown()  # type: ignore[no-untyped-call]
            serve.start(proxy_location="EveryNode", http_options={"host": settings.host, "port": settings.port})
            started.callback(serve.shutdown)
            try:
                serve.run(deployed, name=APP, logging_config={"log_level": "WARNING"})
            except RuntimeError as error:
                raise AcousticEnvError(f"the application does not start on Ray: {_reason() or error}") from error
            self._started = started.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def serve(self) -> None:
        """Wait until `shutdown`, or until this thread is interrupted."""
        self._ended.wait()

    def shutdown(self) -> None:
        """End `serve`."""
        self._ended.set()
