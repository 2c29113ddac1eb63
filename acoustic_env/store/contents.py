"""What a store holds, as its manifests name it: versions of blocks, parts, keys, errors and run records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from acoustic_env.audio.signals import signal_order
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.io.filesystem import Entry, open_filesystem
from acoustic_env.io.location import join, local_path
from acoustic_env.store import layout
from acoustic_env.store.manifest import Part, Version
from acoustic_env.store.parts import NotAPart, UnreadablePart, in_threads, open_part, read_part, read_rows
from acoustic_env.store.schema import ERROR_SCHEMA, KEY_SCHEMA, Described, describe

log = logging.getLogger("acoustic_env.store")


class _Run(BaseModel, strict=True):
    """The fields of a run record that readers rely on, where it has them."""

    run_id: str = ""
    settings: dict[str, Any] = {}
    fingerprints: dict[str, dict[str, str]] = {}
    pools: dict[str, int] = {}
    seconds: dict[str, float] = {}
    throughput: dict[str, float] = {}
    versions: dict[str, str] = {}
    clips: int = 0
    pending: int = 0
    finished: int = 0
    failed: int = 0
    left: int = 0
    clips_per_second: float = 0.0


@dataclass(frozen=True)
class ScannedPart:
    """A part that reads back.

    Attributes:
        entry: the file.
        described: by its metadata.
        schema: of its rows.
        table: the columns asked for, rows in the file's order (by key).
    """

    entry: Entry
    described: Described
    schema: pa.Schema
    table: pa.Table


class StoreContents:
    """The tables below one URL; a row is there when a manifest names its part and the part reads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.filesystem = open_filesystem(url)
        self.unreadable: dict[str, UnreadablePart] = {}  # what scans have met so far
        self._of_versions: dict[str, Version] = {}

    @classmethod
    def existing(cls, url: str) -> Self:
        """Open a store to read from.

        Raises:
            UsageError: there is no store at the URL, a file, or a folder around or inside a store.
        """
        path = local_path(url)
        if path is not None and path.is_file():
            raise UsageError(f"{url}: is a file, not a feature store, which is a folder")
        store = cls(url)
        folders = layout.FOLDERS & set(store.filesystem.folders(""))
        if layout.FEATURES in folders and {layout.CLIPS, layout.RUNS} <= set(store.filesystem.folders(layout.FEATURES)):
            raise UsageError(f"{url}: holds a store; give {join(url, layout.FEATURES)}")
        if folders:
            return store
        around, inside, _ = url.rpartition(f"/{layout.FEATURES}")
        if inside and around and layout.FOLDERS & set(open_filesystem(around).folders("")):
            raise UsageError(f"{url}: is a part of a store; give {around}")
        msg = f"{url}: there is no store; check the URL, or make one with acoustic-env extract --store {url}"
        raise UsageError(msg)

    def versions(self) -> dict[str, list[str]]:
        """Return block -> fingerprints with a folder, both sorted."""
        found = {}
        for block in filter(layout.is_name, self.filesystem.folders(layout.FEATURES)):
            found[block] = [*filter(layout.is_name, self.filesystem.folders(layout.block_folder(block)))]
        return found

    def blocks(self) -> dict[str, list[str]]:
        """Return block -> fingerprints that have parts, or whose parts are not known, both sorted."""
        found = {
            block: [fingerprint for fingerprint in versions if self._has_parts(block, fingerprint)]
            for block, versions in self.versions().items()
        }
        return {block: versions for block, versions in found.items() if versions}

    def _has_parts(self, block: str, fingerprint: str) -> bool:
        try:
            return bool(self.parts(block, fingerprint))
        except (UsageError, StoreInconsistentError):  # raised again where it is read
            return True

    def version(self, block: str, fingerprint: str) -> Version:
        """Return the manifests of one version of a block."""
        folder = layout.block_folder(block, fingerprint)
        return self._of_versions.setdefault(folder, Version(self.filesystem, folder))

    def parts(self, block: str, fingerprint: str) -> list[Part]:
        """Return the parts of one version of a block that its manifests name; none for one that is not there."""
        return self.version(block, fingerprint).parts()

    def fingerprints(self, block: str) -> list[Described]:
        """Return the versions of a block that are in the store, each described by its first readable part."""
        versions = []
        for fingerprint in self.blocks().get(block, []):
            part = self.first_part(block, fingerprint)
            versions.append(part.described if part else Described(block, fingerprint))
        return versions

    def first_part(self, block: str, fingerprint: str) -> ScannedPart | None:
        """Return the first readable part of a version, without its rows; None where there is none."""
        parts = (self.scan_one(entry, []) for entry in self.parts(block, fingerprint))
        return next((part for part in parts if isinstance(part, ScannedPart)), None)

    def signals(self, version: Described) -> list[str]:
        """Return the signals of a version: those its parts name, else those found in its rows."""
        if version.signals:
            return list(version.signals)
        found = pc.unique(self._keys(version.block, version.fingerprint)["signal"]).to_pylist()
        return sorted(found, key=signal_order)

    def scan(
        self, block: str, fingerprint: str, columns: Sequence[str] | None
    ) -> Iterator[ScannedPart | UnreadablePart]:
        """Yield every part of a version with the columns asked for, in order of name, several read at once.

        Args:
            columns: read from each part; an empty list reads the footers alone, None all columns.

        Raises:
            StoreError: the filesystem failed (a damaged part is an `UnreadablePart`, no error).
        """
        entries = self.parts(block, fingerprint)
        size = max((entry.size for entry in entries), default=0) if columns is None else 0
        for part in in_threads(self.filesystem, entries, lambda entry: self.scan_one(entry, columns), size):
            if isinstance(part, UnreadablePart) and part.entry.path not in self.unreadable:
                self.unreadable[part.entry.path] = part
                log.warning("%s: %s", self.filesystem.place(part.entry.path), part.reason)
            yield part

    def read_one(self, entry: Entry, columns: Sequence[str] | None) -> ScannedPart:
        """Read one part.

        Raises:
            StoreInconsistentError: it is named in a manifest, and is gone or damaged.
            StoreError: the filesystem failed.
        """
        part = self.scan_one(entry, columns)
        if isinstance(part, ScannedPart):
            return part
        raise StoreInconsistentError(
            f"{self.filesystem.place(entry.path)}: {part.reason}, so its rows are lost. acoustic-env store verify "
            f"{self.url} names all that is lost; acoustic-env extract with the same settings computes it again"
        )

    def scan_one(self, entry: Entry, columns: Sequence[str] | None) -> ScannedPart | UnreadablePart:
        """Read one part, as `scan` gives it."""
        try:
            with open_part(self.filesystem, entry) as file:
                described = describe(file.metadata.metadata)
                folder = entry.path.rpartition("/")[0]
                if described is None or layout.block_folder(described.block, described.fingerprint) != folder:
                    named = "nothing" if described is None else f"{described.block}/{described.fingerprint}"
                    return UnreadablePart(entry, f"its metadata name {named}, its folder {folder}")
                if isinstance(entry, Part) and file.metadata.num_rows != entry.rows:
                    rows = file.metadata.num_rows
                    return UnreadablePart(entry, f"it has {rows:,} rows, its manifest names {entry.rows:,}")
                table = read_part(self.filesystem, entry, file, columns) if columns != [] else KEY_SCHEMA.empty_table()
                if isinstance(entry, Part) and table.num_rows and "clip_id" in table.column_names:
                    ids = table["clip_id"]
                    if (ids[0].as_py(), ids[-1].as_py()) != (entry.first, entry.last):
                        return UnreadablePart(entry, "its clips are not those that its manifest names")
                return ScannedPart(entry, described, file.schema_arrow, table)
        except NotAPart as error:
            return UnreadablePart(entry, str(error))

    def committed_keys(self, block: str, fingerprint: str) -> pa.Table:
        """Return the unique (clip_id, signal) of one version of a block that can be read back: `KEY_SCHEMA`."""
        keys = self._keys(block, fingerprint)
        return keys.group_by(KEY_SCHEMA.names).aggregate([]).select(KEY_SCHEMA.names)

    def _keys(self, block: str, fingerprint: str) -> pa.Table:
        """(clip_id, signal) of every row, repeated where rows are."""
        tables = [
            part.table.replace_schema_metadata(None).cast(KEY_SCHEMA)
            for part in self.scan(block, fingerprint, KEY_SCHEMA.names)
            if isinstance(part, ScannedPart)
        ]
        return pa.concat_tables([KEY_SCHEMA.empty_table(), *tables])

    def errors(self) -> pa.Table:
        """Return every recorded error, `ERROR_SCHEMA`, by clip and attempt; each once.

        A part that cannot be read is left out with a warning: its clips are tried again.
        """
        while True:
            parts = list(self.side_parts(layout.ERRORS, ERROR_SCHEMA))
            unread = [part for part in parts if isinstance(part, UnreadablePart)]
            if {part.entry.path for part in unread} <= {entry.path for entry in self.side_entries(layout.ERRORS)}:
                break  # else a compaction has merged some meanwhile
        for part in unread:
            self.unreadable[part.entry.path] = part
            log.warning("%s: %s", self.filesystem.place(part.entry.path), part.reason)
        tables = [ERROR_SCHEMA.empty_table(), *(part for part in parts if not isinstance(part, UnreadablePart))]
        table = pa.concat_tables(tables).group_by(ERROR_SCHEMA.names).aggregate([]).select(ERROR_SCHEMA.names)
        order = ["clip_id", "attempt", "run_id", "stage", "block", "signal", "code", "message", "source", "fingerprint"]
        return table.sort_by([(name, "ascending") for name in order]).cast(ERROR_SCHEMA)

    def side_parts(self, folder: str, schema: pa.Schema) -> Iterator[pa.Table | UnreadablePart]:
        """Yield the parts of the table of errors or of sources, in order of name."""
        read = partial(read_rows, self.filesystem, schema=schema)
        yield from in_threads(self.filesystem, self.side_entries(folder), read)

    def side_entries(self, folder: str) -> list[Entry]:
        """List the parts of the table of errors or of sources."""
        return [entry for entry in self.filesystem.entries(folder) if layout.is_part(entry.path)]

    def runs(self) -> list[dict[str, Any]]:
        """Return the records of all runs, oldest first; one that is damaged is left out with a warning."""
        records = (self.run(run_id) for run_id in filter(layout.is_name, self.filesystem.folders(layout.RUNS)))
        return [record for record in records if record is not None]

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return the record of a run; None where there is none."""
        path = layout.run_path(run_id)
        try:
            data = self.filesystem.read(path)
            _Run.model_validate_json(data)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            wrong = error.errors()[0]
            at = ".".join(map(str, wrong["loc"])) or "it"
            log.warning("%s: a damaged run record, left out: %s: %s", self.filesystem.place(path), at, wrong["msg"])
            return None
        record: dict[str, Any] = json.loads(data)
        return record
