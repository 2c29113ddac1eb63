"""A block as a table that other programs know: a Delta table, or a data set in the layout of the Hugging Face Hub.

Both hold each key once, in the order of the keys, and go range by range, so memory does not grow with the block.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from acoustic_env.errors import UsageError
from acoustic_env.io.files import check_place, put_file, write_bytes
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import join, local_path
from acoustic_env.store.export import RANGE_BYTES, choose_versions
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.ranges import clip_bounds, each_key_once, sorted_ranges
from acoustic_env.store.schema import describe

if TYPE_CHECKING:
    from deltalake import DeltaTable

Format = Literal["delta", "huggingface"]
SHARD_RANGES: Final = 4  # ranges in one shard
FINGERPRINT: Final = "fingerprint"
KEYS: Final = ("clip_id", "signal", FINGERPRINT)
_SHARD: Final = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet")
_SIZES: Final = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"),
                 (1e8, "10M<n<100M"), (1e9, "100M<n<1B"))  # fmt: skip


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        out: where.
        added: rows written by this call.
        rows: in the table now.
    """

    out: str
    added: int
    rows: int


def publish(
    store: FeatureStore,
    block: str,
    out: str,
    form: Format,
    fingerprints: Sequence[str] = (),
    signals: Sequence[str] | None = None,
    license_id: str = "unknown",
) -> Published:
    """Write a block's rows to a Delta table or a Hugging Face data set.

    Args:
        store: the store.
        block: which.
        out: folder of the table, at any URL. A Delta table that is there gets the rows that it lacks, in one commit; a
            data set is written anew.
        form: which of the two.
        fingerprints: which versions; empty for the only one of each signal.
        signals: only these; None for all.
        license_id: of the data set, for its card.

    Raises:
        UsageError: no such block or signal, `deltalake` is not installed, the Delta table has rows of another version
            or columns, or the place cannot be written.
        StoreError: the store cannot be read.
    """
    versions = choose_versions(store, block, fingerprints, signals)
    with tempfile.TemporaryDirectory(prefix="acoustic-env-publish-") as name:
        if form == "delta":
            return _publish_delta(store, block, versions, out, Path(name))
        return _publish_huggingface(store, block, versions, out, license_id, Path(name))


def _publish_delta(store: FeatureStore, block: str, versions: Mapping[str, str], out: str, work: Path) -> Published:
    try:
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        msg = "--format delta needs the package deltalake; install it: pip install 'acoustic-env[delta]'"
        raise UsageError(msg) from error
    check_place(join(out, "_delta_log"))
    place, options = _delta_place(out)
    try:
        table = None
        with suppress(TableNotFoundError):
            table = DeltaTable(place, storage_options=options)
        there = _delta_keys(table) if table is not None else _no_keys()
        before = table.to_pyarrow_dataset().count_rows() if table is not None else 0
        _check_versions(there, versions, out)
        missing = _missing_keys(store, block, versions, there)
        if not missing.num_rows:
            return Published(out, 0, before)
        batches = _delta_batches(store, block, versions, missing, work)
        app = f"acoustic-env/{block}"
        number = ((table.transaction_version(app) if table is not None else None) or 0) + 1
        write_deltalake(
            table if table is not None else place,
            pa.RecordBatchReader.from_batches(_delta_schema(store.joint_schema(block, versions)), batches),
            mode="append" if table is not None else "error",
            name=block,
            description=f"Feature block {block}, one row for each clip and signal",
            storage_options=options,
            # Two that publish at once would both add the same rows: one of them gets a conflict.
            commit_properties=CommitProperties(app_transactions=[Transaction(app, number)]),
        )
        rows = DeltaTable(place, storage_options=options).to_pyarrow_dataset().count_rows()
        return Published(out, rows - before, rows)
    except (DeltaError, OSError) as error:
        raise UsageError(f"{out}: the Delta table cannot be read or written: {error}") from error


def _delta_place(out: str) -> tuple[str, dict[str, str]]:
    """The table's URL as deltalake wants it, and the settings of the object store that s3fs takes from elsewhere."""
    path = local_path(out)
    if path is not None:
        return str(path.absolute()), {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    if endpoint.startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    return out.replace("s3a://", "s3://", 1), options


def _no_keys() -> pa.Table:
    return pa.schema([(name, pa.string()) for name in KEYS]).empty_table()


def _delta_keys(table: DeltaTable) -> pa.Table:
    """Each (clip_id, signal, fingerprint) of the table."""
    dataset = table.to_pyarrow_dataset()
    absent = [name for name in KEYS if name not in dataset.schema.names]
    if absent:
        raise UsageError(f"{table.table_uri}: a Delta table of another program, without column {absent[0]!r}")
    found = [_no_keys()]
    for batch in dataset.to_batches(columns=list(KEYS)):
        keys = pa.Table.from_batches([batch]).cast(_no_keys().schema)
        found.append(keys.group_by(list(KEYS)).aggregate([]).select(list(KEYS)))
    return pa.concat_tables(found)


def _check_versions(there: pa.Table, versions: Mapping[str, str], out: str) -> None:
    for row in there.group_by(["signal", FINGERPRINT]).aggregate([]).to_pylist():
        signal, fingerprint = row["signal"], row[FINGERPRINT]
        if versions.get(signal, fingerprint) != fingerprint:
            raise UsageError(
                f"{out}: has rows of version {fingerprint} of signal {signal}, not {versions[signal]}; give another "
                f"--out, or --fingerprint {fingerprint}"
            )


def _missing_keys(store: FeatureStore, block: str, versions: Mapping[str, str], there: pa.Table) -> pa.Table:
    """(clip_id, signal) of the store that the table lacks."""
    found = []
    for signal, fingerprint in versions.items():
        keys = store.committed_keys(block, fingerprint)
        keys = keys.filter(pc.equal(keys["signal"], signal))
        done = there.filter(pc.equal(there["signal"], signal))["clip_id"]
        found.append(keys.filter(pc.invert(pc.is_in(keys["clip_id"], value_set=done))))
    return pa.concat_tables(found)


def _delta_batches(
    store: FeatureStore, block: str, versions: Mapping[str, str], missing: pa.Table, work: Path
) -> Iterator[pa.RecordBatch]:
    """The rows of the missing keys, with the version of each."""
    schema = store.joint_schema(block, versions)
    target = _delta_schema(schema)
    bounds = clip_bounds(store, block, versions, schema, RANGE_BYTES)
    wanted = {
        signal: missing.filter(pc.equal(missing["signal"], signal))["clip_id"].combine_chunks() for signal in versions
    }
    pieces = store.pieces(block, versions, schema, clip_ids=pc.unique(missing["clip_id"]))
    for table in map(each_key_once, sorted_ranges(pieces, bounds, schema, work)):
        for signal, clips in wanted.items():
            rows = table.filter(pc.and_(pc.equal(table["signal"], signal), pc.is_in(table["clip_id"], value_set=clips)))
            rows = rows.append_column(FINGERPRINT, pa.repeat(pa.scalar(versions[signal]), rows.num_rows))
            yield from rows.cast(target).to_batches()


def _delta_schema(schema: pa.Schema) -> pa.Schema:
    """The columns with types that Delta has, and the version of each row."""
    fields = [pa.field(field.name, _delta_type(field.type), field.nullable) for field in schema]
    return pa.schema([*fields, pa.field(FINGERPRINT, pa.string(), nullable=False)])


def _delta_type(kind: pa.DataType) -> pa.DataType:
    """Lists of any length, and signed integers that hold the unsigned ones."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_delta_type(kind.value_type))
    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.float16(): pa.float32()}
    return wider.get(kind, kind)


def _publish_huggingface(
    store: FeatureStore, block: str, versions: Mapping[str, str], out: str, license_id: str, work: Path
) -> Published:
    schema = store.joint_schema(block, versions)
    bounds = clip_bounds(store, block, versions, schema, RANGE_BYTES)
    shards = -(-(len(bounds) + 1) // SHARD_RANGES)
    ranges = map(each_key_once, sorted_ranges(store.pieces(block, versions, schema), bounds, schema, work))
    names, rows, uncompressed, size = [], 0, 0, 0
    for number in range(shards):
        file = work / "shard.parquet"
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for _, table in zip(range(SHARD_RANGES), ranges, strict=False):
                writer.write_table(table)
                rows, uncompressed = rows + table.num_rows, uncompressed + table.nbytes
        names.append(f"data/train-{number:05d}-of-{shards:05d}.parquet")
        size += file.stat().st_size
        put_file(file, join(out, names[-1]))
    card = _card(store, block, versions, schema, {"rows": rows, "bytes": uncompressed, "download": size}, license_id)
    write_bytes(join(out, "README.md"), card.encode())
    filesystem = open_filesystem(out)
    for entry in filesystem.entries("data"):  # shards of an earlier, larger or smaller one
        if _SHARD.fullmatch(entry.path) and entry.path not in names:
            filesystem.remove(entry.path)
    return Published(out, rows, rows)


def _card(
    store: FeatureStore,
    block: str,
    versions: Mapping[str, str],
    schema: pa.Schema,
    counts: Mapping[str, int],
    license_id: str,
) -> str:
    """The data set's card: what the Hub reads as YAML, then for people columns and provenance."""
    split = {"name": "train", "num_bytes": counts["bytes"], "num_examples": counts["rows"]}
    header = {
        "license": license_id,
        "pretty_name": f"Acoustic features: {block}",
        "size_categories": [next((name for most, name in _SIZES if counts["rows"] < most), "n>1T")],
        "tags": ["audio", "acoustic features"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": [{"name": field.name, **_feature(field.type)} for field in schema],
            "splits": [split],
            "download_size": counts["download"],
            "dataset_size": counts["bytes"],
        },
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", "", f"# {block}", ""]
    lines += [f"{counts['rows']:,} rows, each clip and signal once; undefined numbers are null.", ""]
    lines += ["| column | type | unit | description |", "|---|---|---|---|"]
    for field in schema:
        told = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        cells = (field.name, str(field.type), told.get("unit", ""), told.get("description", ""))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", "## Provenance", ""]
    for fingerprint in dict.fromkeys(versions.values()):
        described = describe(store.schema(block, fingerprint).metadata)
        assert described is not None
        covered = ", ".join(signal for signal, version in versions.items() if version == fingerprint)
        lines.append(f"- {covered}: version `{fingerprint}`, engine {described.engine}")
        made = {**described.settings(), **described.made_with}
        lines += [f"  - {name}: `{value}`" for name, value in made.items() if value and len(value) <= 200]
    return "\n".join([*lines, "", "Made by `acoustic-env store publish`.", ""])


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type in the words of the Hub."""
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _feature(kind.value_type)
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"sequence": inner["dtype"] if list(inner) == ["dtype"] else inner, **length}
    return {"dtype": {"double": "float64", "float": "float32", "halffloat": "float16"}.get(str(kind), str(kind))}
