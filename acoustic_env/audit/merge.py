"""Merge new decisions into the last version of the labels: used by `audit relabel` and `reannotate` alike."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.frames import row_keys


def merge(before: pa.Table | None, now: pa.Table) -> pa.Table:
    """Return the whole labels table: rows decided now, all other rows as they were.

    A row with answers keeps that decision unless it has answers now (`relabel` with `before` carries them over).

    Args:
        before: the last version, None for the first.
        now: from `relabel`.
    """
    if before is None:
        return now
    before = before.drop_columns(["version", "previous_version"])
    listened = pc.and_(pc.is_valid(before["votes"]), pc.invert(_among(before, now.filter(pc.is_valid(now["votes"])))))
    stays = before.filter(pc.or_(pc.invert(_among(before, now)), listened))
    decided = now.filter(pc.invert(_among(now, stays)))
    whole = pa.concat_tables([stays, decided], promote_options="default")
    scorers = sorted(set(whole.column_names) - {*now.column_names[:4], *now.column_names[-3:]})
    names = [*now.column_names[:4], *scorers, *now.column_names[-3:]]
    return whole.select(names).sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()


def _among(rows: pa.Table, others: pa.Table) -> pa.Array:
    """Return [rows] whether (clip, label) is among the others."""
    return pc.is_in(row_keys(rows), value_set=row_keys(others))
