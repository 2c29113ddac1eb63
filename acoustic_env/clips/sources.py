"""The source of a clip (location and segment) in one spelling, and whether two sources are the same audio."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.errors import UsageError
from acoustic_env.io.location import local_path, split_shard, without_credentials

SOURCE_COLUMNS: Final = ("uri", "start_s", "end_s")
LISTED_SCHEMA: Final = pa.schema(
    [("clip_id", pa.string()), ("uri", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64())]
)
SAME_TIME_S: Final = 1e-6
# Of absolute paths and URLs: in a shard, a path with "." or ".." or two slashes, a query, a fragment or a user.
_SEVERAL_SPELLINGS: Final = r"^(tar|parquet|file)://|^(/.*)?/\.{0,2}(/|$)|[?#@]"
# Whether two sources, locations in one spelling, are the same audio, in SQL. A start of null is 0 s; an end of null is
# the end of the file and equals no time. A name without a place (audioset://<ytid>/<start in ms>, of AudioSet's
# released embeddings) is the same audio as any place whose segment does not contradict it.
MACROS: Final = rf"""
CREATE MACRO named_s(uri) AS CASE WHEN starts_with(uri, 'audioset://')
    THEN TRY_CAST(regexp_extract(uri, '^audioset://[^/]+/([0-9]+)$', 1) AS DOUBLE) / 1000 END;
CREATE MACRO named_by(uri, name, start_s) AS
    named_s(name) IS NOT NULL AND named_s(uri) IS NULL
    AND coalesce(abs(start_s - named_s(name)) <= {SAME_TIME_S}, true);
CREATE MACRO same_times(start_s, end_s, other_start_s, other_end_s) AS
    abs(coalesce(start_s, 0) - coalesce(other_start_s, 0)) <= {SAME_TIME_S}
    AND coalesce(abs(end_s - other_end_s) <= {SAME_TIME_S}, end_s IS NULL AND other_end_s IS NULL);
CREATE MACRO same_audio(uri, start_s, end_s, other_uri, other_start_s, other_end_s) AS
    coalesce(uri = other_uri, false) AND same_times(start_s, end_s, other_start_s, other_end_s)
    OR named_by(uri, other_uri, start_s) OR named_by(other_uri, uri, other_start_s);
CREATE MACRO relocated(uri, old, new) AS CASE
    WHEN uri = old OR starts_with(uri, old || '/') THEN new || substr(uri, length(old) + 1)
    ELSE regexp_replace(uri, '^((?:tar|parquet)://.*?::)' || regexp_escape(old) || '(/.*)?$',
                        '\1' || replace(new, '\', '\\') || '\2') END;
"""


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
    return respelled(uris, _canonical)


def respelled(uris: pa.Array, spell: Callable[[str], str]) -> pa.Array:
    """Return locations in another spelling; those that have one spelling anyway, as most have, stay.

    Args:
        uris: of clips.
        spell: called with a location, or with that of the file around a member of a tar shard or a row.
    """
    plain = pc.and_not(pc.match_substring_regex(uris, "^/|://"), pc.match_substring_regex(uris, _SEVERAL_SPELLINGS))
    others = pc.fill_null(pc.invert(plain), False)
    if not pc.any(others).as_py():
        return uris
    spelled = functools.cache(spell)
    changed = [f"{inner}{spelled(outer)}" for inner, outer in map(split_shard, uris.filter(others).to_pylist())]
    return pc.replace_with_mask(uris, others, pa.array(changed, pa.string()))


def _canonical(outer: str) -> str:
    path = local_path(outer)
    if path is None:
        return without_credentials(outer)
    return os.path.abspath(path) if outer else ""  # noqa: PTH100  Path.resolve follows links


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
    return Relocation(*(place.rstrip("/") for place in canonical_uris(pa.array([old, new])).to_pylist()))


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
