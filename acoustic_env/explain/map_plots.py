"""Plots of clips in the plane: which features put clips of a class together. PCA first, then t-SNE."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from acoustic_env.explain.maps import NEIGHBORS, ClipMap, Rows, clip_map, perplexity, stratified_rows
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot, table
from acoustic_env.explain.style import MARKERS, OKABE_ITO, new_panels, shortened, signal_name

SECTION: Final = "How the clips lie"
CLIPS: Final = 500  # t-SNE of more takes minutes and shows no more
COLORS: Final = 6
COLORED: Final = 2 * COLORS  # classes shown apart: each color filled, then hollow in another shape
HOLLOW: Final = ("*", "<", "p", "h", ">", "d")
OTHERS: Final = "other"
LETTERS_PER_INCH: Final = 13  # of a legend, whose markers take the room of so many more
MARKER_LETTERS: Final = 6


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
