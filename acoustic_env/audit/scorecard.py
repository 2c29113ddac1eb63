"""Compare any relabeling with human votes: does it keep, add and remove the labels that people would?

The votes file is a CSV (or Parquet) table with one row per clip and candidate label that people voted on:

    clip_id,label,yes,no[,given]

`clip_id` as in the clip list (for AudioSet `<ytid>` or `<ytid>_<start in ms>`), `label` an id or a display name, `yes`
and `no` the number of votes that the label applies or does not, `given` (true/false) whether the original list gives
it; without that column the labels table's own `given` is used.

A good relabeling discriminates: it keeps more of the given labels that people confirm than of
those they reject, and adds more of the missing labels they confirm than of those they reject. A difference near 0 is
chance, however many labels were changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.intervals import Bools, Floats, Interval, from_variance, percentile
from acoustic_env.audit.table import require_columns, table_schema
from acoustic_env.errors import UsageError

VOTES_SCHEMA: Final = table_schema(
    {"clip_id": pa.string(), "label": pa.string(), "yes": pa.int64(), "no": pa.int64(), "given": pa.bool_()},
    nullable=("given",),
)


@dataclass(frozen=True)
class Pairs:
    """Clip-label pairs that people voted on and the relabeling covers.

    Attributes:
        clip: [pairs] number of the clip.
        confirmed: [pairs] more yes than no.
        given: [pairs] originally given.
        now: [pairs] applies after relabeling.
        tied, uncovered: pairs left out because votes tie, or because the relabeling does not cover the clip.
    """

    clip: npt.NDArray[np.int64]
    confirmed: Bools
    given: Bools
    now: Bools
    tied: int
    uncovered: int


def pair_up(
    votes: pa.Table,
    where: str,
    now: Mapping[str, set[str]],
    given: Mapping[str, set[str]] | None,
    spelling: Mapping[str, str],
) -> Pairs:
    """Join votes with a relabeling.

    Args:
        votes: in the format above.
        where: its file, for messages.
        now: clip id -> labels after relabeling.
        given: clip id -> original labels; None: the votes' own `given` column.
        spelling: display name -> id; labels on all sides are compared after it.

    Raises:
        UsageError: columns are missing, `given` is unknown, or no pair is covered.

    >>> rows = {"clip_id": ["a_0", "a_0", "b"], "label": ["Rain", "Wind", "Rain"], "yes": [3, 1, 1], "no": [0, 2, 1]}
    >>> pairs = pair_up(pa.table(rows), "votes.csv", {"a": {"/m/1"}, "b": set()}, {"a": set()}, {"Rain": "/m/1"})
    >>> pairs.confirmed.tolist(), pairs.given.tolist(), pairs.now.tolist(), pairs.tied
    ([True, False], [False, False], [True, False], 1)
    """
    votes = require_columns(votes, VOTES_SCHEMA, where, "a votes file")
    if given is None and votes.column("given").null_count:
        msg = f"{where}: whether a label was originally given is unknown; add the column 'given' (true or false)"
        raise UsageError(msg)
    rows, tied, uncovered = [], 0, 0
    for entry in votes.to_pylist():
        clip = _known(entry["clip_id"], now)
        label = spelling.get(entry["label"], entry["label"])
        if clip is None:
            uncovered += 1
        elif entry["yes"] == entry["no"]:
            tied += 1
        else:
            was = entry["given"] if given is None else label in given.get(clip, set())
            rows.append((clip, entry["yes"] > entry["no"], was, label in now[clip]))
    if not rows:
        msg = f"{where}: none of its {votes.num_rows} pairs is of a clip that the relabeling covers; compare the ids"
        raise UsageError(msg)
    clips, confirmed, was, is_ = zip(*rows, strict=True)
    index = np.unique(np.asarray(clips), return_inverse=True)[1].astype(np.int64)
    return Pairs(index, np.array(confirmed), np.array(was), np.array(is_), tied, uncovered)


def scorecard(pairs: Pairs, seed: int = 23, draws: int = 2000) -> dict[str, Interval]:
    """Return shares and differences with intervals from resampling clips.

    `keep of confirmed`, `keep of rejected`, `keep discrimination` (among given labels), the same for `add` (among
    labels not given), and how often the relabeling and the original labels agree with the majority.

    >>> confirmed = np.arange(200) % 2 == 0  # 100 clips with a confirmed and a rejected given label each
    >>> pairs = Pairs(np.arange(200) // 2, confirmed, np.full(200, True), confirmed | (np.arange(200) < 100), 0, 0)
    >>> found = scorecard(pairs, draws=500)
    >>> print(found["keep of confirmed"], found["keep discrimination"], sep=chr(10))
    1.000 (0.963 to 1.000, n = 100, clip bootstrap)
    0.500 (0.405 to 0.600, n = 200, clip bootstrap)
    """
    clips = int(pairs.clip.max()) + 1
    rng = np.random.default_rng(seed)
    again = rng.multinomial(clips, np.full(clips, 1.0 / clips), size=draws).astype(np.float64)
    weights = np.vstack([np.ones(clips), again])
    found: dict[str, Interval] = {}

    def share(name: str, event: Bools, among: Bools) -> Floats:
        hits = np.bincount(pairs.clip, weights=event & among, minlength=clips)
        all_ = np.bincount(pairs.clip, weights=among, minlength=clips)
        with np.errstate(invalid="ignore", divide="ignore"):
            values: Floats = (weights @ hits) / (weights @ all_)
        # A percentile interval of a share near 0 or 1 covers too rarely: Wilson with the bootstrap's variance.
        estimate, spread = float(values[0]), float(np.nanvar(values[1:])) if among.any() else 0.0
        found[name] = from_variance(estimate, spread, int(among.sum()), "clip bootstrap")
        return values

    for action, among in (("keep", pairs.given), ("add", ~pairs.given)):
        confirmed = share(f"{action} of confirmed", pairs.now, among & pairs.confirmed)
        rejected = share(f"{action} of rejected", pairs.now, among & ~pairs.confirmed)
        apart, n = confirmed - rejected, int(among.sum())
        found[f"{action} discrimination"] = percentile(apart[1:], float(apart[0]), n, "clip bootstrap")
    pairs_all = np.ones(len(pairs.clip), dtype=bool)
    share("agreement of the relabeling", pairs.now == pairs.confirmed, pairs_all)
    share("agreement of the original", pairs.given == pairs.confirmed, pairs_all)
    return found


def audioset_r(document: Any, where: str) -> dict[str, set[str]]:
    """Return clip id (the video's) -> labels of an AudioSet-R JSON file ({"data": [{"wav": ..., "labels": "a,b"}]}).

    Raises:
        UsageError: the document is of another form.

    >>> audioset_r({"data": [{"wav": "eval/Yabcdefghijk.wav", "labels": "/m/09x0r,/m/04rlf"}]}, "r.json") == {
    ...     "abcdefghijk": {"/m/09x0r", "/m/04rlf"}
    ... }
    True
    """
    found: dict[str, set[str]] = {}
    try:
        for entry in document["data"]:
            video = PurePosixPath(entry["wav"]).stem.removeprefix("Y")
            found[video] = {label for label in entry["labels"].split(",") if label}
    except (TypeError, KeyError, AttributeError) as error:
        msg = f'{where}: not an AudioSet-R file ({{"data": [{{"wav": ..., "labels": "/m/..,/m/.."}}]}}): {error!r}'
        raise UsageError(msg) from error
    return found


def by_clip(
    clip_ids: Sequence[str], labels: Sequence[str], chosen: Bools, spelling: Mapping[str, str]
) -> dict[str, set[str]]:
    """Return clip id -> labels of the chosen rows; clips without one get an empty set.

    >>> by_clip(["a", "a", "b"], ["Rain", "Wind", "Rain"], np.array([True, False, False]), {"Rain": "/m/1"})
    {'a': {'/m/1'}, 'b': set()}
    """
    found: dict[str, set[str]] = {clip_id: set() for clip_id in clip_ids}
    for clip_id, label, is_ in zip(clip_ids, labels, chosen.tolist(), strict=True):
        if is_:
            found[clip_id].add(spelling.get(label, label))
    return found


def _known(clip_id: str, now: Mapping[str, set[str]]) -> str | None:
    """Return the id in the spelling of the relabeling: as it is, or without the start time."""
    if clip_id in now:
        return clip_id
    video = clip_id.rpartition("_")[0]
    return video if video in now else None
