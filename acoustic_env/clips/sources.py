"""The source of a clip (location and segment) in one spelling, and whether two sources are the same audio."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.location import FILE_SCHEME, SHARD_SCHEMES, local_path, split_shard, without_credentials

SOURCE_COLUMNS: Final = ("uri", "start_s", "end_s")
LISTED_SCHEMA: Final = pa.schema(
    [("clip_id", pa.string()), ("uri", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
)
SAME_TIME_S: Final = 1e-6
# AudioSet's released embeddings name a video and a start in ms, but no place (clips.audioset.NO_AUDIO).
UNPLACED: Final = r"^audioset://[^/]+/(?P<ms>[0-9]+)$"

Bools = npt.NDArray[np.bool_]


def listed_sources(clips: pa.Table) -> pa.Table:
    """Return clip_id, uri, start_s and end_s of a clip list, locations in one spelling: `LISTED_SCHEMA`."""
    table = clips.select(LISTED_SCHEMA.names).cast(LISTED_SCHEMA).combine_chunks()
    uris = pa.chunked_array([canonical_uris(chunk) for chunk in table["uri"].chunks], pa.string())
    return table.set_column(1, LISTED_SCHEMA.field("uri"), uris)


def canonical_uris(uris: pa.Array) -> pa.Array:
    """Return each location in the one spelling in which sources are compared and stored.

    Local paths are absolute, without `.` and `..` (symbolic links are not followed), also those of tar shards and
    Parquet files; URLs lose passwords, tokens and the parameters of a signature.

    >>> canonical_uris(pa.array(["/data/./a.wav", "s3://b/a.wav?X-Amz-Date=1&v=2"])).to_pylist()
    ['/data/a.wav', 's3://b/a.wav?v=2']
    """
    path = pc.and_(pc.starts_with(uris, "/"), pc.invert(pc.match_substring_regex(uris, r"/(\.{0,2}/|\.{0,2}$)")))
    own = [pc.starts_with(uris, prefix) for prefix in (*SHARD_SCHEMES, FILE_SCHEME)]
    url = pc.and_(pc.match_substring(uris, "://"), pc.invert(pc.or_(pc.or_(own[0], own[1]), own[2])))
    plain = pc.and_(pc.or_(path, url), pc.invert(pc.match_substring_regex(uris, "[?#@]")))
    others = pc.fill_null(pc.invert(plain), False)
    if not pc.any(others).as_py():
        return uris
    outer: dict[str, str] = {}
    return pc.replace_with_mask(
        uris, others, pa.array([_canonical(uri, outer) for uri in uris.filter(others).to_pylist()], pa.string())
    )


def _canonical(uri: str, known: dict[str, str]) -> str:
    inner, outer = split_shard(uri)
    if outer not in known:
        path = local_path(outer)
        if path is not None:
            known[outer] = os.path.abspath(path) if outer else ""  # noqa: PTH100  Path.resolve follows links
        else:
            known[outer] = without_credentials(outer)
    return f"{inner}{known[outer]}"


def differing(one: pa.Table, other: pa.Table) -> Bools:
    """Return bool [rows]: whether the sources in the same rows of two tables are different audio.

    A start of null is 0 s; an end of null is the end of the file and equals no time. A name without a place
    (`audioset://<ytid>/<start in ms>`) is the same audio as any place whose segment does not contradict it.

    Args:
        one, other: tables with `SOURCE_COLUMNS`, as many rows each, locations as `canonical_uris` gives them.
    """
    differs = np.asarray(pc.fill_null(pc.not_equal(one["uri"], other["uri"]), True))
    starts = [_floats(table["start_s"], 0.0) for table in (one, other)]
    ends = [_floats(table["end_s"], np.inf) for table in (one, other)]
    with np.errstate(invalid="ignore"):
        late = (np.abs(starts[0] - starts[1]) > SAME_TIME_S) | (np.abs(ends[0] - ends[1]) > SAME_TIME_S)
    moved = np.flatnonzero(differs)
    result: Bools = differs | late
    if len(moved):
        rows = pa.array(moved)
        pair = (one.take(rows), other.take(rows))
        names = [_named_start_s(table["uri"]) for table in pair]
        for table, here, there in ((pair[1], *names), (pair[0], *reversed(names))):
            start = _floats(table["start_s"], np.nan)
            fits = ~np.isnan(here) & np.isnan(there) & (np.isnan(start) | (np.abs(start - here) <= SAME_TIME_S))
            result[moved[fits]] = False
    return result


def unplaced(sources: pa.Table) -> Bools:
    """Return bool [rows]: sources that name a clip of AudioSet, but no place where its audio is."""
    return ~np.isnan(_named_start_s(sources["uri"]))


def _named_start_s(uris: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Return the start in s of a name without a place, NaN for every other location."""
    if not pc.any(pc.starts_with(uris, "audioset://")).as_py():
        return np.full(len(uris), np.nan)
    named = pc.struct_field(pc.extract_regex(uris, UNPLACED), "ms")
    return _floats(pc.cast(named, pa.float64()), np.nan) / 1000


def _floats(values: pa.ChunkedArray, null: float) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(values, null).to_numpy(), np.float64)


def describe_source(row: dict[str, Any]) -> str:
    """Return a source as text.

    >>> describe_source({"uri": "/a.wav", "start_s": 0.0, "end_s": 10.0})
    '/a.wav (0 to 10 s)'
    """
    start, end = row["start_s"], row["end_s"]
    if not start and end is None:
        return f"{row['uri']} (whole file)"
    return f"{row['uri']} ({start or 0.0:.10g} to {'the end' if end is None else f'{end:.10g} s'})"


@dataclass(frozen=True)
class Relocation:
    """Audio that moved, the same files: what was below one prefix is below another."""

    old: str  # prefixes of locations, whole path components, without a slash at the end
    new: str

    def apply(self, sources: pa.Table) -> pa.Table:
        """Return the sources with locations below `old` moved below `new`, also those of shards."""
        uris = sources["uri"]
        whole = pc.or_(pc.starts_with(uris, f"{self.old}/"), pc.equal(uris, self.old))
        moved = pc.if_else(whole, pc.utf8_replace_slice(uris, 0, len(self.old), self.new), uris)
        if pc.any(pc.match_substring(uris, "::")).as_py():
            pattern = rf"^((?:tar|parquet)://.*?::){re.escape(self.old)}(/.*)?$"
            new = self.new.replace("\\", r"\\")
            moved = pc.replace_substring_regex(moved, pattern, rf"\1{new}\2")
        return sources.set_column(sources.schema.get_field_index("uri"), "uri", moved)


def parse_relocation(text: str) -> Relocation:
    """Parse `OLD=NEW`; of several `=` the first before a path or URL counts.

    Raises:
        UsageError: it is not of this form.
    """
    pieces = re.split(r"=(?=/|[a-z][a-z0-9+.-]*://)", text, maxsplit=1)
    old, separator, new = (pieces[0], "=", pieces[1]) if len(pieces) == 2 else text.partition("=")
    if not separator or not old or not new:
        msg = f"--relocated {text}: expected OLD=NEW, two prefixes of locations, such as /old/place=s3://bucket/place"
        raise UsageError(msg)
    known: dict[str, str] = {}
    places = [_canonical(place, known).rstrip("/") for place in (old, new)]
    return Relocation(*places)


def suggest_relocation(old: str, new: str) -> Relocation | None:
    """Return the relocation with the shortest prefixes that maps one location to another, None where nothing is common.

    >>> suggest_relocation("/old/rec/a.wav", "/new/place/rec/a.wav")
    Relocation(old='/old', new='/new/place')
    """
    left, right = (uri.rpartition("::")[2].split("/") for uri in (old, new))
    while len(left) > 1 and len(right) > 1 and left[-1] == right[-1]:
        left, right = left[:-1], right[:-1]
    one, other = "/".join(left), "/".join(right)
    usable = all("://" not in place or place.partition("://")[2] for place in (one, other))
    return Relocation(one, other) if one and other and one != other and usable else None


def unreconciled(one: pa.Table, other: pa.Table, relocations: Sequence[Relocation]) -> tuple[Bools, list[int]]:
    """Return which rows are different audio even after the relocations, and how many rows each relocation explained.

    The relocations are applied to the earlier sources, `one`, in turn; `other` has as many rows.
    """
    differs = differing(one, other)
    explained = []
    for relocation in relocations:
        before = int(differs.sum())
        if before:
            one = relocation.apply(one)
            differs &= differing(one, other)
        explained.append(before - int(differs.sum()))
    return differs, explained


def contradictions(
    lists: Iterable[tuple[str, pa.Table]], relocations: Sequence[Relocation] = ()
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the earlier and the later source of each id that is of different audio in two lists, with their `list`.

    >>> rows = [pa.table({"clip_id": ["a"], "uri": [uri], "start_s": [0.0], "end_s": [1.0]}) for uri in ("/a", "/b")]
    >>> [(one["uri"], other["list"]) for one, other in contradictions(zip(["first", "second"], rows))]
    [('/a', 'second')]

    Args:
        lists: name of each list, and its clips as `listed_sources` gives them, further columns allowed.
        relocations: of audio that moved between an earlier and a later list.
    """
    names: list[str] = []
    seen: pa.Table | None = None
    for name, listed in lists:
        listed = listed.append_column("list", pa.array(np.full(len(listed), len(names), np.int32)))
        names.append(name)
        seen = listed.schema.empty_table() if seen is None else seen
        before = pc.index_in(listed["clip_id"], value_set=seen["clip_id"].combine_chunks())
        first, again = seen.take(before.drop_null()), listed.filter(pc.is_valid(before))
        differs, _ = unreconciled(first, again, relocations)
        for one, other in zip(first.filter(differs).to_pylist(), again.filter(differs).to_pylist(), strict=True):
            yield {**one, "list": names[one["list"]]}, {**other, "list": name}
        seen = pa.concat_tables([seen, listed.filter(pc.is_null(before))])
