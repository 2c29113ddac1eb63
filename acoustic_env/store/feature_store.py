"""The feature store: write parts, find missing rows, read tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.signals import signal_order
from acoustic_env.errors import UsageError
from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.io.filesystem import Entry
from acoustic_env.store import layout
from acoustic_env.store.contents import ScannedPart, StoreContents
from acoustic_env.store.failures import Failures
from acoustic_env.store.parts import UnreadablePart, in_threads, part_bytes
from acoustic_env.store.schema import ERROR_SCHEMA, KEY_SCHEMA, describe, digest, repeats, row_keys, sort_by_key
from acoustic_env.store.snapshot import change_snapshot, read_snapshot

STALE_S: Final = 24 * 3600.0
ERROR_KEYS: Final = ("clip_id", "stage", "code", "attempt", "run_id")

Ids: TypeAlias = pa.ChunkedArray | pa.Array | Sequence[str]
log = logging.getLogger("acoustic_env.store")


class FeatureStore(StoreContents):
    """Feature tables, errors and run records below one URL.

    Readers need no lease and see whole parts only. A writer holds the lease (`store.lease`).

    Args:
        url: a folder, `s3://bucket/prefix`, or another fsspec URL. Nothing is created before the first write.
    """

    def write_part(self, table: pa.Table) -> str:
        """Write rows of one block as one part, whole or not at all.

        Args:
            table: at least one row, schema from `features.block.table_schema`; any order.

        Returns:
            The part's path in the store. It follows from the rows' keys and the fingerprint alone, so the same rows
            written again replace themselves by the same bytes.

        Raises:
            ValueError: no block in the schema's metadata, a null or repeated key, or no rows.
            StoreError: it cannot be written.
        """
        described = describe(table.schema.metadata)
        if described is None or not table.num_rows:
            raise ValueError("a part needs rows, and a schema whose metadata name block and fingerprint (table_schema)")
        keys = row_keys(table.schema)
        empty = [name for name in keys if table[name].null_count]
        if empty or "signal" not in keys:
            msg = f"{described.block}: {empty[0] if empty else 'signal'} has nulls or is missing; keys are {keys}"
            raise ValueError(msg)
        table = sort_by_key(table)
        again = pc.indices_nonzero(repeats(table))
        if len(again):
            row = table.select(keys).slice(again[0].as_py(), 1).to_pylist()[0]
            raise ValueError(f"{described.block}: the key {row} is twice in one part")
        folder = layout.block_folder(described.block, described.fingerprint)
        name = digest(table, keys, f"{described.block}/{described.fingerprint}")
        path = layout.part_path(folder, name)
        self.filesystem.write(path, part_bytes(table))
        return path

    def write_errors(self, table: pa.Table) -> str:
        """Write rows of `ERROR_SCHEMA` as one part of the errors table; returns its path.

        Raises:
            StoreError: it cannot be written.
        """
        table = table.select(ERROR_SCHEMA.names).cast(ERROR_SCHEMA)
        table = table.sort_by([(name, "ascending") for name in (*ERROR_KEYS, "signal", "message")]).combine_chunks()
        path = layout.part_path(layout.ERRORS, digest(table, list(ERROR_KEYS), layout.ERRORS))
        self.filesystem.write(path, part_bytes(table))
        return path

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Write (or replace) the record of a run as `runs/<run_id>.json`."""
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False, default=str)
        self.filesystem.write(layout.run_path(run_id), text.encode())

    def clean_up(self, blocks: Collection[str]) -> list[str]:
        """Move parts that this object found unreadable to `set-aside/` and remove temporary files older than a day.

        The caller holds the leases of the blocks and has looked for missing rows before.

        Returns:
            A line for each file moved or removed.
        """
        done = []
        for path, part in sorted(self._unreadable.items()):
            place = layout.block_and_fingerprint(path)
            if place is None or place[0] not in blocks:
                continue
            if isinstance(self.scan_one(part.entry, ["clip_id"]), UnreadablePart):
                self._set_aside(path)
                done.append(f"{self.filesystem.place(path)}: {part.reason}; moved to {layout.SET_ASIDE}/")
        self._unreadable.clear()
        return done + [f"{path}: stale temporary file, removed" for path in self.filesystem.remove_stale(STALE_S)]

    def _set_aside(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        snapshot = read_snapshot(self.filesystem, folder)
        if name in snapshot.parts:
            # Its rows may still be in the parts it replaced, which readers see again; those that are gone are computed
            # again, perhaps under the names they had.
            parts = {other: size for other, size in snapshot.parts.items() if other != name}
            change_snapshot(self.filesystem, folder, snapshot, replace(snapshot, parts=parts, replaced={}))
        if any(entry.path == path for entry in self.filesystem.entries(folder)):
            self.filesystem.move(path, f"{layout.SET_ASIDE}/{path}")

    def missing(
        self,
        clip_ids: Ids,
        signals: Sequence[str],
        block: str,
        fingerprint: str,
        *,
        retry_errors: bool = False,
    ) -> pa.Table:
        """Return the keys of the list without a row and not excluded by a permanent error (`failures.Failures`).

        Args:
            clip_ids: the clip list's ids.
            signals: wanted of each clip.
            retry_errors: count permanent errors as work, too.

        Returns:
            `KEY_SCHEMA`: signal after signal, each in the order of the list.

        Raises:
            StoreError: the store cannot be read.
        """
        ids = _string_array(clip_ids)
        keys = self._keys(block, fingerprint)
        failures = None if retry_errors else Failures(self)
        found = []
        for signal in signals:
            done = keys.filter(pc.equal(keys["signal"], signal))["clip_id"]
            pending = ids.filter(pc.invert(pc.is_in(ids, value_set=done)))
            if failures is not None:
                excluded = failures.excluded(block, fingerprint, signal)
                pending = pending.filter(pc.invert(pc.is_in(pending, value_set=excluded)))
            names = pa.array([signal]).take(pa.array(np.zeros(len(pending), np.int8)))
            found.append(pa.table({"clip_id": pending, "signal": names}, schema=KEY_SCHEMA))
        return pa.concat_tables([KEY_SCHEMA.empty_table(), *found])

    def resolve(self, block: str, signals: Sequence[str] | None = None, chosen: Sequence[str] = ()) -> dict[str, str]:
        """Return the fingerprint of each signal of a block: one of those chosen, else the only one there is.

        Args:
            block: which.
            signals: wanted; one that no version covers is left out. None for all there are.
            chosen: fingerprints, or unique beginnings of some, for the signals that they cover.

        Raises:
            UsageError: no such block or fingerprint, or several to choose from for a signal; lists them.
        """
        if block not in self.blocks():
            there = ", ".join(self.blocks()) or "none"
            msg = f"{self.url}: holds no block {block!r} (there: {there}); compute it with acoustic-env extract"
            raise UsageError(msg)
        covered = {version.fingerprint: self.signals(version) for version in self.fingerprints(block)}
        unknown = [name for name in chosen if not any(known.startswith(name) for known in covered)]
        if unknown:
            versions = self._versions(block)
            msg = f"{self.url}: block {block} has no fingerprint {unknown[0]!r}; expected one of:\n{versions}"
            raise UsageError(msg)
        found: dict[str, list[str]] = {}
        for signal in {signal for own in covered.values() for signal in own}:
            able = [fingerprint for fingerprint, own in covered.items() if signal in own]
            found[signal] = [known for known in able if any(known.startswith(name) for name in chosen)] or able
        wanted = sorted(found, key=signal_order) if signals is None else [name for name in signals if name in found]
        for signal in wanted:
            if len(found[signal]) > 1:
                raise UsageError(
                    f"{self.url}: block {block} is there in several versions for signal {signal}; "
                    f"name a fingerprint (`study`, `train`: --version {block}=FINGERPRINT):\n{self._versions(block)}"
                )
        return {signal: found[signal][0] for signal in wanted}

    def _versions(self, block: str) -> str:
        return "\n".join(
            f"  {version.fingerprint}  version {version.version}, engine {version.engine}, "
            f"signals {','.join(self.signals(version))}"
            for version in self.fingerprints(block)
        )

    def schema(self, block: str, fingerprint: str) -> pa.Schema:
        """Return the schema of a version's rows, metadata included.

        Raises:
            UsageError: no part of it can be read.
        """
        part = self.first_part(block, fingerprint)
        if part is None:
            msg = f"{self.url}: no part of {block}/{fingerprint} can be read; see acoustic-env store verify {self.url}"
            raise UsageError(msg)
        return part.schema

    def joint_schema(self, block: str, versions: Mapping[str, str]) -> pa.Schema:
        """Return the schema of the rows of several signals, with the metadata in which their versions are alike.

        Where they are not alike, `fingerprints` has the mapping of signals as JSON in place of `fingerprint`.

        Raises:
            UsageError: no part of a version can be read, or their columns differ.
        """
        schemas = {version: self.schema(block, version) for version in dict.fromkeys(versions.values())}
        first, *others = schemas.values()
        if not others:
            return first
        for version, schema in schemas.items():
            if not schema.equals(first):
                msg = f"{self.url}: block {block}: version {version} has other columns than {next(iter(schemas))}"
                raise UsageError(msg)
        alike = {
            key: value
            for key, value in (first.metadata or {}).items()
            if all((schema.metadata or {}).get(key) == value for schema in others)
        }
        return first.with_metadata({**alike, f"{METADATA_PREFIX}fingerprints": json.dumps(versions)})

    def read(
        self,
        block: str,
        versions: Mapping[str, str] | str | None = None,
        signals: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        clip_ids: Ids | None = None,
    ) -> pa.Table:
        """Return rows of a block, each key once, in the order of the keys.

        Args:
            versions: signal -> fingerprint (from `resolve`), or one fingerprint, whose signals are read; None for the
                only ones there are.
            signals: only these; None for all.
            columns: besides the keys (clip_id, signal, frame); None for all.
            clip_ids: only these; None for all. Ids that are not there are left out.

        Returns:
            The table with the metadata of `joint_schema`.

        Raises:
            UsageError: no such block, fingerprint or column, or several fingerprints.
            StoreError: the store cannot be read.
        """
        if versions is None:
            versions = self.resolve(block, signals) or self.resolve(block)
        elif isinstance(versions, str):
            meant = [known for known in self.fingerprints(block) if known.fingerprint.startswith(versions)]
            covered = {signal for version in meant for signal in self.signals(version)}
            versions = self.resolve(block, sorted(covered), [versions])
        chosen = {signal: version for signal, version in versions.items() if signals is None or signal in signals}
        wanted = wanted_schema(self.joint_schema(block, chosen or versions), columns, self.url)
        pieces = [wanted.empty_table(), *self.pieces(block, chosen, wanted, clip_ids)]
        table = sort_by_key(pa.concat_tables(pieces))
        return table.filter(pc.invert(repeats(table))).combine_chunks().cast(wanted)

    def pieces(
        self, block: str, versions: Mapping[str, str], wanted: pa.Schema, clip_ids: Ids | None = None
    ) -> Iterator[pa.Table]:
        """Yield what `read` returns, part by part: rows of one part in key order; a key of two parts comes twice."""
        for fingerprint in dict.fromkeys(versions.values()):
            own = [signal for signal, version in versions.items() if version == fingerprint]
            for table, _ in self._pieces(block, fingerprint, wanted, own, clip_ids):
                yield table

    def placed(
        self, block: str, versions: Mapping[str, str], wanted: pa.Schema, clip_ids: Ids
    ) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32]]]:
        """Yield the pieces of some clips, each with the place of every row's clip in `clip_ids`, int32 [rows].

        One pass over the parts, whatever the order of the ids.
        """
        for fingerprint in dict.fromkeys(versions.values()):
            own = [signal for signal, version in versions.items() if version == fingerprint]
            for table, places in self._pieces(block, fingerprint, wanted, own, clip_ids):
                assert places is not None  # ids were given
                yield table, places.to_numpy()

    def _pieces(
        self, block: str, fingerprint: str, wanted: pa.Schema, signals: Sequence[str], clip_ids: Ids | None
    ) -> Iterator[tuple[pa.Table, pa.Array | None]]:
        entries = self.parts(block, fingerprint)
        places: dict[str, pa.Array] = {}
        if clip_ids is not None:
            places = self._places(block, fingerprint, _string_array(clip_ids))
            entries = [entry for entry in entries if entry.path in places]

        def load(entry: Entry) -> tuple[pa.Table, pa.Array | None] | None:
            part = self.scan_one(entry, wanted.names)
            if isinstance(part, UnreadablePart):
                log.warning("%s: left out: %s", self.filesystem.place(entry.path), part.reason)
                return None
            table = part.table
            keep = pc.is_in(table["signal"], value_set=pa.array(signals, pa.string())).combine_chunks()
            own = places.get(entry.path)
            if own is not None:
                keep = pc.and_(own.is_valid(), keep)
                own = own.filter(keep)
            return table.filter(keep).select(wanted.names).cast(wanted), own

        size = max((entry.size for entry in entries), default=0)
        for loaded in in_threads(self.filesystem, entries, load, size):
            if loaded is not None and loaded[0].num_rows:
                yield loaded

    def _places(self, block: str, fingerprint: str, clip_ids: pa.Array) -> dict[str, pa.Array]:
        """path -> place of each row's clip among the ids or null, of parts that hold any; one hash table for all."""
        paths, ids = [], []
        for part in self.scan(block, fingerprint, ["clip_id"]):
            if isinstance(part, ScannedPart):
                paths.append(part.entry.path)
                ids.append(part.table["clip_id"].combine_chunks())
        found = pc.index_in(pa.chunked_array(ids, pa.string()), value_set=clip_ids).combine_chunks()
        places, start = {}, 0
        for path, of_part in zip(paths, ids, strict=True):
            own = found.slice(start, len(of_part))
            start += len(of_part)
            if own.null_count < len(own):
                places[path] = own
        return places


def wanted_schema(schema: pa.Schema, columns: Sequence[str] | None, url: str) -> pa.Schema:
    """Return the keys and the columns asked for, with the schema's metadata.

    Raises:
        UsageError: no such column.
    """
    if columns is None:
        return schema
    unknown = [name for name in columns if name not in schema.names]
    if unknown:
        known = ", ".join(schema.names)
        raise UsageError(f"{url}: no column {unknown[0]!r}; expected one of: {known}")
    names = [*row_keys(schema), *(name for name in columns if name not in row_keys(schema))]
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def _string_array(values: Ids) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.string()) if isinstance(values, pa.Array) else pa.array(values, pa.string())
