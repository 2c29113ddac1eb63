"""`acoustic-env demo`: the full pipeline on synthetic scenes, command by command."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from acoustic_env.commands.arguments import add_command, log, positive, url
from acoustic_env.errors import UsageError
from acoustic_env.io.files import files_below, read_if_there, write_bytes
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import join

MARKER = ".acoustic-env-demo"
FLIPPED = 0.1  # share of labels that are wrong on purpose
SEED = 23


def add_parsers(subparsers: Any) -> None:
    add = add_command(subparsers, "demo", run, json=False).add_argument
    add("--out", type=url, default="demo-out", metavar="DIR", help="Folder of all results. Default: %(default)s.")
    add("--num-clips", type=positive, default=240, metavar="N", help="Synthetic clips. Default: %(default)s.")


def run(namespace: argparse.Namespace) -> int:
    """Write synthetic urban and natural scenes, some with a wrong label on purpose, and run the full pipeline on them:
    check the list, extract features, verify the store, train, evaluate and explain a classifier, audit the labels,
    write the report. The scenes become a study, and each step is an ordinary command, printed before it runs, so that
    you can repeat it with your own clips.
    """
    from acoustic_env.clips.scenes import write_scenes

    started = time.monotonic()
    out = _fresh_folder(namespace.out)
    scenes = join(out, "scenes")
    log(f"writing {namespace.num_clips} synthetic scenes to {scenes} ({FLIPPED:.0%} of labels wrong)")
    write_scenes(scenes, namespace.num_clips, SEED, FLIPPED)
    for step in learning(out):
        if code := _step(step):
            return code
    log("\n(in place of people at `acoustic-env audit listen`: annotations of an annotator who knows the truth)")
    _listen(out)
    for step in auditing(out):
        if code := _step(step):
            return code
    log(f"\ndemo finished in {time.monotonic() - started:.0f} s; open {join(out, 'report.html')}")
    return 0


def learning(out: str) -> list[list[str]]:
    """Return the commands up to the sample for the annotators."""
    study = ["--study", out]
    return [
        ["init", join(out, "scenes", "clips.parquet"), out, "--recipe", "scenes"],
        ["clips", "check", join(out, "clips.parquet"), "--recipe", "scenes", "--read"],
        ["extract", *study],
        ["store", "verify", *study],
        ["train", *study],
        ["evaluate", *study],
        ["explain", *study],
        ["audit", "rank", *study],
        ["audit", "sample", *study, "--n", "60"],
    ]


def auditing(out: str) -> list[list[str]]:
    """Return the commands from the annotations to the report."""
    study = ["--study", out]
    return [
        ["audit", "estimate", *study],
        ["audit", "relabel", *study],
        ["report", *study, "--truth", join(out, "scenes", "truth.parquet")],
    ]


def _listen(out: str) -> None:
    """Answer every row of the sample from the scenes' truth."""
    import pyarrow as pa

    from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
    from acoustic_env.audit.table import read_table, write_table

    truth = read_table(join(out, "scenes", "truth.parquet"))
    labels = dict(zip(truth["clip_id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    rows = [
        {
            "clip_id": row["clip_id"],
            "label": row["label"],
            "annotator": "truth",
            "answer": "right" if labels[row["clip_id"]] == row["label"] else "wrong",
            "time_utc": row["order"],
            "role": row["role"],
        }
        for row in read_table(join(out, "audit", "sample.parquet")).to_pylist()
    ]
    write_table(pa.Table.from_pylist(rows, ANNOTATION_SCHEMA), join(out, "audit", "annotations.parquet"))


def _step(arguments: list[str]) -> int:
    from acoustic_env.cli import main

    log(f"\n$ acoustic-env {shlex.join(arguments)}")
    return main(arguments)


def _fresh_folder(out: str) -> str:
    """Empty the folder of an earlier demo, or make a new one; any other folder is an error."""
    there = files_below(out)
    if (there and MARKER not in there) or (there is None and read_if_there(out) is not None):
        raise UsageError(f"--out {out}: exists and is not the folder of an earlier demo; give another one")
    filesystem = open_filesystem(out)
    for path in there or ():
        filesystem.remove(path)
    write_bytes(join(out, MARKER), b"")
    return out
