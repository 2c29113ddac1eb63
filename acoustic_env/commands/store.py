"""`acoustic-env store`: list, verify, export, compact and clean a feature store."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import add_command, add_paths, by_block, log, names, show, url
from acoustic_env.errors import AcousticEnvError, StoreInconsistentError, UsageError

if TYPE_CHECKING:
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.schema import Described
    from acoustic_env.store.verify import Report

SHOWN_ERRORS: Final = 20


def add_parsers(subparsers: Any) -> None:
    group = subparsers.add_parser("store")
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    _add(commands, "ls", list_store, "what a store holds")
    add = _add(commands, "verify", verify_store, "prove that nothing was lost")
    signals = "Signals that each clip should have. Default: those found."
    add("--signals", type=names, metavar="raw,fg,bg", help=signals)
    add("--read", action="store_true", help="Decode every column of every part.")
    add("--strict", action="store_true", help="Fail on pending clips and other notes, too.")
    add = _add(commands, "errors", list_errors, "which clips failed, and why")
    add("--code", metavar="CODE", help="Only this code (not_found, decode_failed, ...).")
    add("--block", metavar="B", help="Only errors of this block.")
    add("--all", action="store_true", help="List every attempt, resolved ones included.")
    add = _add(commands, "export", export_block, "a block as one file")
    add("--block", metavar="B", help="Block to export. Default: the only one.")
    add("--out", type=url, required=True, metavar="FILE", help="File that ends in .parquet, .csv or .npz, at any URL.")
    version = "Version of the block that the store has in several, or its first digits. May be given more than once."
    add("--fingerprint", action="append", default=[], metavar="BLOCK=F", help=version)
    add("--signals", type=names, metavar="raw,fg,bg", help="Only these. Default: all.")
    add("--columns", type=names, metavar="C,C,...", help="Only these, of the list and of the block. Default: all.")
    add("--wide", action="store_true", help="Write one row per clip instead of per clip and signal.")
    add = _add(commands, "compact", compact_store, "few large parts, sorted by clip")
    add("--blocks", type=names, metavar="B,B", help="Only these. Default: all.")
    add = _add(commands, "gc", collect, "remove what a compaction replaced")
    age = (
        "Only files replaced or written at least so many hours ago, 0 or more. Readers that began before a compaction "
        "may take so long. Default: 24."
    )
    add("--older-than", type=float, default=24.0, metavar="HOURS", help=age)
    add("--dry-run", action="store_true", help="Print what would be removed.")


def _add(commands: Any, name: str, run: Callable[[argparse.Namespace], None], line: str) -> Any:
    """Add a command on a store; return what adds its own options."""
    parser = add_command(commands, name, run, line=line)
    parser.add_argument("store", type=url, metavar="URL", help="Feature store: a folder or s3://bucket/prefix.")
    add_paths(parser, "store", *(["clips"] if name in ("verify", "export") else []), if_there={"clips": "store"})
    return parser.add_argument


def list_store(namespace: argparse.Namespace) -> None:
    """What a store holds, as its manifests name it: each version (fingerprint) of each block with its rows, signals,
    parts and size, what it was made with, and where two versions of a block and signal differ. Then the last runs, and
    who may write now. Reads no rows: acoustic-env store verify does.

    Examples:
        acoustic-env store ls features
        acoustic-env store ls s3://bucket/features --json
    """
    from acoustic_env.store.lease import held_leases

    store = _open(namespace.store)
    blocks, failure = [], None
    for block in store.blocks():
        try:
            versions = store.fingerprints(block)
        except AcousticEnvError as error:
            failure = error
            continue
        for version in versions:
            rivals = [other for other in versions if set(store.signals(other)) & set(store.signals(version))]
            parts = store.parts(block, version.fingerprint)
            blocks.append(
                {
                    **{name: getattr(version, name) for name in ("block", "fingerprint", "version", "engine")},
                    "rows": sum(part.rows for part in parts),
                    "parts": len(parts),
                    "bytes": sum(part.size for part in parts),
                    "signals": store.signals(version),
                    "made_with": dict(version.made_with),
                    "settings": version.settings(),
                    "differs": {name: version.settings().get(name, "") for name in _differing(rivals)},
                }
            )
    runs = store.runs()
    held = {block: lease.describe() for block, lease in held_leases(namespace.store).items()}
    document = {"store": store.url, "blocks": blocks, "runs": runs, "leases": held}
    leases = [f"lease of {block}: {holder}" for block, holder in held.items()]
    show(namespace, document, *_describe_blocks(store.url, blocks), *_describe_runs(runs), *leases)
    if failure is not None:
        raise failure


def _differing(versions: Sequence[Described]) -> list[str]:
    """Settings in which the versions of a block are not all alike."""
    settings = [version.settings() for version in versions]
    names = sorted({name for found in settings for name in found})
    return [name for name in names if len({found.get(name) for found in settings}) > 1]


def _describe_blocks(url: str, blocks: Sequence[Mapping[str, Any]]) -> list[str]:
    if not blocks:
        return [f"{url}: no feature tables"]
    rows = [("block", "fingerprint", "engine", "rows", "signals", "parts", "size")]
    rows += [
        (
            b["block"], b["fingerprint"], f"{b['engine']} v{b['version']}", f"{b['rows']:,}", ",".join(b["signals"]),
            f"{b['parts']:,}", _size(b["bytes"]),
        )
        for b in blocks
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for b in blocks:
        if b["differs"]:
            differs = ", ".join(f"{k} = {v}" for k, v in b["differs"].items())
            lines.append(f"{b['block']}/{b['fingerprint']} has {differs}")
    for b in blocks:
        short = {name: text for name, text in b["made_with"].items() if len(text) <= 80}
        if short:
            made = ", ".join(f"{k} {v}" for k, v in short.items())
            lines.append(f"{b['block']}/{b['fingerprint']} made with {made}")
    return lines


def _describe_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for record in runs[-3:]:
        counts = ", ".join(f"{record[name]:,} {name}" for name in ("finished", "failed", "left") if name in record)
        lines.append(f"run {record.get('run_id', '?')}: {counts} at {record.get('clips_per_second', 0.0):.2f} clips/s")
    return lines


def verify_store(namespace: argparse.Namespace) -> None:
    """Prove that nothing was lost: every part that a manifest names is there, can be read and is what its folder names,
    and no key is in two parts with different values. With --clips every clip must be accounted for, for each block and
    signal, by id:

        clips on the list = clips with rows + clips with a permanent error + pending clips

    and every id must mean one piece of audio: the source recorded for it (file, start, end) is the list's.

    Exit code 5 if not. Pending clips, rows of clips not on the list, equal duplicates (readers give them once), parts
    that no manifest names and temporary files are reported; --strict lets them fail, too. --read decodes every column.

    Examples:
        acoustic-env store verify features --clips clips.parquet
        acoustic-env store verify s3://bucket/features --read --json
    """
    from acoustic_env.clips.table import read_clips
    from acoustic_env.store.verify import verify

    clips = read_clips(namespace.clips) if namespace.clips else None
    report = verify(_open(namespace.store), clips, namespace.signals, namespace.read, namespace.clips or "")
    show(namespace, dataclasses.asdict(report), *_describe_report(report))
    report.raise_if_inconsistent(namespace.strict)


def _describe_report(report: Report) -> list[str]:
    from acoustic_env.store.verify import describe_both

    lines = []
    for block in report.blocks:
        lines.append(
            f"{block.block}/{block.fingerprint}: {block.rows:,} rows of {block.clips:,} clips "
            f"({', '.join(block.signals) or 'no signal'}) in {block.parts:,} parts"
        )
        for counts in block.counts:
            retried = f" ({counts.failed_before:,} failed before)" if counts.failed_before else ""
            lines.append(
                f"  {counts.signal:<4} {report.listed:,} listed = {counts.rows:,} with rows + {counts.permanent:,} "
                f"permanent errors + {counts.pending:,} pending{retried}"
            )
    if not report.blocks:
        lines.append("no feature tables, and no run recorded")
    lines += [f"two sources: {entry['clip_id']}: {describe_both(entry)}" for entry in report.other_sources]
    if report.without_source:
        lines.append(
            f"{report.without_source:,} clips have rows but no recorded source; extract takes it from its list"
        )
    lines += [f"note: {note}" for note in report.notes]
    if not report.issues:
        lines.append(f"{report.store}: {'consistent' if report.listed is None else 'every clip is accounted for'}")
    return lines


def list_errors(namespace: argparse.Namespace) -> None:
    """What failed and has not been resolved since: counts by block and code, then the clips. An error is of a clip's
    source (its bytes cannot be read or decoded), or of one block and signal of it. Permanent errors are final until
    acoustic-env extract --retry-errors; the others are tried again by the next run.

    Examples:
        acoustic-env store errors features
        acoustic-env store errors features --code not_audio --json
    """
    import pyarrow.compute as pc

    from acoustic_env.store.failures import Failures, count_failures

    store = _open(namespace.store)
    errors = store.errors() if namespace.all else Failures(store.errors()).open(store)
    for column in ("code", "block"):
        wanted = getattr(namespace, column)
        if wanted is not None:
            errors = errors.filter(pc.equal(errors[column], wanted))
    counts = count_failures(errors)
    asked = [f"{option} {text}" for option, text in (("--code", namespace.code), ("--block", namespace.block)) if text]
    lines = [] if counts else [" ".join([f"{store.url}: no {'' if namespace.all else 'open '}errors", *asked])]
    for count in counts:
        kind = "permanent" if count.permanent == count.clips else f"{count.permanent:,} permanent"
        lines.append(f"{count.block or 'source':<10} {count.code:<16} {count.clips:>9,} clips  {kind}")
    shown = errors if namespace.all or namespace.json else errors.slice(0, SHOWN_ERRORS)
    rows = shown.to_pylist()
    for row in rows:
        of = f"{row['block']} {row['signal']}" if row["block"] else "source"
        lines.append(f"{row['clip_id']}  {of}  {row['code']}  attempt {row['attempt']}: {row['message']}")
    counted = [dataclasses.asdict(count) for count in counts]
    show(namespace, {"store": store.url, "counts": counted, "errors": rows}, *lines)
    if shown.num_rows < errors.num_rows:
        log(f"and {errors.num_rows - shown.num_rows:,} more; all of them: --json")
    for part in store.unreadable.values():
        raise StoreInconsistentError(
            f"{store.filesystem.place(part.entry.path)}: {part.reason}, so errors or rows are lost; acoustic-env "
            "extract computes them again"
        )


def export_block(namespace: argparse.Namespace) -> None:
    """A block as one file for other programs, the same file however the work was cut: the keys of a row, what is known
    of its clip, its features. Without --clips these are all clips by id, with uri, start_s and end_s as the store has
    recorded them; with it the list's clips in its order, with its columns. --wide gives a row for each clip with
    columns <signal>.<column>. A column of the list that the block has too is list_<column>. The ending of --out says
    the format. In CSV and npz a null is an empty cell or NaN, and labels are comma-separated as in a clip list in CSV;
    ids are text, so read them as text.

    Examples:
        acoustic-env store export features --block indices --clips clips.parquet --wide --out indices.csv
        acoustic-env store export features --block mps --signals raw --out mps.npz
    """
    from acoustic_env.clips.table import check_output
    from acoustic_env.store.export import FORMATS, export
    from acoustic_env.store.sources import read_clips_of

    check_output(namespace.out, [namespace.clips] if namespace.clips else [], FORMATS)
    store = _open(namespace.store)
    blocks = [namespace.block] if namespace.block else [*store.blocks()]
    if len(blocks) != 1:
        raise UsageError(f"{store.url}: name one block with --block; there: {', '.join(blocks) or 'none'}")
    done = export(
        store,
        blocks[0],
        namespace.out,
        by_block(namespace.fingerprint).get(blocks[0], ()),
        namespace.signals,
        namespace.columns,
        "wide" if namespace.wide else "long",
        read_clips_of(store, namespace.clips, log) if namespace.clips else None,
    )
    for column, name in done.renamed.items():
        log(f"{namespace.clips}: its column {column} is {name} in {namespace.out}: the block has a column {column}")
    if done.without_rows:
        verify = f"acoustic-env store verify {shlex.quote(store.url)} --clips {shlex.quote(namespace.clips)}"
        log(f"{namespace.clips}: {done.without_rows:,} clips have no rows and are left out; {verify} says why")
    document = {"out": namespace.out, **dataclasses.asdict(done)}
    show(namespace, document, f"{namespace.out}: {done.rows:,} rows")


def compact_store(namespace: argparse.Namespace) -> None:
    """Merge small parts of each block into large ones, sorted by clip, each key once, and those of the errors table.
    Parts that are large beside what was added stay as they are. Readers may go on meanwhile: they see the old parts
    until all new ones are written and read back, then the new ones. The old files stay until acoustic-env store gc.
    Holds the lease of one block at a time; exit code 4 if another writer has it. Killed at any point, the same command
    does it again. Needs room for the rows that it merges in the temporary folder (TMPDIR).

    Examples:
        acoustic-env store compact features
        acoustic-env store compact s3://bucket/features --blocks mps
    """
    from acoustic_env.store.compact import compact

    done = []
    for version in compact(namespace.store, namespace.blocks or ()):
        done.append(dataclasses.asdict(version))
        if not namespace.json:
            repeated = f", {version.duplicates:,} repeated rows left out" if version.duplicates else ""
            print(
                f"{version.block}/{version.fingerprint}: {version.before:,} parts -> {version.parts:,}, "
                f"{version.rows:,} rows ({_size(version.read)}) merged{repeated}"
            )
    if namespace.json or not done:
        show(namespace, {"store": namespace.store, "blocks": done}, f"{namespace.store}: nothing to compact")


def collect(namespace: argparse.Namespace) -> None:
    """Remove what no reader sees and that is older than --older-than: parts and manifests that were replaced, parts
    that no manifest names, temporary files of killed writers (these after a day at least). Blocks that another writer
    holds are left out and named.

    Examples:
        acoustic-env store gc features --dry-run
        acoustic-env store gc s3://bucket/features --older-than 48
    """
    from acoustic_env.store.gc import collect_garbage

    found = collect_garbage(namespace.store, 3600.0 * namespace.older_than, dry_run=namespace.dry_run)
    size = sum(file.size for file in found.files)
    document = {"store": namespace.store, "bytes": size, **dataclasses.asdict(found)}
    done = "would be removed" if namespace.dry_run else "removed"
    lines = [f"{file.path}: {file.reason}, {_size(file.size)}" for file in found.files]
    lines += [f"left out: {line}" for line in found.skipped]
    show(namespace, document, *lines, f"{namespace.store}: {len(found.files):,} files ({_size(size)}) {done}")


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
