"""`acoustic-env store`: list, verify, export, publish, compact and clean a feature store."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import names, url

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.schema import Described
    from acoustic_env.store.verify import Report

SHOWN_ERRORS: Final = 20

LS = """\
What a store holds: each version (fingerprint) of each block with its rows, clips, signals and size, what it was made
with, and where two versions of a block and signal differ. Then the last runs, and who may write now."""

VERIFY = """\
Prove from the parts alone that nothing was lost: every part can be read and is what its folder names, and no key is
in two parts with different values. With --clips every clip must be accounted for, for each block and signal, by id:

    clips on the list = clips with rows + clips with a permanent error + pending clips

and every id must mean one piece of audio: the source recorded for it (file, start, end) is the list's. Where no source
is recorded, in a store of an older version, the lists of its runs must agree, as far as they can be read.

Exit code 5 if not. Pending clips, rows of clips not on the list, equal duplicates (readers give them once) and
temporary files are reported; --strict lets them fail, too. --read decodes every column and checks page checksums."""

ERRORS = """\
What failed and has not been resolved since: counts by stage and code, then the clips. Permanent errors are final until
acoustic-env extract --retry-errors; the others are tried again by the next run."""

EXPORT = """\
A block as one file for other programs, rows in the order of clip and signal, the same file however the work was cut.
--wide gives a row for each clip with columns <signal>.<column>. In CSV and npz a null is an empty cell or NaN."""

PUBLISH = """\
A block as a table for other programs, each key once.

delta: a Delta table, which Spark, Polars, DuckDB and Databricks read. Published again, it gets the rows that it lacks,
in one commit. Rows of another version of the block are refused. Lists have no fixed length, and the column fingerprint
names the version of a row. Needs pip install 'acoustic-env[delta]'.

huggingface: a folder for the Hugging Face Hub: data/train-*.parquet and a card, README.md. Written anew each time."""

COMPACT = """\
Replace the many parts of each block by few large ones, sorted by clip, each key once. Readers may go on meanwhile: they
see the old parts until all new ones are written, read back and compared with the old ones, then the new ones alone. The
old files stay until acoustic-env store gc. Holds the lease of one block at a time; exit code 4 if another writer has
it. Killed at any point, the same command goes on. Needs room for a block's rows in the temporary folder (TMPDIR)."""

GC = """\
Remove what no reader sees and that is older than --older-than: parts that a compaction replaced, parts that a killed
compaction left, files set aside as unreadable, temporary files of killed writers (these after a day at least). Blocks
that another writer holds are left out and named."""

EXAMPLES: Final[Mapping[str, str]] = {
    "ls": "  acoustic-env store ls features\n  acoustic-env store ls s3://bucket/features --json",
    "verify": "  acoustic-env store verify features --clips clips.parquet\n"
    "  acoustic-env store verify s3://bucket/features --read --json",
    "errors": "  acoustic-env store errors features\n  acoustic-env store errors features --code not_audio --json",
    "export": "  acoustic-env store export features --block indices --wide --out indices.csv\n"
    "  acoustic-env store export features --block mps --signals raw --out mps.npz",
    "publish": "  acoustic-env store publish features --block mps --format delta --out s3://bucket/tables/mps\n"
    "  acoustic-env store publish features --block indices --format huggingface --license cc-by-4.0 --out dataset",
    "compact": "  acoustic-env store compact features\n  acoustic-env store compact s3://bucket/features --block mps",
    "gc": "  acoustic-env store gc features --dry-run\n  acoustic-env store gc s3://bucket/features --older-than 48",
}


def add_parsers(subparsers: Any) -> None:
    group = subparsers.add_parser("store")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    _add(commands, "ls", "what a store holds", LS, list_store)
    parser = _add(commands, "verify", "prove that nothing was lost", VERIFY, verify_store)
    parser.add_argument("--clips", type=url, metavar="LIST", help="Clip list (Parquet or CSV) to account for.")
    parser.add_argument(
        "--signals", type=names, metavar="raw,fg,bg", help="Signals that each clip should have. Default: those found."
    )
    parser.add_argument("--read", action="store_true", help="Decode every column of every part.")
    parser.add_argument("--strict", action="store_true", help="Fail on pending clips and other notes, too.")
    parser = _add(commands, "errors", "which clips failed, and why", ERRORS, list_errors)
    parser.add_argument("--code", metavar="CODE", help="Only this code (not_found, decode_failed, ...).")
    parser.add_argument("--stage", metavar="STAGE", help="Only this stage (fetch, decode, prepare, or a block).")
    parser.add_argument("--all", action="store_true", help="List every attempt, resolved ones included.")
    parser = _add(commands, "export", "a block as one file", EXPORT, export_block)
    parser.add_argument("--block", required=True, metavar="B", help="Block to export.")
    parser.add_argument(
        "--out", type=url, required=True, metavar="FILE", help=".parquet, .csv or .npz file, at any URL."
    )
    parser.add_argument(
        "--fingerprint", type=names, metavar="F[,F]", help="Version or its first digits. Default: the only one."
    )
    parser.add_argument("--signals", type=names, metavar="raw,fg,bg", help="Only these. Default: all.")
    parser.add_argument("--columns", type=names, metavar="C,C,...", help="Only these. Default: all.")
    parser.add_argument("--clips", type=url, metavar="LIST", help="Only clips of this list, with its columns.")
    parser.add_argument("--wide", action="store_true", help="Write one row per clip instead of per clip and signal.")
    parser = _add(commands, "publish", "a block as a Delta table or a Hugging Face data set", PUBLISH, publish_block)
    parser.add_argument("--block", required=True, metavar="B", help="Block to publish.")
    parser.add_argument("--format", required=True, choices=("delta", "huggingface"), help="Kind of the table.")
    parser.add_argument("--out", type=url, required=True, metavar="DIR", help="Folder of the table, at any URL.")
    parser.add_argument(
        "--fingerprint", type=names, metavar="F[,F]", help="Version or its first digits. Default: the only one."
    )
    parser.add_argument("--signals", type=names, metavar="raw,fg,bg", help="Only these. Default: all.")
    parser.add_argument(
        "--license", default="unknown", metavar="ID", help="License in the card, such as cc-by-4.0. Default: unknown."
    )
    parser = _add(commands, "compact", "few large parts, sorted by clip", COMPACT, compact_store)
    parser.add_argument("--block", type=names, metavar="B[,B]", help="Only these blocks. Default: all.")
    parser = _add(commands, "gc", "remove what a compaction replaced", GC, collect)
    parser.add_argument(
        "--older-than",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="Only files replaced or written at least so many hours ago, 0 or more. Readers that began before a "
        "compaction may take so long. Default: 24.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Print what would be removed.")


def _add(
    commands: Any, name: str, line: str, description: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=line,
        description=description,
        epilog=f"examples:\n{EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", type=url, metavar="URL", help="Feature store: a folder or s3://bucket/prefix.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    parser.set_defaults(run=run)
    return parser


def list_store(namespace: argparse.Namespace) -> int:
    from acoustic_env.store.lease import held_leases
    from acoustic_env.store.verify import verify

    store = _open(namespace.store)
    report = verify(store, sources=False)
    blocks = []
    for block in sorted({counts.block for counts in report.blocks}):
        versions = store.fingerprints(block)  # none where every clip of the last run failed
        for version in versions:
            rivals = [other for other in versions if set(store.signals(other)) & set(store.signals(version))]
            counts = next(b for b in report.blocks if (b.block, b.fingerprint) == (block, version.fingerprint))
            size = sum(entry.size for entry in store.parts(block, version.fingerprint))
            blocks.append(
                {
                    **{name: getattr(version, name) for name in ("block", "fingerprint", "version", "engine")},
                    **{name: getattr(counts, name) for name in ("rows", "clips", "signals", "parts")},
                    "bytes": size,
                    "made_with": dict(version.made_with),
                    "settings": version.settings(),
                    "differs": {name: version.settings().get(name, "") for name in _differing(rivals)},
                }
            )
    runs = store.runs()
    held = {block: lease.describe() for block, lease in held_leases(namespace.store).items()}
    if namespace.json:
        print(json.dumps({"store": store.url, "blocks": blocks, "runs": runs, "leases": held, "issues": report.issues}))
        return 0
    _print_blocks(store.url, blocks)
    _print_runs(runs)
    for block, holder in held.items():
        print(f"lease of {block}: {holder}")
    for issue in report.issues:
        print(f"issue: {issue}")
    return 0


def _differing(versions: Sequence[Described]) -> list[str]:
    """Settings in which the versions of a block are not all alike."""
    settings = [version.settings() for version in versions]
    names = sorted({name for found in settings for name in found})
    return [name for name in names if len({found.get(name) for found in settings}) > 1]


def _print_blocks(url: str, blocks: Sequence[Mapping[str, Any]]) -> None:
    if not blocks:
        print(f"{url}: no feature tables")
        return
    rows = [("block", "fingerprint", "engine", "rows", "clips", "signals", "parts", "size")]
    rows += [
        (
            b["block"], b["fingerprint"], f"{b['engine']} v{b['version']}", f"{b['rows']:,}", f"{b['clips']:,}",
            ",".join(b["signals"]), f"{b['parts']:,}", _size(b["bytes"]),
        )
        for b in blocks
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for b in blocks:
        if b["differs"]:
            print(f"{b['block']}/{b['fingerprint']} has " + ", ".join(f"{k} = {v}" for k, v in b["differs"].items()))
    for b in blocks:
        short = {name: text for name, text in b["made_with"].items() if len(text) <= 80}
        if short:
            print(f"{b['block']}/{b['fingerprint']} made with " + ", ".join(f"{k} {v}" for k, v in short.items()))


def _print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    for record in runs[-3:]:
        counts = ", ".join(f"{record[name]:,} {name}" for name in ("finished", "failed", "left") if name in record)
        print(f"run {record.get('run_id', '?')}: {counts} at {record.get('clips_per_second', 0.0):.2f} clips/s")


def verify_store(namespace: argparse.Namespace) -> int:
    from acoustic_env.clips.table import read_clips
    from acoustic_env.store.verify import verify

    clips = read_clips(namespace.clips) if namespace.clips else None
    report = verify(_open(namespace.store), clips, namespace.signals, namespace.read, namespace.clips or "")
    if namespace.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        _print_report(report)
    report.raise_if_inconsistent(namespace.strict)
    return 0


def _print_report(report: Report) -> None:
    from acoustic_env.store.source_check import describe_both

    for block in report.blocks:
        print(
            f"{block.block}/{block.fingerprint}: {block.rows:,} rows of {block.clips:,} clips "
            f"({', '.join(block.signals) or 'no signal'}) in {block.parts:,} parts"
        )
        for counts in block.counts:
            retried = f" ({counts.failed_before:,} failed before)" if counts.failed_before else ""
            print(
                f"  {counts.signal:<4} {report.listed:,} listed = {counts.rows:,} with rows + {counts.permanent:,} "
                f"permanent errors + {counts.pending:,} pending{retried}"
            )
    if not report.blocks:
        print("no feature tables, and no run recorded")
    for entry in report.other_sources:
        print(f"two sources: {entry['clip_id']}: {describe_both(entry)}")
    if report.without_source:
        print(f"{report.without_source:,} clips have rows but no recorded source; extract takes it from its list")
    for note in report.notes:
        print(f"note: {note}")
    if not report.issues:
        print(
            f"{report.store}: every clip is accounted for"
            if report.listed is not None
            else f"{report.store}: consistent"
        )


def list_errors(namespace: argparse.Namespace) -> int:
    import pyarrow.compute as pc

    from acoustic_env.store.failures import Failures, count_failures

    store = _open(namespace.store)
    errors = store.errors() if namespace.all else Failures(store).open()
    for column in ("code", "stage"):
        wanted = getattr(namespace, column)
        if wanted is not None:
            errors = errors.filter(pc.equal(errors[column], wanted))
    counts = count_failures(errors)
    if namespace.json:
        counted = [dataclasses.asdict(count) for count in counts]
        print(json.dumps({"store": store.url, "counts": counted, "errors": errors.to_pylist()}))
        return 0
    if not counts:
        print(f"{store.url}: no open errors")
        return 0
    for count in counts:
        kind = "permanent" if count.permanent == count.clips else f"{count.permanent:,} permanent"
        print(f"{count.stage:<10} {count.code:<16} {count.clips:>9,} clips  {kind}")
    shown = errors if namespace.all else errors.slice(0, SHOWN_ERRORS)
    for row in shown.to_pylist():
        print(f"{row['clip_id']}  {row['stage']}  {row['code']}  attempt {row['attempt']}: {row['message']}")
    if shown.num_rows < errors.num_rows:
        print(f"and {errors.num_rows - shown.num_rows:,} more; all of them: --json", file=sys.stderr)
    return 0


def export_block(namespace: argparse.Namespace) -> int:
    from acoustic_env.store.export import export
    from acoustic_env.store.source_check import read_clips_of

    store = _open(namespace.store)
    clips = read_clips_of(store, namespace.clips, partial(print, file=sys.stderr)) if namespace.clips else None
    rows = export(
        store,
        namespace.block,
        namespace.out,
        namespace.fingerprint or (),
        namespace.signals,
        namespace.columns,
        "wide" if namespace.wide else "long",
        clips,
    )
    print(json.dumps({"out": namespace.out, "rows": rows}) if namespace.json else f"{namespace.out}: {rows:,} rows")
    return 0


def publish_block(namespace: argparse.Namespace) -> int:
    from acoustic_env.store.publish import publish

    done = publish(
        _open(namespace.store),
        namespace.block,
        namespace.out,
        namespace.format,
        namespace.fingerprint or (),
        namespace.signals,
        namespace.license,
    )
    if namespace.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(f"{done.out}: {done.added:,} rows added, {done.rows:,} rows")
    return 0


def compact_store(namespace: argparse.Namespace) -> int:
    from acoustic_env.store.compact import compact

    done = []
    for version in compact(namespace.store, namespace.block or ()):
        done.append(dataclasses.asdict(version))
        if not namespace.json:
            repeated = f", {version.duplicates:,} repeated rows left out" if version.duplicates else ""
            print(
                f"{version.block}/{version.fingerprint}: {version.rows:,} rows, {version.before:,} parts -> "
                f"{version.parts:,}{repeated}"
            )
    if namespace.json:
        print(json.dumps({"store": namespace.store, "blocks": done}))
    elif not done:
        print(f"{namespace.store}: nothing to compact")
    return 0


def collect(namespace: argparse.Namespace) -> int:
    from acoustic_env.store.gc import collect_garbage

    found = collect_garbage(namespace.store, 3600.0 * namespace.older_than, dry_run=namespace.dry_run)
    size = sum(file.size for file in found.files)
    if namespace.json:
        print(json.dumps({"store": namespace.store, "bytes": size, **dataclasses.asdict(found)}))
        return 0
    for file in found.files:
        print(f"{file.path}: {file.reason}, {_size(file.size)}")
    for line in found.skipped:
        print(f"left out: {line}")
    done = "would be removed" if namespace.dry_run else "removed"
    print(f"{namespace.store}: {len(found.files):,} files ({_size(size)}) {done}")
    return 0


def _open(url: str) -> FeatureStore:
    from acoustic_env.store.feature_store import FeatureStore

    return FeatureStore.existing(url)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
