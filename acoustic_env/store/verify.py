"""Account for every clip: clip list = rows + permanent errors + pending, by id, for every block and signal.

Issues make a store inconsistent:

- a part that a manifest names and that is gone or damaged, or whose metadata or columns are not those of its folder;
  its rows do not count;
- a key that is in two parts with different values;
- an errors part that cannot be read, or a part of the table of sources;
- with a clip list: an id listed twice or with another source than the recorded one.

Notes are reported only, unless `strict`: a key in two parts with equal values (readers return it once), rows of clips
that are not on the list, parts that no manifest names, temporary files, pending clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.signals import SIGNALS
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.sources import SOURCE_COLUMNS, describe_source
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import TMP
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart
from acoustic_env.store.failures import Failures
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.parts import UnreadablePart
from acoustic_env.store.schema import KEY_SCHEMA, as_matrix, repeats, row_keys, sort_by_key
from acoustic_env.store.sources import Pair, compare, differing, load_with_rows

# Two computations of one clip may differ in the last digits (another batch size, another machine), not by more.
RELATIVE_TOLERANCE: Final = 1e-3
ABSOLUTE_TOLERANCE: Final = 1e-5
MAX_NAMED: Final = 10
MAX_PAIRS_NAMED: Final = 3
RECORDED_TWICE: Final = """  -- by a writer that lost its lease
WITH twice AS (
    SELECT *, rowid AS number FROM recorded
    WHERE clip_id IN (SELECT clip_id FROM recorded GROUP BY clip_id HAVING count(*) > 1)
)
SELECT one, other FROM twice AS one JOIN twice AS other USING (clip_id)
WHERE one.number < other.number
    AND NOT same_audio(one.uri, one.start_s, one.end_s, other.uri, other.start_s, other.end_s)
ORDER BY clip_id
"""


@dataclass
class SignalCounts:
    """The clip list's account for one signal of one version of a block; rows + permanent + pending = listed.

    Attributes:
        signal: which.
        rows: listed clips that have rows.
        permanent: listed clips without rows whose error is permanent.
        pending: the other listed clips.
        failed_before: pending clips with a recorded error that may pass.
        first_pending: ids of the first few pending clips.
    """

    signal: str
    rows: int
    permanent: int
    pending: int
    failed_before: int
    first_pending: list[str]


@dataclass
class BlockCounts:
    """One version of a block.

    Attributes:
        block, fingerprint: which.
        parts: readable ones.
        rows: in them, each key once.
        clips: with at least one row.
        signals: found.
        duplicates: keys that are in more than one part, with equal values.
        unlisted: clips with rows that are not on the list.
        counts: per signal, with a clip list.
    """

    block: str
    fingerprint: str
    parts: int = 0
    rows: int = 0
    clips: int = 0
    signals: list[str] = field(default_factory=list)
    duplicates: int = 0
    unlisted: int = 0
    counts: list[SignalCounts] = field(default_factory=list)


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        store: its URL.
        listed: clips on the list, None without one.
        blocks: each version of each block.
        issues: why the store is inconsistent, a line each.
        notes: what is reported only, a line each.
        without_source: clips with rows whose source is not recorded.
        other_sources: of each id with another source than recorded, or than another list says: clip_id and both
            `sources`, each with uri, start_s, end_s and its list (`list`; null: recorded in the store).
    """

    store: str
    listed: int | None
    blocks: list[BlockCounts] = field(default_factory=list)
    issues: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_source: int = 0
    other_sources: list[dict[str, Any]] = field(default_factory=list)

    def raise_if_inconsistent(self, strict: bool = False) -> None:
        """Raise unless every clip is accounted for.

        Args:
            strict: notes count as issues, pending clips included.

        Raises:
            StoreInconsistentError: some clip is not; lists why.
        """
        reasons = self.issues + (self.notes if strict else [])
        if reasons:
            lines = "\n".join(f"  {reason}" for reason in reasons[:MAX_NAMED])
            more = f"\n  and {len(reasons) - MAX_NAMED} more" if len(reasons) > MAX_NAMED else ""
            raise StoreInconsistentError(
                f"{self.store}: not every clip is accounted for:\n{lines}{more}\n"
                "acoustic-env extract with the same clip list computes again what is lost"
            )


def verify(
    store: FeatureStore,
    clips: pa.Table | None = None,
    signals: Sequence[str] | None = None,
    read_all: bool = False,
    clips_url: str = "the clip list",
) -> Report:
    """Go through every part of a store and, with a clip list, account for each clip of it.

    Args:
        store: the store.
        clips: clip list; without one the parts' own consistency is checked.
        signals: each clip should have; None for those a block has any row of (all, where it has none).
        read_all: decode every column; otherwise footers and keys are read.
        clips_url: where the clip list is, for messages.

    Returns:
        The report; `raise_if_inconsistent` turns it into an error.

    Raises:
        StoreError: the store cannot be read.
    """
    report = Report(store.url, None if clips is None else clips.num_rows)
    listed = None if clips is None else clips["clip_id"]
    if clips is not None and listed is not None:
        twice = len(listed) - pc.count_distinct(listed).as_py()
        if twice:
            report.issues.append(f"the clip list holds {twice:,} ids more than once")
        clips = clips.take(pc.index_in(pc.unique(listed), value_set=listed.combine_chunks()))  # the first of each id
    table = Listed([] if clips is None else [clips])
    failures = Failures(store.errors(), None if clips is None else table)
    lost = [part for path, part in store.unreadable.items() if path.startswith(f"{layout.ERRORS}/")]
    report.issues += [f"{part.entry.path}: {part.reason}" for part in lost]
    versions = _versions(store, report)
    for (block, fingerprint), covered in versions.items():
        wanted = None if signals is None else [signal for signal in signals if signal in covered]
        report.blocks.append(
            _verify_block(store, block, fingerprint, listed, wanted, covered, failures, report, read_all=read_all)
        )
    if listed is not None and signals is not None:
        there = {(block, signal) for (block, _), covered in versions.items() for signal in covered}
        blocks = dict.fromkeys(block for block, _ in versions)
        lacking = [f"{block} {name}" for block in blocks for name in signals if (block, name) not in there]
        report.notes += [f"{one}: no row of any clip" for one in lacking]
    _check_sources(store, table, clips_url, report)
    report.notes += [f"{entry.path}: a temporary file" for entry in store.filesystem.entries(TMP)]
    return report


def _versions(store: FeatureStore, report: Report) -> dict[tuple[str, str], set[str]]:
    """Versions of blocks that were begun, and those of the last run, of whose clips every one may have failed.

    Returns:
        (block, fingerprint) -> the signals it covers. One whose parts are not known is an issue and left out.
    """
    of_runs: dict[tuple[str, str], set[str]] = {}
    last: set[tuple[str, str]] = set()
    for run in store.runs():
        last = set()
        for block, versions in run.get("fingerprints", {}).items():
            for signal, fingerprint in versions.items():
                of_runs.setdefault((block, fingerprint), set()).add(signal)
                last.add((block, fingerprint))
    found = {version: of_runs[version] for version in last}
    for block, fingerprints in store.versions().items():
        for fingerprint in fingerprints:
            try:
                part = store.first_part(block, fingerprint)
            except (UsageError, StoreInconsistentError) as error:
                report.issues.append(str(error))
                found.pop((block, fingerprint), None)
                continue
            signals = set(part.described.signals) if part else of_runs.get((block, fingerprint))
            found[block, fingerprint] = signals or set(SIGNALS.names())
    return dict(sorted(found.items()))


def _check_sources(store: FeatureStore, listed: Listed, clips_url: str, report: Report) -> None:
    """Check that every id with rows means one piece of audio, the list's where it is listed."""
    report.issues += [f"{part.entry.path}: {part.reason}" for part in compare(store, listed)]
    twice = [(pair["one"], pair["other"]) for pair in listed.sql(RECORDED_TWICE).to_pylist()]
    _note_pairs(report, "have two recorded sources", twice)
    other = [(old, {**new, "list": clips_url}) for old, new in differing(listed, "true")]
    _note_pairs(report, "have another source on the list than recorded", other)
    load_with_rows(store, listed, "ANTI JOIN recorded")
    report.without_source = listed.count("(SELECT DISTINCT clip_id FROM with_rows)")


def _note_pairs(report: Report, what: str, pairs: Sequence[Pair]) -> None:
    """Note ids with two sources, if there are any; a source without a `list` is the recorded one."""
    names = ("list", *SOURCE_COLUMNS)
    entries = [
        {"clip_id": pair[0]["clip_id"], "sources": [{name: source.get(name) for name in names} for source in pair]}
        for pair in pairs
    ]
    report.other_sources += entries
    if entries:
        shown = "; ".join(f"{entry['clip_id']}: {describe_both(entry)}" for entry in entries[:MAX_PAIRS_NAMED])
        more = "; ..." if len(entries) > MAX_PAIRS_NAMED else ""
        report.issues.append(f"{len(entries):,} clips {what}: {shown}{more}")


def describe_both(entry: dict[str, Any]) -> str:
    """Return both sources of an id as text, each with its list."""
    return ", ".join(
        f"{describe_source(source)} {'recorded' if source['list'] is None else 'in ' + source['list']}"
        for source in entry["sources"]
    )


def _verify_block(
    store: FeatureStore,
    block: str,
    fingerprint: str,
    listed: pa.ChunkedArray | None,
    signals: Sequence[str] | None,
    covered: set[str],
    failures: Failures,
    report: Report,
    *,
    read_all: bool,
) -> BlockCounts:
    found = BlockCounts(block, fingerprint)
    keys = _keys(store, found, report, read_all=read_all)
    named = {part.path for part in store.parts(block, fingerprint)}
    files = store.filesystem.entries(layout.block_folder(block, fingerprint), "part-")
    unnamed = sum(file.path not in named for file in files)
    if unnamed:
        what = f"replaced, or left by a killed writer; acoustic-env store gc {store.url} removes them after a day"
        report.notes.append(f"{block}/{fingerprint}: {unnamed:,} parts that no manifest names ({what})")
    unique = keys.group_by(row_keys(keys.schema)).aggregate([("part", "count")])
    repeated = unique.filter(pc.greater(unique["part_count"], 1))
    found.rows = unique.num_rows
    found.clips = pc.count_distinct(unique["clip_id"]).as_py()
    found.signals = sorted(pc.unique(unique["signal"]).to_pylist())
    if repeated.num_rows:
        _compare_duplicates(store, found, repeated, report)
    if listed is not None:
        ids = pc.unique(unique["clip_id"])
        found.unlisted = pc.sum(pc.invert(pc.is_in(ids, value_set=listed))).as_py() or 0
        if found.unlisted:
            report.notes.append(f"{block}/{fingerprint}: {found.unlisted:,} clips with rows are not on the list")
        for signal in (found.signals or sorted(covered)) if signals is None else signals:
            done = unique.filter(pc.equal(unique["signal"], signal))["clip_id"]
            counts = _signal_counts(signal, listed, done, failures.in_force(block, fingerprint, signal))
            found.counts.append(counts)
            if counts.pending:
                such = f"{counts.pending:,} clips pending, such as {', '.join(counts.first_pending[:3])}"
                report.notes.append(f"{block}/{fingerprint} {signal}: {such}")
    return found


def _keys(store: FeatureStore, found: BlockCounts, report: Report, *, read_all: bool) -> pa.Table:
    """Key columns of all parts and the part's number; issues of parts go to the report."""
    tables = []
    first = store.first_part(found.block, found.fingerprint)
    per_frame = first is not None and "frame" in first.schema.names
    schema = KEY_SCHEMA.append(pa.field("frame", pa.int32())) if per_frame else KEY_SCHEMA
    columns = None if read_all else schema.names
    for part in store.scan(found.block, found.fingerprint, columns):
        if isinstance(part, UnreadablePart):
            report.issues.append(f"{part.entry.path}: {part.reason}")
            continue
        differs = difference(first, part) if first else None
        if first and differs:
            report.issues.append(f"{part.entry.path}: {differs} as in {first.entry.path}")
        part_number = pa.array(np.full(part.table.num_rows, found.parts, np.int32))
        keys = part.table.select(schema.names).replace_schema_metadata(None).cast(schema)
        tables.append(keys.append_column("part", part_number))
        found.parts += 1
    empty = schema.append(pa.field("part", pa.int32())).empty_table()
    return pa.concat_tables([empty, *tables])


def difference(first: ScannedPart, part: ScannedPart) -> str | None:
    """Return in what two parts differ that those of one version share; None where in nothing."""
    if not part.schema.equals(first.schema):
        return "its columns are not the same"
    one, other = first.described.settings(), part.described.settings()
    differ = (name for name in one | other if one.get(name) != other.get(name))
    return next((f"its setting {name} ({other.get(name)}) is not the same" for name in differ), None)


def _compare_duplicates(store: FeatureStore, found: BlockCounts, repeated: pa.Table, report: Report) -> None:
    """Equal duplicates are counted and noted, different ones are an issue."""
    versions = dict.fromkeys(found.signals, found.fingerprint)
    schema = store.joint_schema(found.block, versions)
    ids = pc.unique(repeated["clip_id"])
    table = sort_by_key(pa.concat_tables(store.pieces(found.block, versions, schema, ids)))
    found.duplicates = repeated.num_rows
    note = f"{found.block}/{found.fingerprint}: {found.duplicates:,} keys are in more than one part"
    differing = contradictions(table)
    if differing.num_rows:
        row = differing.slice(0, 1).to_pylist()[0]
        report.issues.append(f"{note}, {differing.num_rows:,} of them with different values, such as {row}")
    else:
        report.notes.append(f"{note}, with equal values; readers give them once")


def contradictions(table: pa.Table) -> pa.Table:
    """Return the keys, each once, of which a table sorted by key has rows with different values."""
    repeated = repeats(table).to_numpy(zero_copy_only=False)
    again = np.flatnonzero(repeated)
    first = np.maximum.accumulate(np.where(repeated, 0, np.arange(table.num_rows)))[again]
    differing = np.zeros(len(again), bool)
    keys = row_keys(table.schema)
    for column in table.column_names:
        if column not in keys and len(again):
            differing |= unequal(table[column].take(pa.array(first)), table[column].take(pa.array(again)))
    return table.select(keys).take(pa.array(np.unique(first[differing])))


def unequal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return bool[rows]: values that differ by more than the tolerance, or null in one only."""
    differing: npt.NDArray[np.bool_] = np.asarray(one.is_null()) != np.asarray(other.is_null())
    if pa.types.is_fixed_size_list(one.type) or pa.types.is_floating(one.type):
        close = np.isclose(as_matrix(one), as_matrix(other), RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE, equal_nan=True)
        differing |= ~close.all(axis=1)
    else:
        differing |= np.asarray(pc.fill_null(pc.not_equal(one, other), False))
    return differing


def _signal_counts(signal: str, listed: pa.ChunkedArray, done: pa.ChunkedArray, errors: pa.Table) -> SignalCounts:
    has_row = pc.is_in(listed, value_set=done)
    without = listed.filter(pc.invert(has_row))
    is_excluded = pc.is_in(without, value_set=errors.filter(errors["permanent"])["clip_id"])
    pending = without.filter(pc.invert(is_excluded))
    return SignalCounts(
        signal=signal,
        rows=pc.sum(has_row).as_py() or 0,
        permanent=pc.sum(is_excluded).as_py() or 0,
        pending=len(pending),
        failed_before=pc.sum(pc.is_in(pending, value_set=errors["clip_id"])).as_py() or 0,
        first_pending=pending.slice(0, MAX_NAMED).to_pylist(),
    )
