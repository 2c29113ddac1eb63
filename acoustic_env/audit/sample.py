"""Draw probability samples of clip-label rows to annotate, with all that a valid estimate needs stored in the table.

The sample table (`sample.parquet`, read by the listening page and by `audit estimate`):

    clip_id, label           the clip to annotate, and the label in question (hidden from the annotator)
    order                    int64, random order of presentation, 0 first
    stratum                  string, "all", "<label> q<score quantile, 1 = most suspect>", or "q<score quantile>" where
                             there are too many labels for strata of their own
    inclusion_probability    double, of the row under the design; null for gold and repeat rows
    role                     "sample" | "gold" (truth known) | "repeat" (a sampled row a second time)
    frame_hash               string, of all rows the sample was drawn from
    design, seed             how it was drawn
    given, quality, flagged, rank    of the row in the ranked table (rank 1 = most suspect of the frame)
    truth                    "right" | "wrong" for gold rows, else null

The schema's metadata (`acoustic_env.frame`, JSON) holds the sizes and mean qualities of the frame's strata and labels.
A sample is the same for the same ranked rows (in any order), design, n and seed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.intervals import Floats, Ints
from acoustic_env.audit.ranking import RANKED_SCHEMA, quality_of, suspicion_rank
from acoustic_env.audit.table import RowHash, fill_columns, require_columns, require_values, table_schema
from acoustic_env.errors import UsageError

if TYPE_CHECKING:
    from acoustic_env.options import SampleSettings


FRAME_KEY: Final = b"acoustic_env.frame"
SAMPLE_SCHEMA: Final = table_schema(
    {"clip_id": pa.string(), "label": pa.string(), "order": pa.int64(), "stratum": pa.string()}
    | {"inclusion_probability": pa.float64(), "role": pa.string(), "frame_hash": pa.string(), "design": pa.string()}
    | {"seed": pa.int64(), "given": pa.bool_(), "quality": pa.float64(), "flagged": pa.bool_()}
    | {"rank": pa.int64(), "truth": pa.string()},
    nullable=("inclusion_probability", "truth"),
)
_GOLD: Final = table_schema(dict.fromkeys(("clip_id", "label", "truth"), pa.string()))
UNIFORM_FLOOR: Final = 0.1  # share of an unequal-probability sample that falls on rows whatever their score
SCORE_STRATA: Final = 5  # score quantiles of each class
POOLED_STRATA: Final = 10  # score quantiles of all classes together, where there are too many for strata of their own
LEAST_PER_STRATUM: Final = 4


def draw_sample(ranked: pa.Table, settings: SampleSettings, gold: pa.Table | None = None) -> pa.Table:
    """Return a probability sample of the ranked rows, gold and repeat rows mixed in; see the module for its columns.

    Args:
        ranked: from `audit rank` (checked by `check_ranked`).
        settings: how.
        gold: clip_id, label, truth ("right" or "wrong"): rows whose truth is known; they may lie outside the frame.

    Raises:
        UsageError: more rows asked for than there are, or a wrong gold table.

    >>> from acoustic_env.options import SampleSettings
    >>> clips = {"clip_id": [f"clip{i:02d}" for i in range(40)], "label": ["rain"] * 40, "given": [True] * 40}
    >>> ranked = pa.table({**clips, "quality": np.linspace(0.1, 0.9, 40), "flagged": [True] * 10 + [False] * 30})
    >>> sample = draw_sample(ranked, SampleSettings(n=20, repeat=0.1))
    >>> sample.num_rows, sample["role"].to_pylist().count("repeat"), sample["stratum"].unique().sort().to_pylist()
    (22, 2, ['rain q1', 'rain q2'])
    """
    frame = _frame(ranked, settings)
    rng = np.random.default_rng(settings.seed)
    quality, labels = quality_of(frame), np.asarray(frame.column("label").to_pylist())
    if settings.design == "stratified":
        strata = score_strata(labels, quality, settings.n)
        rows, inclusion = _draw_stratified(strata, quality, settings.n, rng)
    else:
        strata = np.full(len(quality), "all", dtype=object)
        simple = settings.design == "simple"
        chances = np.full(len(quality), settings.n / len(quality))
        inclusion = chances if simple else inclusion_probabilities(quality, settings.n)
        rows = np.sort(rng.choice(len(quality), settings.n, replace=False)) if simple else systematic(inclusion, rng)
    return sample_table(frame, strata, rows, inclusion, settings, rng, gold)


def sample_table(
    frame: pa.Table,
    strata: npt.NDArray[Any],
    rows: Ints,
    inclusion: Floats,
    settings: SampleSettings,
    rng: np.random.Generator,
    gold: pa.Table | None = None,
) -> pa.Table:
    """Return the sample table of rows that were drawn; see the module for its columns.

    Args:
        frame: clip_id, label, given, quality, flagged of all rows, sorted by clip and label.
        strata: [frame rows] name of each row's stratum.
        rows: those drawn, ascending.
        inclusion: [frame rows] inclusion probabilities.
        settings: design, seed and share of repeats.
        rng: of the repeats and the order.
        gold: as for `draw_sample`.
    """
    quality = quality_of(frame)
    every = frame.select(RANKED_SCHEMA.names).append_column("stratum", pa.array(strata, pa.string()))
    every = every.append_column("inclusion_probability", pa.array(inclusion))
    every = every.append_column("rank", pa.array(suspicion_rank(quality)))
    drawn = fill_columns(every.take(pa.array(rows)), role="sample", truth=None)
    known = [] if gold is None else [_gold_rows(gold, not settings.absent).select(drawn.column_names)]
    again = rng.choice(len(rows), round(settings.repeat * len(rows)), replace=False)
    repeated = fill_columns(drawn.take(pa.array(again)), role="repeat", inclusion_probability=None)
    table = pa.concat_tables([drawn, *known, repeated], promote_options="default")
    order = _random_order(table.num_rows - len(again), again, rng)
    table = table.append_column("order", pa.array(order))
    table = fill_columns(table, frame_hash=frame_hash(frame), design=settings.design, seed=settings.seed)
    schema = SAMPLE_SCHEMA.with_metadata({FRAME_KEY: json.dumps(_describe(quality, strata, frame))})
    return table.select(schema.names).cast(schema).sort_by("order")


def frame_of(sample: pa.Table, where: str) -> dict[str, Any]:
    """Return `size`, `quality`, `variance`, `flagged`, `strata` and `labels` of the frame, from the sample's metadata.

    Raises:
        UsageError: the table is not a sample made by `audit sample`.

    >>> import pyarrow.parquet as pq
    >>> frame = frame_of(pq.read_table("sample.parquet"), "sample.parquet")
    >>> frame["size"], frame["flagged"], frame["labels"]["urban"]["size"]
    (300, 50, 150)
    """
    described = (sample.schema.metadata or {}).get(FRAME_KEY)
    missing = [name for name in SAMPLE_SCHEMA.names if name not in sample.column_names]
    if described is None or missing:
        lacking = f"column {missing[0]!r}" if missing else "the description of the frame in its metadata"
        msg = f"{where}: not a sample of `audit sample`: it lacks {lacking}. Keep the Parquet file as it was written"
        raise UsageError(msg)
    frame: dict[str, Any] = json.loads(described)
    return frame


def inclusion_probabilities(quality: Floats, n: int) -> Floats:
    """Return inclusion probabilities with the sum n: `UNIFORM_FLOOR` of it even, the rest as sqrt(q (1 - q)).

    Args:
        quality: [rows] in [0, 1].
        n: size of the sample, at most rows.

    >>> inclusion_probabilities(np.array([0.01, 0.5, 0.99, 0.5]), 2).round(2).tolist()  # undecided rows are likelier
    [0.2, 0.8, 0.2, 0.8]
    """
    undecided = np.sqrt(quality * (1.0 - quality)) + 1e-9
    weight = (1.0 - UNIFORM_FLOOR) * undecided / undecided.sum() + UNIFORM_FLOOR / len(quality)
    inclusion: Floats = np.minimum(n * weight, 1.0)
    while (inclusion >= 1.0).any() and inclusion.sum() < n - 1e-9:
        certain = inclusion >= 1.0
        free = weight[~certain]
        inclusion[~certain] = np.minimum((n - certain.sum()) * free / free.sum(), 1.0)
    return inclusion


def systematic(inclusion: Floats, rng: np.random.Generator) -> Ints:
    """Return a fixed-size sample with exactly these inclusion probabilities: systematic from a random order.

    >>> systematic(np.array([0.1, 1.0, 0.4, 0.5]), np.random.default_rng(0)).tolist()  # row 1 is certain
    [1, 3]
    """
    order = rng.permutation(len(inclusion))
    steps = np.floor(np.cumsum(inclusion[order]) + rng.random() + 1e-9)
    chosen = np.diff(steps, prepend=0.0) > 0
    return np.sort(order[chosen])


def score_strata(labels: npt.NDArray[Any], quality: Floats, n: int) -> npt.NDArray[Any]:
    """Return [rows] the stratum: the label and the quantile of the score within it, 1 = most suspect.

    A label has up to five quantiles, as many as need no more than half of the sample for four rows of every stratum, so
    that the other half can follow size and spread. Where n is too small for a stratum of each label, all labels are
    pooled into quantiles of the score.

    Args:
        labels, quality: [rows] of the frame.
        n: rows of the sample.

    >>> score_strata(np.array(["rain"] * 16 + ["wind"] * 16), np.linspace(0, 1, 32), n=32)[[0, 15, 16, 31]].tolist()
    ['rain q1', 'rain q2', 'wind q1', 'wind q2']
    """
    sizes = np.unique(labels, return_counts=True)[1]
    for bins in range(SCORE_STRATA, 0, -1):
        if 2 * LEAST_PER_STRATUM * sum(_quantiles(size, bins) for size in sizes.tolist()) <= n:
            break
    else:
        bins = min(POOLED_STRATA, max(n // (2 * LEAST_PER_STRATUM), 1))
        return _by_quantile(quality, _quantiles(len(quality), bins), "")
    strata = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        strata[rows] = _by_quantile(quality[rows], _quantiles(len(rows), bins), f"{label} ")
    return strata


def _quantiles(rows: int, bins: int) -> int:
    """Return the number of quantiles such that each holds twice the rows that are drawn from it at least."""
    return max(1, min(bins, rows // (2 * LEAST_PER_STRATUM)))


def _by_quantile(quality: Floats, quantiles: int, prefix: str) -> npt.NDArray[Any]:
    place = (suspicion_rank(quality) - 1) * quantiles // len(quality)
    return np.array([f"{prefix}q{int(bin_) + 1}" for bin_ in place], dtype=object)


def allocate(sizes: Ints, spread: Floats, n: int) -> Ints:
    """Return the Neyman allocation n_h proportional to N_h s_h, from `LEAST_PER_STRATUM` (or n / strata) to N_h rows.

    Args:
        sizes: [strata] N_h.
        spread: [strata] expected standard deviation s_h of the answers.
        n: rows in all, at least one for each stratum.

    >>> allocate(np.array([900, 100]), np.array([0.1, 0.5]), 20).tolist()  # N s: 90 and 50
    [13, 7]
    """
    floor = np.minimum(sizes, min(LEAST_PER_STRATUM, n // len(sizes)))
    given = floor.copy()
    wanted = sizes * spread
    while given.sum() < n:
        room = given < sizes
        ideal = n * wanted * room / (wanted * room).sum()
        short = np.where(room, ideal - given, -np.inf)
        given[int(np.argmax(short))] += 1
    return given


def frame_hash(frame: pa.Table) -> str:
    """Return 16 hex digits over the frame's (clip_id, label, given) rows, whatever their order.

    >>> frame = pa.table({"clip_id": ["a", "b"], "label": ["rain", "rain"], "given": [True, True]})
    >>> frame_hash(frame), frame_hash(frame) == frame_hash(frame.take([1, 0]))
    ('7542abd8db9dc356', True)
    """
    ordered = frame.select(["clip_id", "label", "given"]).sort_by([("clip_id", "ascending"), ("label", "ascending")])
    found = RowHash(ordered.column_names)
    found.update(ordered)
    return found.hexdigest()


def _frame(ranked: pa.Table, settings: SampleSettings) -> pa.Table:
    given = np.asarray(ranked.column("given"))
    kept = ranked.filter(pa.array(given != settings.absent))
    frame = kept.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    if not 1 <= settings.n <= frame.num_rows:
        kind = "labels not given" if settings.absent else "given labels"
        raise UsageError(f"--n {settings.n}: expected 1 to {frame.num_rows}, the number of rows of {kind}")
    return frame


def _draw_stratified(
    strata: npt.NDArray[Any], quality: Floats, n: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    index = np.unique(strata.astype(str), return_inverse=True)[1]
    sizes = np.bincount(index)
    # A miscalibrated score must not leave a stratum without rows: no expected share beyond 0.1 to 0.9.
    share = np.clip(np.bincount(index, weights=quality) / sizes, 0.1, 0.9)
    wanted = allocate(sizes, np.sqrt(share * (1.0 - share)), n)
    return draw_strata(index, wanted, rng)


def draw_strata(index: Ints, wanted: Ints, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Draw a simple random sample of each stratum; return rows, ascending, and inclusion probabilities of all rows.

    Args:
        index: [rows] number of the row's stratum.
        wanted: [strata] rows to draw of each.
        rng: of the draw.

    >>> rows, inclusion = draw_strata(np.array([0, 0, 0, 0, 1, 1]), np.array([1, 2]), np.random.default_rng(0))
    >>> rows.tolist(), inclusion.tolist()
    ([3, 4, 5], [0.25, 0.25, 0.25, 0.25, 1.0, 1.0])
    """
    drawn = [rng.choice(np.flatnonzero(index == h), n, replace=False) for h, n in enumerate(wanted)]
    inclusion = wanted / np.maximum(np.bincount(index, minlength=len(wanted)), 1)
    return np.sort(np.concatenate(drawn)), inclusion[index]


def _gold_rows(gold: pa.Table, given: bool) -> pa.Table:
    where = "the gold table"
    known = require_columns(gold, _GOLD, where, "a table of rows whose truth is known")
    require_values(known, {"truth": ("right", "wrong")}, where)
    unranked = {"quality": 0.5, "flagged": False, "rank": 0}
    return fill_columns(known, stratum="gold", inclusion_probability=None, role="gold", given=given, **unranked)


def _random_order(first: int, again: Ints, rng: np.random.Generator) -> Ints:
    """Return a random order of `first` rows and of repeats of the rows `again`, each after its original."""
    when = rng.random(first)
    later = when_again(when[again], rng.random(len(again)))
    order = np.empty(first + len(again), dtype=np.int64)
    order[np.argsort(np.concatenate([when, later]))] = np.arange(len(order))
    return order


def when_again(when: Any, random: Any) -> Any:
    """Return the place in 0 to 1.3 of a repeat, after its original's place, from a uniform random number.

    >>> round(when_again(0.5, 0.0), 2), round(when_again(0.5, 1.0), 2)
    (0.66, 1.3)
    """
    return when + (1.3 - when) * (0.2 + 0.8 * random)


def _describe(quality: Floats, strata: npt.NDArray[Any], frame: pa.Table) -> dict[str, Any]:
    def parts(of: Any) -> dict[str, dict[str, float]]:
        encoded = pa.array(of, pa.string()).dictionary_encode()
        names, index = encoded.dictionary.to_pylist(), np.asarray(encoded.indices)
        sizes = np.bincount(index)
        means = np.bincount(index, weights=quality) / sizes
        squares = np.bincount(index, weights=quality**2) / sizes
        described = zip(names, sizes, means, squares - means**2, strict=True)
        return {
            name: {"size": int(s), "quality": float(m), "variance": float(v)} for name, s, m, v in sorted(described)
        }

    flagged = int(np.asarray(frame.column("flagged")).sum())
    whole = {"size": len(quality), "quality": float(quality.mean()), "variance": float(quality.var())}
    return whole | {"flagged": flagged, "strata": parts(strata), "labels": parts(frame["label"].combine_chunks())}
