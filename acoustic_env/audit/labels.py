"""LABELS: a folder of versions of the labels table, on any filesystem.

    LABELS/v0001/labels.parquet
    LABELS/v0001/manifest.json     written last: a version without it does not exist

A version is never changed. The manifest holds its predecessor, the SHA-256 of the table file, the hash of its decisions
(equal decisions are not written again), counts by action, and where it came from. The original labels are the `given`
column of every version.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.relabel import LABELS_SCHEMA, applies
from acoustic_env.audit.table import ROWS, RowHash, fill_columns, key_pairs, of_rows, whole_clips
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Json
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import scrub

VERSION: Final = re.compile(r"^v\d{4,}$")
TABLE: Final = "labels.parquet"
MANIFEST: Final = "manifest.json"
DIFF_SCHEMA: Final = pa.schema(
    {"clip_id": pa.string(), "label": pa.string(), "applied": pa.bool_(), "applies": pa.bool_()}
    | {"action_before": pa.string(), "action": pa.string(), "reason": pa.string()}
)


@dataclass(frozen=True)
class Written:
    """What `write_version` did.

    Attributes:
        version: the latest version now; None when there is none.
        previous: the one before it, None for the first.
        new: whether a version was written; False when the decisions equal those of the latest one.
    """

    version: str
    previous: str | None
    new: bool


def versions(url: str) -> list[str]:
    """Return the versions, oldest first."""
    entries = open_filesystem(url).entries("")
    found = {path.split("/")[0] for entry in entries if (path := entry.path).endswith(f"/{MANIFEST}")}
    return sorted((name for name in found if VERSION.match(name)), key=lambda name: int(name[1:]))


def read_manifest(url: str, version: str) -> dict[str, Any]:
    """Return the manifest of a version.

    Raises:
        UsageError: there is no such version.
    """
    try:
        manifest: dict[str, Any] = json.loads(open_filesystem(url).read(f"{version}/{MANIFEST}"))
    except FileNotFoundError as error:
        there = ", ".join(versions(url)) or "none; make one: audit relabel"
        raise UsageError(f"{url}: no version {version!r} of the labels; expected one of: {there}") from error
    return manifest


def read_version(url: str, version: str | None = None) -> pa.Table:
    """Return the labels table of a version, the latest by default, checked against its manifest.

    Raises:
        UsageError: no such version, or the file is not the one that was written.
    """
    there = versions(url)
    if version is None and not there:
        raise UsageError(f"{url}: no version of a labels table; make one: audit relabel --ranked ... --versions {url}")
    chosen = version or there[-1]
    return pa.concat_tables(StoredVersion(url, chosen).tables())


class StoredVersion:
    """A version's table, copied to this machine's disk, for as long as the object lives; its rows are sorted.

    Raises:
        UsageError: no such version, or the file is not the one that was written.
    """

    def __init__(self, url: str, version: str) -> None:
        manifest, filesystem = read_manifest(url, version), open_filesystem(url)
        self._folder = tempfile.TemporaryDirectory(prefix="acoustic-env-")
        self._file = Path(self._folder.name, TABLE)
        filesystem.download(f"{version}/{TABLE}", self._file)
        if _sha256(self._file) != manifest["sha256"]:
            msg = f"{filesystem.place(version + '/' + TABLE)}: not the file that was written (its SHA-256 differs)"
            raise UsageError(msg)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the table in parts of whole clips, at least one; all columns by default."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._file) as file:
            chosen = file.schema_arrow.names if columns is None else columns
            schema = pa.schema([file.schema_arrow.field(name) for name in chosen], file.schema_arrow.metadata)
            batches = file.iter_batches(ROWS, columns=chosen)
            yield from whole_clips(chain([schema.empty_table()], (pa.Table.from_batches([one]) for one in batches)))


def write_version(url: str, labels: Iterable[pa.Table], origin: Mapping[str, Json]) -> Written:
    """Write the next version, or nothing when its decisions are those of the latest one.

    The caller holds the lease of `url` (`store.lease.acquire_lease`).

    Args:
        url: LABELS.
        labels: from `relabel`, sorted, in parts of whole clips.
        origin: what it was made from, for the manifest.

    >>> row = {"clip_id": ["a"], "label": ["rain"], "given": [True], "posterior": [0.9], "votes": [None]}
    >>> table = pa.table({**row, "action": ["keep"], "reason": ["not flagged"]})
    >>> write_version("example-labels", [table], {"ranked": "ranked.parquet"})
    Written(version='v0001', previous=None, new=True)
    >>> write_version("example-labels", [table], {"ranked": "ranked.parquet"}).new  # equal decisions
    False
    >>> versions("example-labels"), read_manifest("example-labels", "v0001")["actions"]
    (['v0001'], {'keep': 1})
    >>> read_version("example-labels").num_rows
    1
    """
    import pyarrow.parquet as pq

    there = versions(url)
    previous = there[-1] if there else None
    version = f"v{int(previous[1:]) + 1:04d}" if previous else "v0001"
    filesystem, decisions = open_filesystem(url), RowHash(["clip_id", "label", "given", "votes", "action"])
    clips, actions = 0, Counter[str]()
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as folder, ExitStack() as stack:
        file = Path(folder, TABLE)
        writer: Any = None
        for part in labels:
            table = _versioned(part, version, previous)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(file, table.schema, compression="zstd"))
            writer.write_table(table)
            decisions.update(table)
            clips += pc.count_distinct(table["clip_id"]).as_py()
            actions.update({row["values"]: row["counts"] for row in pc.value_counts(table["action"]).to_pylist()})
        stack.close()
        digest, last = decisions.hexdigest(), None if previous is None else read_manifest(url, previous)
        if last is not None and last["decisions"] == digest:
            return Written(last["version"], last["previous_version"], False)
        manifest = {
            "version": version,
            "previous_version": previous,
            "sha256": _sha256(file),
            "decisions": digest,
            "rows": decisions.rows,
            "clips": clips,
            "actions": dict(sorted(actions.items())),
            "origin": {name: scrub(value) if isinstance(value, str) else value for name, value in origin.items()},
            "written_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        filesystem.upload(file, f"{version}/{TABLE}")
    filesystem.write(f"{version}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    return Written(version, previous, True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def merge(before: pa.Table | None, now: pa.Table) -> pa.Table:
    """Return the whole labels table: rows decided now, all other rows as they were.

    A row with answers keeps that decision unless it has answers now (`relabel` with `before` carries them over).

    Args:
        before: the last version, None for the first.
        now: from `relabel`.

    >>> row = {"label": ["rain"], "given": [True], "posterior": [0.9], "votes": [None]}
    >>> row |= {"action": ["keep"], "reason": ["not flagged"]}
    >>> before = pa.table({"clip_id": ["a"], **row, "version": ["v0001"], "previous_version": [None]})
    >>> merge(before, pa.table({"clip_id": ["b"], **row}))["clip_id"].to_pylist()
    ['a', 'b']
    """
    if before is None:
        return now
    before = before.drop_columns(["version", "previous_version"])
    answered = pc.and_(pc.is_valid(before["votes"]), pc.invert(of_rows(before, now.filter(pc.is_valid(now["votes"])))))
    kept = before.filter(pc.or_(pc.invert(of_rows(before, now)), answered))
    whole = pa.concat_tables([kept, now.filter(pc.invert(of_rows(now, kept)))], promote_options="default")
    first, last = now.column_names[:4], now.column_names[-3:]
    scorers = sorted({*whole.column_names} - {*first, *last})
    return whole.select([*first, *scorers, *last]).sort_by([("clip_id", "ascending"), ("label", "ascending")])


def original(labels: pa.Table) -> pa.Table:
    """Return the labels as given: every row kept."""
    return fill_columns(labels, action="keep", reason="as given")


def diff(old: pa.Table, new: pa.Table) -> pa.Table:
    """Return the rows in which two versions differ in what applies or in the action, or that only one of them has.

    `DIFF_SCHEMA`; `applied` and `action_before` are null where the old table has no such row.

    >>> old = pa.table({"clip_id": ["a"], "label": ["rain"], "given": [True], "action": ["keep"], "reason": [""]})
    >>> new = fill_columns(old, action="drop", reason="annotated")
    >>> diff(old, new).select(["clip_id", "applied", "applies", "action"]).to_pylist()
    [{'clip_id': 'a', 'applied': True, 'applies': False, 'action': 'drop'}]
    """
    key = ["clip_id", "label"]
    before = old.select([*key, "action"]).rename_columns([*key, "action_before"])
    before = before.append_column("applied", pa.array(applies(old)))
    after = new.select([*key, "action", "reason"]).append_column("applies", pa.array(applies(new)))
    both = after.join(before, key, join_type="full outer")
    same = pc.and_(pc.equal(both["applied"], both["applies"]), pc.equal(both["action_before"], both["action"]))
    changed = both.filter(pc.invert(pc.fill_null(same, False))).select(DIFF_SCHEMA.names)
    return changed.sort_by([(name, "ascending") for name in key]).combine_chunks()


def segments_csv(labels: pa.Table, clips: pa.Table | None, spelling: Mapping[str, str]) -> tuple[str, int]:
    """Return the labels as an AudioSet segments list, and the number of clips left out because no label applies.

    Args:
        labels: a version.
        clips: the clip list, for start and end; without it ids must be `<ytid>_<start in ms>`, segments last 10 s.
        spelling: label -> what to write for it (its id in the ontology); others are written as they are.

    Raises:
        UsageError: the segment of an id is not known.

    >>> rows = {"clip_id": ["abcdefghijk_30000"], "label": ["Rain"], "given": [True], "action": ["keep"]}
    >>> segments_csv(pa.table(rows), None, {"Rain": "/m/06mb1"})[0].splitlines()[-1]
    'abcdefghijk, 30.000, 40.000, "/m/06mb1"'
    """
    now = labels.filter(pa.array(applies(labels)))
    of_clip: dict[str, list[str]] = {}
    for clip_id, label in key_pairs(now):
        of_clip.setdefault(clip_id, []).append(spelling.get(label, label))
    times = {} if clips is None else _times(clips)
    lines = []
    for clip_id, names in sorted(of_clip.items()):
        video, start, end = _segment(clip_id, times)
        lines.append(f'{video}, {start:.3f}, {end:.3f}, "{",".join(sorted(names))}"')
    unique = {name for names in of_clip.values() for name in names}
    positive = sum(map(len, of_clip.values()))
    head = [
        "# Segments csv written by acoustic-env",
        f"# num_ytids={len(of_clip)}, num_segs={len(of_clip)}, num_unique_labels={len(unique)}, "
        f"num_positive_labels={positive}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    left_out = pc.count_distinct(labels.column("clip_id")).as_py() - len(of_clip)
    return "\n".join([*head, *lines]) + "\n", left_out


def _times(clips: pa.Table) -> dict[str, tuple[float | None, float | None]]:
    columns = (clips.column(name).to_pylist() for name in ("clip_id", "start_s", "end_s"))
    return {clip_id: (start, end) for clip_id, start, end in zip(*columns, strict=True)}


def _segment(clip_id: str, times: Mapping[str, tuple[float | None, float | None]]) -> tuple[str, float, float]:
    video, _, start_ms = clip_id.rpartition("_")
    start, end = times.get(clip_id, (None, None))
    if video and "/" not in video and start_ms.isdigit():  # no id of a folder, tar or Parquet reader
        start = int(start_ms) / 1000 if start is None else start
    elif start is None:
        missing = "its row of the clip list has no start_s" if clip_id in times else "--clips has no row of it"
        msg = f"clip {clip_id!r}: an AudioSet segment needs a start, the id is not <video>_<start in ms>, and {missing}"
        raise UsageError(msg)
    else:
        video = clip_id
    return video, start, start + 10.0 if end is None else end


def _versioned(labels: pa.Table, version: str, previous: str | None) -> pa.Table:
    labels = fill_columns(labels, version=version, previous_version=previous)
    fixed = {field.name: field for field in LABELS_SCHEMA}
    return labels.cast(pa.schema([fixed.get(field.name, field) for field in labels.schema]))
