"""`acoustic-env serve`: the classification page and its HTTP API; and how any page of the package is served."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from acoustic_env.commands.arguments import add_command, add_paths, check_inputs, log
from acoustic_env.config import from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.options import RayServeSettings, ReplicaSettings, ServeSettings

if TYPE_CHECKING:
    from acoustic_env.web.app import Server
    from acoustic_env.web.serve import RayServer


def add_parsers(commands: Any) -> None:
    parser = add_command(commands, "serve", serve, json=False)
    add_server(parser)
    window = "Length of the windows in seconds. Default: that of the training clips."
    parser.add_argument("--window", type=float, metavar="S", help=window)
    limits, of_ray = (", ".join(kind.model_fields) for kind in (ServeSettings, ReplicaSettings))
    text = f"A limit ({limits}), or with --ray {of_ray}; docs/serve.md has them. May be repeated."
    parser.add_argument("--set", action="append", default=[], dest="values", metavar="NAME=VALUE", help=text)
    parser.add_argument("--ray", action="store_true", help="Serve from replicas on Ray Serve.")
    parser.add_argument("--address", metavar="ADDRESS", help="Ray cluster to join, with --ray.")
    add_paths(parser, "bundle")


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that serves a page."""
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="Address to serve. Default: %(default)s.")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="Port. Default: 0, a free one.")
    parser.add_argument("--open", action="store_true", help="Open the page in this machine's browser.")


def serve(arguments: argparse.Namespace) -> None:
    """Serve a page that classifies what the microphone hears or a file that is dropped on it, and an HTTP API. A
    recording is answered window by window as soon as each is known, then as a whole. No recording is kept. Ctrl-C ends
    it.

      POST /api/v1/predict         a multipart form with the recording as `file` (wav, flac, ogg, mp3, m4a, webm)
      POST /api/v1/predict/stream  the same, a JSON line for each window as soon as it is known
      GET  /api/v1/model, /healthz, /metrics, /openapi.json

    Only this machine can use it. With another --host, whoever reaches the port can, and the traffic is not encrypted.

    With --ray, the same application runs on Ray Serve (pip install 'acoustic-env[serve]'): on the cluster of --address
    or RAY_ADDRESS, else on this machine. Limits then count for each replica of the page.

    Examples:
        acoustic-env serve --bundle bundle
        acoustic-env serve --bundle bundle --port 8765 --set max_seconds=600 --set concurrency=4
        acoustic-env serve --bundle bundle --ray --set replicas=2 --port 8000
        curl -F file=@bark.ogg http://127.0.0.1:8765/api/v1/predict
    """
    values = _values(arguments.values)
    of_ray = {name: value for name, value in values.items() if name in ReplicaSettings.model_fields}
    if not arguments.ray and (arguments.address or of_ray):
        raise UsageError(f"--address, {', '.join(ReplicaSettings.model_fields)} are of Ray Serve: add --ray")
    limits = {name: value for name, value in values.items() if name not in of_ray}
    settings, replicas = from_mapping(ServeSettings, limits, "--set"), from_mapping(ReplicaSettings, of_ray, "--set")
    if arguments.window is not None and not 0.1 <= arguments.window <= settings.max_seconds:
        msg = f"--window {arguments.window:g}: expected 0.1 to max_seconds, {settings.max_seconds:g} seconds"
        raise UsageError(msg)
    check_inputs(bundle=arguments.bundle)
    with _on_ray(arguments, settings, replicas) if arguments.ray else _here(arguments, settings) as server:
        run_server(server, "classification page", "no recording is kept", browser=arguments.open)


def _values(texts: Sequence[str]) -> dict[str, Any]:
    """Return name -> value of settings given as NAME=VALUE."""
    values = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            values[name.strip()] = json.loads(value)
        except ValueError as error:
            raise UsageError(f"--set {text}: expected NAME=NUMBER, such as max_seconds=600") from error
    return values


@contextmanager
def _here(arguments: argparse.Namespace, settings: ServeSettings) -> Iterator[Server]:
    from acoustic_env.models.predictor import Predictor
    from acoustic_env.web.access import SameOrigin
    from acoustic_env.web.app import Server
    from acoustic_env.web.classify import PREDICT, STREAM, Classification, classification_page
    from acoustic_env.web.metrics import Metrics

    metrics = Metrics(PREDICT, STREAM)
    with Classification(Predictor.load(arguments.bundle, window_s=arguments.window), settings, metrics) as service:
        page = classification_page(service)
        with Server(arguments.host, arguments.port, page, access=SameOrigin, metrics=metrics) as server:
            yield server


def _on_ray(arguments: argparse.Namespace, settings: ServeSettings, replicas: ReplicaSettings) -> RayServer:
    try:
        from acoustic_env.web.serve import RayServer
    except ModuleNotFoundError as error:
        msg = f"--ray: Ray Serve is not installed ({error.name}): pip install 'acoustic-env[serve]'"
        raise UsageError(msg) from error
    from acoustic_env.web.app import listen

    with listen(arguments.host, arguments.port) as bound:
        port = bound.getsockname()[1]
    values = {"bundle": arguments.bundle, "window_s": arguments.window, "host": arguments.host, "port": port}
    whole = {**settings.as_json(), **replicas.as_json(), **values}
    return RayServer(from_mapping(RayServeSettings, whole, "options of serve"), arguments.address)


def run_server(server: Server | RayServer, page: str, end: str, *, browser: bool) -> None:
    """Serve a `page` until Ctrl-C; `end` says what that does to the user's data."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT, too: a script's background jobs are started with it ignored.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        access = server.access
        print(f"{page}: {access.url}\nCtrl-C ends it; {end}", file=sys.stderr, flush=True)  # with its token
        if not access.loopback:
            log(f"{access.host} can be reached from other machines, unencrypted")
        if browser:
            import webbrowser

            webbrowser.open(access.url)
        server.serve()
    except KeyboardInterrupt:
        log("")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
