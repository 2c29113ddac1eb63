"""The feature store: write parts, find missing rows, read tables."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audio.signals import signal_order
from acoustic_env.errors import StoreInconsistentError, UsageError
from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.io.filesystem import Filesystem
from acoustic_env.store import layout
from acoustic_env.store.contents import StoreContents
from acoustic_env.store.manifest import Part
from acoustic_env.store.parts import in_threads, part_bytes
from acoustic_env.store.schema import (
    ERROR_SCHEMA,
    describe,
    digest,
    repeats,
    row_keys,
    sort_by_key,
)

Ids: TypeAlias = pa.ChunkedArray | pa.Array | Sequence[str]


class FeatureStore(StoreContents):
    """Feature tables, errors and run records below one URL.

    Readers need no lease and see whole parts only. A writer holds the lease (`store.lease`).

    Args:
        url: a folder, `s3://bucket/prefix`, or another fsspec URL. Nothing is created before the first write.
    """

    def begin(self, block: str, fingerprint: str, token: int) -> list[str]:
        """Begin to write a version: later commits of holders of smaller fencing ids are of no account.

        Parts that scans of this object have found gone or damaged are not in the table any more.

        Args:
            block, fingerprint: the version.
            token: fencing id of the block's lease, which the caller holds.

        Returns:
            A line for each part that is lost.

        Raises:
            StoreError: a later writer has begun, or it cannot be written.
        """
        version = self.version(block, fingerprint)
        lost = self.lost_parts(block, fingerprint)
        kept = [part for part in version.parts() if part.path not in {other.path for other in lost}]
        version.begin(token, kept if lost else None)
        return [
            f"{self.filesystem.place(part.path)}: {self.unreadable.pop(part.path).reason}; {part.rows:,} rows of clips "
            f"{part.first} to {part.last} are lost; what the clip list has of them is computed again"
            for part in lost
        ]

    def lost_parts(self, block: str, fingerprint: str) -> list[Part]:
        """Return the parts of a version that scans of this object have found gone or damaged."""
        return [part for part in self.parts(block, fingerprint) if part.path in self.unreadable]

    def drop_lost_errors(self) -> list[str]:
        """Remove the parts of the errors table that this object has found damaged; return a line for each."""
        lost = [path for path in self.unreadable if path.startswith(f"{layout.ERRORS}/")]
        for path in lost:
            self.filesystem.remove(path)
        return [
            f"{self.filesystem.place(path)}: {self.unreadable.pop(path).reason}; its clips are tried again"
            for path in lost
        ]

    def write_part(self, table: pa.Table, token: int | None = None, name: str | None = None) -> str:
        """Write rows of one block as one part, whole or not at all, and name it in a manifest.

        Args:
            table: at least one row, schema from `features.block.table_schema`; any order.
            token: fencing id of a holder that has begun (`begin`); None for the last one, where no other can write.
            name: of the commit, which a task that is done again gives again: then nothing is written. None derives one
                from the rows' keys.

        Returns:
            The part's path in the store.

        Raises:
            ValueError: no block in the schema's metadata, a null or repeated key, or no rows.
            StoreError: it cannot be written.
        """
        described = describe(table.schema.metadata)
        if described is None or not table.num_rows:
            raise ValueError("a part needs rows, and a schema whose metadata name block and fingerprint (table_schema)")
        table = _sorted_by_unique_key(table, described.block)
        version = self.version(described.block, described.fingerprint)
        if token is None:
            token = version.fencing_id()
            version.begin(token)
        if name is None:
            name = digest(table, row_keys(table.schema), f"{described.block}/{described.fingerprint}")
        if (there := version.committed(token, name)) is not None:
            return there.path
        part = put_part(self.filesystem, layout.part_path(version.folder, name), table)
        version.commit(token, name, part)
        return part.path

    def write_errors(self, table: pa.Table, name: str | None = None) -> str:
        """Write rows of `ERROR_SCHEMA` as one part of the errors table; returns its path.

        Args:
            table: the rows.
            name: of the part, which a task that is done again gives again; None makes one.

        Raises:
            StoreError: it cannot be written.
        """
        order = [(key, "ascending") for key in ERROR_SCHEMA.names]
        table = table.select(ERROR_SCHEMA.names).cast(ERROR_SCHEMA).sort_by(order).combine_chunks()
        if name is None:
            name = uuid.uuid4().hex
        path = layout.part_path(layout.ERRORS, name)
        self.filesystem.write(path, part_bytes(table))
        return path

    def write_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Write (or replace) the record of a run as `runs/<run_id>/record.json`."""
        text = json.dumps(record, sort_keys=True, indent=1, allow_nan=False, default=str)
        self.filesystem.write(layout.run_path(run_id), text.encode())

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
            versions = self._described(block)
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
                    f"name one (`compare`, `train`: --fingerprint {block}=FINGERPRINT):\n{self._described(block)}"
                )
        return {signal: found[signal][0] for signal in wanted}

    def _described(self, block: str) -> str:
        return "\n".join(
            f"  {version.fingerprint}  version {version.version}, engine {version.engine}, "
            f"signals {','.join(self.signals(version))}"
            for version in self.fingerprints(block)
        )

    def joint_schema(self, block: str, versions: Mapping[str, str]) -> pa.Schema:
        """Return the schema of the rows of several signals, with the metadata in which their versions are alike.

        Where they are not alike, `fingerprints` has the mapping of signals as JSON in place of `fingerprint`.

        Raises:
            UsageError: their columns differ.
            StoreInconsistentError: no part of a version can be read.
        """
        parts = {version: self.first_part(block, version) for version in dict.fromkeys(versions.values())}
        schemas = {version: part.schema for version, part in parts.items() if part is not None}
        if not schemas or len(schemas) < len(parts):
            msg = f"{self.url}: no part of block {block} can be read; see acoustic-env store verify {self.url}"
            raise StoreInconsistentError(msg)
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
        return (table for table, _ in self.placed(block, versions, wanted, clip_ids))

    def placed(
        self, block: str, versions: Mapping[str, str], wanted: pa.Schema, clip_ids: Ids | None
    ) -> Iterator[tuple[pa.Table, npt.NDArray[np.int32]]]:
        """Yield the pieces of some clips, each with the place of every row's clip in `clip_ids`, int32 [rows].

        One pass over the parts, whatever the order of the ids; without ids all rows come, without places.
        """
        for fingerprint in dict.fromkeys(versions.values()):
            signals = pa.array([signal for signal, version in versions.items() if version == fingerprint], pa.string())
            parts = self.parts(block, fingerprint)
            places: dict[str, pa.Array] = {}
            if clip_ids is not None:
                places = self._places(parts, _string_array(clip_ids))
                parts = [part for part in parts if part.path in places]

            def load(
                part: Part, signals: pa.Array = signals, places: Mapping[str, pa.Array] = places
            ) -> tuple[pa.Table, npt.NDArray[np.int32]]:
                table = self.read_one(part, wanted.names).table
                own = places.get(part.path, pa.array(np.zeros(table.num_rows, np.int32)))
                keep = pc.and_(own.is_valid(), pc.is_in(table["signal"], value_set=signals).combine_chunks())
                return table.filter(keep).select(wanted.names).cast(wanted), own.filter(keep).to_numpy()

            size = max((part.size for part in parts), default=0)
            for table, own in in_threads(self.filesystem, parts, load, size):
                if table.num_rows:
                    yield table, own

    def _places(self, parts: Sequence[Part], clip_ids: pa.Array) -> dict[str, pa.Array]:
        """path -> place of each row's clip among the ids or null, of parts that hold any; one hash table for all."""
        paths, ids = [], []
        for part in in_threads(self.filesystem, parts, lambda part: self.read_one(part, ["clip_id"])):
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


def new_part(path: str, table: pa.Table, size: int = 0) -> Part:
    """Return what a manifest says of rows sorted by key, in a file of so many bytes."""
    ids = table["clip_id"]
    return Part(path, size, 0.0, table.num_rows, ids[0].as_py(), ids[-1].as_py())


def put_part(filesystem: Filesystem, path: str, table: pa.Table) -> Part:
    """Write rows sorted by key as a part; it counts once a manifest names it."""
    data = part_bytes(table)
    filesystem.write(path, data)
    return new_part(path, table, len(data))


def _sorted_by_unique_key(table: pa.Table, block: str) -> pa.Table:
    keys = row_keys(table.schema)
    empty = [name for name in keys if table[name].null_count]
    if empty or "signal" not in keys:
        raise ValueError(f"{block}: {empty[0] if empty else 'signal'} has nulls or is missing; keys are {keys}")
    table = sort_by_key(table)
    again = pc.indices_nonzero(repeats(table))
    if len(again):
        row = table.select(keys).slice(again[0].as_py(), 1).to_pylist()[0]
        raise ValueError(f"{block}: the key {row} is twice in one part")
    return table


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
    names = dict.fromkeys([*row_keys(schema), *columns])
    return pa.schema([schema.field(name) for name in names], metadata=schema.metadata)


def _string_array(values: Ids) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.string()) if isinstance(values, pa.Array) else pa.array(values, pa.string())
