"""Two-dimensional maps of the clips: which features put clips of a class together. PCA first, then t-SNE."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot
from acoustic_env.explain.style import FAINT, MARKERS, OKABE_ITO, class_name, drawn, new_panels, shortened, signal_name
from acoustic_env.models.data.preprocessing import Part, PrincipalComponents
from acoustic_env.stats.intervals import Floats

SECTION: Final = "How the clips lie"
CLIPS: Final = 500  # t-SNE of more takes minutes and shows no more
PERPLEXITY: Final = 30.0
COMPONENTS: Final = 50
NEIGHBORS: Final = 10
COLORS: Final = 6
COLORED: Final = 2 * COLORS  # classes shown apart: each color filled, then hollow in another shape
HOLLOW: Final = ("*", "<", "p", "h", ">", "d")
OTHERS: Final = "other"
LETTERS_PER_INCH: Final = 13  # of a legend, whose markers take the room of so many more
MARKER_LETTERS: Final = 6
SEED: Final = 23

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipMap:
    """The clips of one (block, signal) in the plane."""

    block: str
    signal: str
    pca: Floats  # [n, 2] scores of the first two components of the standardized features
    explained: Floats  # their shares of the variance [2]
    tsne: Floats  # [n, 2], no unit: only nearness means something
    agreement: float  # share of the 10 nearest neighbors (other recordings, all components) that share the class
    chance: float  # that share had the neighbors been any clips


def stratified_rows(label: npt.NDArray[np.int64], most: int, seed: int = SEED) -> Rows:
    """Return at most `most` rows, each label with its share (at least one), in row order.

    >>> label = np.repeat([0, 1], [6, 3])
    >>> label[stratified_rows(label, 3)]
    array([0, 0, 1])
    """
    if len(label) <= most:
        return np.arange(len(label))
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(label))
    ordered = shuffled[np.argsort(label[shuffled], kind="stable")]
    # Every k-th row of the rows sorted by label: shares are kept to within one row.
    return np.sort(ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)])


def clip_map(
    features: npt.NDArray[np.float64], label: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], seed: int = SEED
) -> tuple[Floats, Floats, Floats, float, float]:
    """Map clips to the plane by PCA and t-SNE.

    Args:
        features: [n, d], centered; distances between rows count.
        label: [n] class of each clip.
        groups: [n] recording of each clip.
        seed: of t-SNE.

    Returns:
        PCA scores [n, 2], their shares of variance [2], t-SNE [n, 2], agreement of neighbors and chance.
    """
    from sklearn.manifold import TSNE

    pca = PrincipalComponents(COMPONENTS, seed)
    scores = pca.fit_transform(features)
    agreement, chance = neighbor_agreement(scores, label, groups)
    perplexity = min(PERPLEXITY, max(2.0, (len(features) - 1) / 3))
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=750).fit_transform(scores)
    shown = np.zeros((len(scores), 2))
    shown[:, : min(2, scores.shape[1])] = scores[:, :2]
    shares = np.zeros(2)
    shares[: min(2, scores.shape[1])] = pca.explained_variance_ratio_[:2]
    return shown, shares, plane.astype(np.float64), agreement, chance


def neighbor_agreement(
    scores: Floats, label: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]
) -> tuple[float, float]:
    """Return the share of each clip's nearest neighbors from other recordings with its label, and that by chance."""
    squares = (scores**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * scores @ scores.T
    foreign = groups[:, None] != groups[None]
    distance = np.where(foreign, distance, np.inf)
    same = label[:, None] == label[None]
    count = min(NEIGHBORS, int(foreign.sum(axis=1).min()))
    if count < 1:
        return float("nan"), float("nan")
    nearest = np.argpartition(distance, count - 1, axis=1)[:, :count]
    agreement = float(np.take_along_axis(same, nearest, axis=1).mean())
    return agreement, float((same & foreign).sum() / foreign.sum())


def map_plots(material: Material) -> list[Plot]:
    """Draw PCA and t-SNE maps of each block, a column per signal."""
    label, names = _labels(material)
    rows = stratified_rows(label, CLIPS)
    centered: dict[str, list[ClipMap]] = {}
    for part in material.bundle.preprocessor.parts:
        features = _features(part, material.matrix.values[rows])
        found = clip_map(features, label[rows], material.groups[rows])
        centered.setdefault(part.block, []).append(ClipMap(part.block, part.signal, *found))
    taken = [material.targets.clip_ids[row] for row in rows]
    of = f"{len(rows):,} of the {len(label):,}" if len(rows) < len(label) else f"all {len(label):,}"
    return [_draw(block, maps, label[rows], names, taken, of) for block, maps in centered.items()]


def _features(part: Part, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return standardized features, or their component scores in the units of the features; distances stay."""
    scores = part.center(values)
    if part.components is not None:
        scores = scores @ part.components.T
    return np.asarray(scores - scores.mean(axis=0))


def _labels(material: Material) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a color number for each clip and the names: the classes with most clips, all else as `other`."""
    truth, classes = material.truth, material.targets.classes
    support = truth.sum(axis=0)
    chosen = [int(c) for c in np.argsort(-support, kind="stable")[:COLORED] if support[c]]
    chosen.sort()
    own = truth[:, chosen]
    label = np.where(own.sum(axis=1) == 1, own.argmax(axis=1), len(chosen))
    names = [class_name(classes[c]) for c in chosen]
    return label.astype(np.int64), names if (label < len(chosen)).all() else [*names, OTHERS]


def _marker(number: int, names: list[str]) -> dict[str, Any]:
    """Return how the points of a class look: no two alike for any kind of color vision."""
    if names[number] == OTHERS:
        return {"marker": MARKERS[-1], "color": "#9a9a9a", "ms": 4.5, "alpha": 0.75, "mew": 0}
    color = OKABE_ITO[number % COLORS]
    if number < COLORS:
        return {"marker": MARKERS[number], "color": color, "ms": 4.5, "alpha": 0.75, "mew": 0}
    return {"marker": HOLLOW[number - COLORS], "color": color, "ms": 5.5, "mfc": "white", "mew": 1.1}


@drawn
def _draw(
    block: str, maps: list[ClipMap], label: npt.NDArray[np.int64], names: list[str], clip_ids: list[str], of: str
) -> Plot:
    width, longest = max(6.0, 3.5 * len(maps)), max(len(shortened(name)) for name in names)
    columns = max(1, min(len(names), int(LETTERS_PER_INCH * width / (longest + MARKER_LETTERS))))
    figure, panels = new_panels(width, 6.4 + 0.25 * -(-len(names) // columns), 2, len(maps), squeeze=False)
    for column, found in enumerate(maps):
        shares = [f"component {i + 1} ({share:.0%})" for i, share in enumerate(found.explained)]
        for row, (kind, plane) in enumerate((("PCA", found.pca), ("t-SNE", found.tsne))):
            panel = panels[row, column]
            for number in range(len(names)):
                panel.plot(*plane[label == number].T, ls="", label=shortened(names[number]), **_marker(number, names))
            panel.set_title(f"{kind}, {signal_name(found.signal)}")
            panel.grid(color=FAINT, lw=0.5)
            panel.tick_params(labelleft=False, labelbottom=False, length=0)
            if kind == "PCA":
                panel.set(xlabel=shares[0], ylabel=shares[1])
            else:
                panel.set(xlabel="no unit: only nearness counts")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=1.6)
    best = max(maps, key=lambda found: found.agreement)
    perplexity = min(PERPLEXITY, max(2.0, (len(label) - 1) / 3))
    caption = (
        f"Each point is a clip ({of} clips, t-SNE with perplexity {perplexity:.0f}): in the {block} of the "
        f"{signal_name(best.signal)}, {best.agreement:.0%} of a clip's {NEIGHBORS} nearest neighbors from other "
        f"recordings share its class, by chance {best.chance:.0%}."
    )
    said = "; ".join(f"{signal_name(found.signal)} {found.agreement:.0%}" for found in maps)
    alt = f"Scatter plots of clips by {block}, PCA above and t-SNE below. Neighbors that share the class: {said}."
    data = pa.table(
        {
            "clip_id": clip_ids * len(maps),
            "class": [names[number] for number in label] * len(maps),
            "signal": [found.signal for found in maps for _ in clip_ids],
            **{
                f"{kind}_{axis + 1}": np.concatenate([getattr(found, kind)[:, axis] for found in maps])
                for kind, axis in product(("pca", "tsne"), (0, 1))
            },
        }
    )
    return Plot(f"map-{block}", SECTION, f"Clips by {block}", caption, alt, figure, data)
