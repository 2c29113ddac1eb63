"""Plots of clips in the plane by PCA and t-SNE, and how often near clips share a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot, table
from acoustic_env.explain.style import MARKERS, OKABE_ITO, new_panels, shortened, signal_name
from acoustic_env.models.data.preprocessing import PrincipalComponents
from acoustic_env.stats.intervals import Floats

PERPLEXITY: Final = 30.0
COMPONENTS: Final = 50
NEIGHBORS: Final = 10
SEED: Final = 23

Rows = npt.NDArray[np.int64]
SECTION: Final = "How the clips lie"
CLIPS: Final = 500  # t-SNE of more takes minutes and shows no more
COLORS: Final = 6
COLORED: Final = 2 * COLORS  # classes shown apart: each color filled, then hollow in another shape
HOLLOW: Final = ("*", "<", "p", "h", ">", "d")
OTHERS: Final = "other"
LETTERS_PER_INCH: Final = 13  # of a legend, whose markers take the room of so many more
MARKER_LETTERS: Final = 6


@dataclass(frozen=True)
class ClipMap:
    """Clips in the plane."""

    pca: Floats  # [n, 2] scores of the first two components of the standardized features
    explained: Floats  # their shares of the variance [2]
    tsne: Floats  # [n, 2], no unit: only nearness means something
    agreement: float  # share of the 10 nearest neighbors (other recordings, all components) that share the class
    chance: float  # that share had the neighbors been any clips


def stratified_rows(label: Rows, most: int) -> Rows:
    """Return at most `most` rows, each label with its share (at least one), in row order.

    >>> label = np.repeat([0, 1], [6, 3])
    >>> label[stratified_rows(label, 3)]
    array([0, 0, 1])
    """
    if len(label) <= most:
        return np.arange(len(label))
    random = np.random.default_rng(SEED)
    shuffled = random.permutation(len(label))
    ordered = shuffled[np.argsort(label[shuffled], kind="stable")]
    # Every k-th row of the rows sorted by label: shares are kept to within one row.
    return np.sort(ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)])


def clip_map(features: Floats, label: Rows, groups: Rows) -> ClipMap:
    """Map clips to the plane by PCA and t-SNE.

    Args:
        features: [n, d], centered; distances between rows count.
        label: [n] class of each clip.
        groups: [n] recording of each clip.
    """
    from sklearn.manifold import TSNE

    pca = PrincipalComponents(COMPONENTS, SEED)
    scores = pca.fit_transform(features)
    tsne = TSNE(perplexity=perplexity(len(features)), init="pca", random_state=SEED, max_iter=750)
    two = ((0, 0), (0, 2))  # zeros where there is one component only
    return ClipMap(
        np.pad(scores, two)[:, :2],
        np.pad(pca.explained_variance_ratio_, two[1])[:2],
        tsne.fit_transform(scores).astype(np.float64),
        *neighbor_agreement(scores, label, groups),
    )


def perplexity(clips: int) -> float:
    """Return t-SNE's perplexity for a number of clips."""
    return min(PERPLEXITY, max(2.0, (clips - 1) / 3))


def neighbor_agreement(scores: Floats, label: Rows, groups: Rows) -> tuple[float, float]:
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
    found: dict[str, dict[str, ClipMap]] = {}
    for part in material.bundle.preprocessor.parts:
        scores = part.center(material.matrix.values[rows])
        if part.components is not None:  # in the units of the features: distances stay
            scores = scores @ part.components.T
        own = clip_map(scores - scores.mean(axis=0), label[rows], material.groups[rows])
        found.setdefault(part.block, {})[part.signal] = own
    taken = [material.targets.clip_ids[row] for row in rows]
    of = f"{len(rows):,} of the {len(label):,}" if len(rows) < len(label) else f"all {len(label):,}"
    return [_draw(block, maps, label[rows], names, taken, of) for block, maps in found.items()]


def _labels(material: Material) -> tuple[Rows, list[str]]:
    """Return a color number for each clip and the names: the classes with most clips, all else as `other`."""
    support = material.truth.sum(axis=0)
    chosen = np.sort(np.argsort(-support, kind="stable")[: min(COLORED, np.count_nonzero(support))])
    own = material.truth[:, chosen]
    label = np.where(own.sum(axis=1) == 1, own.argmax(axis=1), len(chosen))
    names = [material.name(int(c)) for c in chosen]
    return label.astype(np.int64), names if (label < len(chosen)).all() else [*names, OTHERS]


def _marker(number: int, names: list[str]) -> dict[str, Any]:
    """Return how the points of a class look: no two alike for any kind of color vision."""
    if names[number] == OTHERS:
        return {"marker": MARKERS[-1], "color": "#9a9a9a", "ms": 4.5, "alpha": 0.75, "mew": 0}
    color = OKABE_ITO[number % COLORS]
    if number < COLORS:
        return {"marker": MARKERS[number], "color": color, "ms": 4.5, "alpha": 0.75, "mew": 0}
    return {"marker": HOLLOW[number - COLORS], "color": color, "ms": 5.5, "mfc": "white", "mew": 1.1}


def _draw(block: str, maps: dict[str, ClipMap], label: Rows, names: list[str], clip_ids: list[str], of: str) -> Plot:
    width, longest = max(6.0, 3.5 * len(maps)), max(len(shortened(name)) for name in names)
    columns = max(1, min(len(names), int(LETTERS_PER_INCH * width / (longest + MARKER_LETTERS))))
    figure, panels = new_panels(width, 6.4 + 0.25 * -(-len(names) // columns), 2, len(maps), squeeze=False)
    for (above, below), (signal, found) in zip(panels.T, maps.items(), strict=True):
        for panel, kind, plane in ((above, "PCA", found.pca), (below, "t-SNE", found.tsne)):
            for number in range(len(names)):
                panel.plot(*plane[label == number].T, ls="", label=shortened(names[number]), **_marker(number, names))
            panel.set_title(f"{kind}, {signal_name(signal)}")
            panel.grid()
            panel.tick_params(labelleft=False, labelbottom=False, length=0)
        first, second = (f"component {i + 1} ({share:.0%})" for i, share in enumerate(found.explained))
        above.set(xlabel=first, ylabel=second)
        below.set(xlabel="no unit: only nearness counts")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, markerscale=1.6)
    signal, best = max(maps.items(), key=lambda own: own[1].agreement)
    caption = (
        f"Each point is a clip ({of} clips, t-SNE with perplexity {perplexity(len(label)):.0f}): in the {block} of the "
        f"{signal_name(signal)}, {best.agreement:.0%} of a clip's {NEIGHBORS} nearest neighbors from other "
        f"recordings share its class, by chance {best.chance:.0%}."
    )
    said = "; ".join(f"{signal_name(signal)} {found.agreement:.0%}" for signal, found in maps.items())
    alt = f"Scatter plots of clips by {block}, PCA above and t-SNE below. Neighbors that share the class: {said}."
    of_clip = {"clip_id": clip_ids * len(maps), "class": [names[number] for number in label] * len(maps)}
    planes = np.concatenate([np.hstack([found.pca, found.tsne]) for found in maps.values()])
    axes = dict(zip(("pca_1", "pca_2", "tsne_1", "tsne_2"), planes.T, strict=True))
    data = table({**of_clip, "signal": np.repeat(list(maps), len(clip_ids)), **axes})
    return Plot(f"map-{block}", SECTION, f"Clips by {block}", caption, alt, figure, data)
