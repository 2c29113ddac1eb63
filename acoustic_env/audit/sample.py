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

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audit.intervals import Floats
from acoustic_env.audit.ranking import quality_of, suspicion_rank
from acoustic_env.errors import UsageError

if TYPE_CHECKING:
    from acoustic_env.config import SampleSettings

Ints = npt.NDArray[np.int64]

FRAME_KEY: Final = b"acoustic_env.frame"
SAMPLE_SCHEMA: Final = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("order", pa.int64(), nullable=False),
        pa.field("stratum", pa.string(), nullable=False),
        pa.field("inclusion_probability", pa.float64()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("frame_hash", pa.string(), nullable=False),
        pa.field("design", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("given", pa.bool_(), nullable=False),
        pa.field("quality", pa.float64(), nullable=False),
        pa.field("flagged", pa.bool_(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("truth", pa.string()),
    ]
)

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
    quality, labels = quality_of(frame), np.asarray(frame.column("label").to_pylist())
    columns: dict[str, list[Any]] = {
        "clip_id": frame.column("clip_id").take(pa.array(rows)).to_pylist(),
        "label": labels[rows].tolist(),
        "stratum": strata[rows].tolist(),
        "inclusion_probability": inclusion[rows].tolist(),
        "role": ["sample"] * len(rows),
        "given": np.asarray(frame.column("given"))[rows].tolist(),
        "quality": quality[rows].tolist(),
        "flagged": np.asarray(frame.column("flagged"))[rows].tolist(),
        "rank": suspicion_rank(quality)[rows].tolist(),
        "truth": [None] * len(rows),
    }
    _add_gold(columns, gold, not settings.absent)
    order = _add_repeats_and_order(columns, round(settings.repeat * len(rows)), rng)
    total = len(order)
    columns |= {
        "order": order.tolist(),
        "frame_hash": [frame_hash(frame)] * total,
        "design": [settings.design] * total,
        "seed": [settings.seed] * total,
    }
    schema = SAMPLE_SCHEMA.with_metadata({FRAME_KEY: json.dumps(_describe(quality, labels, strata, frame))})
    return pa.table({name: columns[name] for name in schema.names}, schema=schema).sort_by("order")


def frame_of(sample: pa.Table, where: str) -> dict[str, Any]:
    """Return `size`, `quality`, `variance`, `flagged`, `strata` and `labels` of the frame, from the sample's metadata.

    Raises:
        UsageError: the table is not a sample made by `audit sample`.
    """
    described = (sample.schema.metadata or {}).get(FRAME_KEY)
    missing = [name for name in SAMPLE_SCHEMA.names if name not in sample.column_names]
    if described is None or missing:
        lacking = f"column {missing[0]!r}" if missing else "the description of the frame in its metadata"
        msg = f"{where}: not a sample of `audit sample`: it lacks {lacking}. Keep the Parquet file as it was written"
        raise UsageError(msg)
    frame: dict[str, Any] = json.loads(described)
    return frame


def inclusion_probabilities(quality: Floats, n: int, floor: float = UNIFORM_FLOOR) -> Floats:
    """Return inclusion probabilities that sum to n, proportional to sqrt(q (1 - q)) mixed with a uniform floor.

    Args:
        quality: [rows] in [0, 1].
        n: size of the sample, at most rows.
        floor: share of the sample spread evenly; no row's probability is below floor n / rows.
    """
    undecided = np.sqrt(quality * (1.0 - quality)) + 1e-9
    weight = (1.0 - floor) * undecided / undecided.sum() + floor / len(quality)
    inclusion: Floats = np.minimum(n * weight, 1.0)
    while (inclusion >= 1.0).any() and inclusion.sum() < n - 1e-9:
        certain = inclusion >= 1.0
        free = weight[~certain]
        inclusion[~certain] = np.minimum((n - certain.sum()) * free / free.sum(), 1.0)
    return inclusion


def systematic(inclusion: Floats, rng: np.random.Generator) -> Ints:
    """Return a fixed-size sample with exactly these inclusion probabilities: systematic from a random order."""
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


def allocate(sizes: Ints, spread: Floats, n: int, least: int = LEAST_PER_STRATUM) -> Ints:
    """Return the Neyman allocation n_h proportional to N_h s_h, at least `least` and at most N_h rows per stratum.

    Args:
        sizes: [strata] N_h.
        spread: [strata] expected standard deviation s_h of the answers.
        n: rows in all, at least one for each stratum.
        least: rows for every stratum, fewer where n does not reach for them.
    """
    floor = np.minimum(sizes, min(least, n // len(sizes)))
    given = floor.copy()
    wanted = sizes * spread
    while given.sum() < n:
        room = given < sizes
        ideal = n * wanted * room / (wanted * room).sum()
        short = np.where(room, ideal - given, -np.inf)
        given[int(np.argmax(short))] += 1
    return given


def frame_hash(frame: pa.Table) -> str:
    """Return 16 hex digits over the frame's (clip_id, label, given) rows, whatever their order."""
    ordered = frame.select(["clip_id", "label", "given"]).sort_by([("clip_id", "ascending"), ("label", "ascending")])
    digest = hashlib.sha256()
    for batch in ordered.to_batches(max_chunksize=100_000):
        digest.update(json.dumps(list(batch.to_pydict().values())).encode())
    return digest.hexdigest()[:16]


def _frame(ranked: pa.Table, settings: SampleSettings) -> pa.Table:
    given = np.asarray(ranked.column("given"))
    kept = ranked.filter(pa.array(given != settings.absent))
    frame = kept.sort_by([("clip_id", "ascending"), ("label", "ascending")]).combine_chunks()
    if not 1 <= settings.n <= frame.num_rows:
        kind = "labels not given" if settings.absent else "given labels"
        msg = f"--n {settings.n}: expected 1 to {frame.num_rows}, the number of rows of {kind}"
        raise UsageError(msg)
    return frame


def _draw_stratified(
    strata: npt.NDArray[Any], quality: Floats, n: int, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    names, index = np.unique(strata.astype(str), return_inverse=True)
    sizes = np.bincount(index)
    # A miscalibrated score must not leave a stratum without rows: no expected share beyond 0.1 to 0.9.
    share = np.clip(np.bincount(index, weights=quality) / sizes, 0.1, 0.9)
    wanted = allocate(sizes, np.sqrt(share * (1.0 - share)), n)
    drawn = [rng.choice(np.flatnonzero(index == h), wanted[h], replace=False) for h in range(len(names))]
    return np.sort(np.concatenate(drawn)), (wanted / sizes)[index]


def _add_gold(columns: dict[str, list[Any]], gold: pa.Table | None, given: bool) -> None:
    if gold is None:
        return
    missing = [name for name in ("clip_id", "label", "truth") if name not in gold.column_names]
    if missing:
        msg = f"the gold table has no column {missing[0]!r}; it needs clip_id, label, truth (right or wrong)"
        raise UsageError(msg)
    for row, entry in enumerate(gold.select(["clip_id", "label", "truth"]).to_pylist()):
        if entry["truth"] not in ("right", "wrong"):
            msg = f"the gold table, row {row}, column 'truth': {entry['truth']!r} is neither 'right' nor 'wrong'"
            raise UsageError(msg)
        added = {"stratum": "gold", "inclusion_probability": None, "role": "gold", "given": given}
        for name, value in (entry | added | {"quality": 0.5, "flagged": False, "rank": 0}).items():
            columns[name].append(value)


def _add_repeats_and_order(columns: dict[str, list[Any]], repeats: int, rng: np.random.Generator) -> Ints:
    """Append repeats of sampled rows; return a random order of all rows in which a repeat follows its original."""
    first = len(columns["role"])
    sampled = np.flatnonzero(np.array(columns["role"]) == "sample")
    again = rng.choice(sampled, repeats, replace=False)
    for row in again:
        for values in columns.values():
            values.append(values[row])
        columns["role"][-1], columns["inclusion_probability"][-1] = "repeat", None
    when = rng.random(first)
    later = when[again] + (1.3 - when[again]) * (0.2 + 0.8 * rng.random(repeats))
    order = np.empty(first + repeats, dtype=np.int64)
    order[np.argsort(np.concatenate([when, later]))] = np.arange(first + repeats)
    return order


def _describe(quality: Floats, labels: npt.NDArray[Any], strata: npt.NDArray[Any], frame: pa.Table) -> dict[str, Any]:
    def parts(of: npt.NDArray[Any]) -> dict[str, dict[str, float]]:
        names, index = np.unique(of.astype(str), return_inverse=True)
        sizes = np.bincount(index)
        means = np.bincount(index, weights=quality) / sizes
        squares = np.bincount(index, weights=quality**2) / sizes
        described = zip(names, sizes, means, squares - means**2, strict=True)
        return {str(name): {"size": int(s), "quality": float(m), "variance": float(v)} for name, s, m, v in described}

    flagged = int(np.asarray(frame.column("flagged")).sum())
    whole = {"size": len(quality), "quality": float(quality.mean()), "variance": float(quality.var())}
    return whole | {"flagged": flagged, "strata": parts(strata), "labels": parts(labels)}
