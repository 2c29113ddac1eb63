"""`acoustic-env audit listen`: the listening page."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from types import FrameType
from typing import Any, Final

from acoustic_env.commands.arguments import RenamedOption, url
from acoustic_env.commands.audit_form import add_command

LISTEN: Final = """\
A local web page that plays the clips of a sample and asks whether the label applies. It hides scores, strata and
whether the label is a given one. Each annotator hears the clips in an order of their own; every answer is kept for
good before the page goes on, and the same command resumes. Ctrl-C ends it.

Only this machine can open the page. For annotators elsewhere forward the port (ssh -L 8765:127.0.0.1:8765 HOST) or
give --host: the traffic is then not encrypted, and whoever has the address with its token can answer."""

EXAMPLES: Final = """\
  acoustic-env audit listen --sample sample.parquet --clips clips.parquet --out annotations.parquet
  acoustic-env audit listen --sample sample.parquet --clips clips.parquet --out v.csv --port 8765 --annotator Ada"""


def add_parser(commands: Any) -> None:
    """The `listen` command."""
    parser = add_command(commands, "listen", "listen to a sample in the browser", LISTEN, EXAMPLES, listen)
    parser.add_argument("--sample", type=url, required=True, metavar="FILE", help="sample of `audit sample`")
    parser.add_argument("--clips", type=url, required=True, metavar="LIST", help="clip list the sample was drawn from")
    parser.add_argument(
        "--out", type=url, required=True, metavar="FILE", help="annotations, .parquet or .csv; a journal beside it"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port (a free one)")
    parser.add_argument("--annotator", metavar="NAME", help="name proposed on the first visit")
    parser.add_argument("--listener", action=RenamedOption, const="--annotator")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")


def listen(arguments: argparse.Namespace) -> int:
    """Serve the listening page until interrupted; see LISTEN."""
    from acoustic_env.audit.listen import InvalidAnswerError, Session, clean_name, read_rows
    from acoustic_env.audit.listen_audio import ClipCache, places
    from acoustic_env.audit.table import read_table
    from acoustic_env.clips.table import read_clips
    from acoustic_env.errors import UsageError
    from acoustic_env.web.annotate import annotation_page
    from acoustic_env.web.app import Server

    try:
        annotator = clean_name(arguments.annotator) if arguments.annotator is not None else None
    except InvalidAnswerError as error:
        msg = f"--annotator: {error}"
        raise UsageError(msg) from error
    rows, sample_id = read_rows(read_table(arguments.sample), arguments.sample)
    wanted = places(rows, read_clips(arguments.clips), arguments.clips)
    with Session(rows, sample_id, arguments.out) as session:
        try:
            page = annotation_page(session, ClipCache(wanted), annotator)
            with Server(arguments.host, arguments.port, page) as server:
                _serve(server, arguments)
                port = server.access.port
        finally:
            session.write_annotations()
        kept, annotators = session.kept(), session.annotators()
    if arguments.json:
        print(json.dumps({"out": arguments.out, "answers": kept, "annotators": annotators, "rows": len(rows)}))
        return 0
    by = f" by {', '.join(annotators)}" if annotators else ""
    print(f"{arguments.out}: {kept:,} answers{by} to {len(rows):,} rows")
    print(f"to go on: acoustic-env {shlex.join(_resume(arguments, port))}")
    return 0


def _serve(server: Any, arguments: argparse.Namespace) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    print(f"listening page: {server.access.url}\nCtrl-C ends it; no answer is lost", file=sys.stderr, flush=True)
    if not server.access.loopback:
        print(f"{arguments.host} can be reached from other machines, unencrypted", file=sys.stderr, flush=True)
    if arguments.open:
        import webbrowser

        webbrowser.open(server.access.url)
    # SIGINT, too: a script's background jobs are started with it ignored.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resume(arguments: argparse.Namespace, port: int) -> list[str]:
    """The command that goes on at the same port, so that open pages find the session again."""
    command = ["audit", "listen", "--sample", arguments.sample, "--clips", arguments.clips, "--out", arguments.out]
    if arguments.host != "127.0.0.1":
        command += ["--host", arguments.host]
    return [*command, "--port", str(port)]
