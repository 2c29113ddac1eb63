"""`acoustic-env audit listen`: the annotation page."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from acoustic_env.commands.arguments import add_command, add_paths, show, url
from acoustic_env.commands.serve import add_server, run_server


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "listen", listen, line="annotate a sample in the browser")
    add = parser.add_argument
    out = "Annotations to write, .parquet or .csv, and a journal."
    add("--out", type=url, metavar="FILE", help=out)
    add_server(parser)
    add("--annotator", metavar="NAME", help="Name proposed on the first visit.")
    add_paths(parser, "sample", "clips", out="annotations")


def listen(arguments: argparse.Namespace) -> None:
    """Serve a local web page that plays the clips of a sample and asks whether the label applies. It shows neither
    scores nor strata nor whether the label is a given one. Each annotator gets the clips in an order of their own;
    every answer is stored before the page goes on, and the same command resumes. Ctrl-C ends it.

    Only this machine can open the page. For annotators elsewhere forward the port (ssh -L 8765:127.0.0.1:8765 HOST) or
    give --host: the traffic is then not encrypted, and whoever has the address with its token can answer.

    Examples:
        acoustic-env audit listen --sample sample.parquet --clips clips.parquet --out annotations.parquet
        acoustic-env audit listen --sample sample.parquet --clips clips.parquet --out a.csv --port 8765 --annotator Ada
    """
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
        raise UsageError(f"--annotator: {error}") from error
    rows, sample_id = read_rows(read_table(arguments.sample), arguments.sample)
    clips = ClipCache(places(rows, read_clips(arguments.clips), arguments.clips))
    with Session(rows, sample_id, arguments.out) as session:
        try:
            with Server(arguments.host, arguments.port, annotation_page(session, clips, annotator)) as server:
                run_server(server, "annotation page", "no answer is lost", browser=arguments.open)
        finally:
            session.write_annotations()
        kept, annotators = session.kept(), session.annotators()
    document = {"out": arguments.out, "answers": kept, "annotators": annotators, "rows": len(rows)}
    by = f" by {', '.join(annotators)}" if annotators else ""
    resume = f"to resume: acoustic-env {shlex.join(_resume(arguments, server.access.port))}"
    show(arguments, document, f"{arguments.out}: {kept:,} answers{by} to {len(rows):,} rows", resume)


def _resume(arguments: argparse.Namespace, port: int) -> list[str]:
    """Return the command that goes on at the same port, so that open pages find the session again."""
    command = ["audit", "listen", "--sample", arguments.sample, "--clips", arguments.clips, "--out", arguments.out]
    if arguments.host != "127.0.0.1":
        command += ["--host", arguments.host]
    return [*command, "--port", str(port)]
