"""Plots of what differs between classes: indices, the modulation spectrum, and how the indices correlate."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.contrasts import Contrast, cluster_order, contrast, false_discovery, rank_correlation
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot
from acoustic_env.features.modulation import SHAPE, axes
from acoustic_env.stats.intervals import Floats

SECTION: Final = "What differs between the classes"
MAX_FDR: Final = 0.05  # false-discovery rate up to which a difference is significant
SHOWN: Final = 20
MAPS: Final = "mps"


def contrast_plots(material: Material) -> list[Plot]:
    """Draw a bar plot of indices and a t-map of the modulation spectrum for each class explained."""
    found: list[Plot] = []
    scalars, maps = scalar_columns(material), map_parts(material)
    for chosen in material.explained_classes():
        if len(scalars):
            found.append(_draw_indices(material, chosen, scalars))
        if maps:
            found.append(_draw_maps(material, chosen, maps))
    return found


def scalar_columns(material: Material) -> npt.NDArray[np.int64]:
    """Return numbers of the columns that are one number with a name (indices), not a cell of a vector."""
    return np.array([i for i, column in enumerate(material.matrix.columns) if "[" not in column.name], np.int64)


def map_parts(material: Material) -> dict[str, npt.NDArray[np.int64]]:
    """Return signal -> column numbers of its modulation spectrum."""
    cells = SHAPE[0] * SHAPE[1]
    return {
        signal: numbers
        for (block, signal), numbers in material.parts().items()
        if block == MAPS and len(numbers) == cells
    }


def _compare(material: Material, chosen: int, numbers: npt.NDArray[np.int64]) -> tuple[Contrast, Floats]:
    found = contrast(material.matrix.values[:, numbers], material.truth[:, chosen], material.groups)
    return found, false_discovery(found.p)


def _counted(found: Contrast) -> str:
    """Describe how many recordings were compared."""
    return f"{int(found.n.max(initial=0)):,} against {int(found.rest_n.max(initial=0)):,} recordings"


@style.drawn
def _draw_indices(material: Material, chosen: int, numbers: npt.NDArray[np.int64]) -> Plot:
    found, q = _compare(material, chosen, numbers)
    columns = [material.matrix.columns[number] for number in numbers]
    name, rest = material.name(chosen), material.against(chosen)
    order = np.argsort(-np.nan_to_num(np.abs(found.t), nan=-1.0), kind="stable")
    top = order[:SHOWN][::-1]
    figure, panels = style.new_panels(9, 1.4 + 0.27 * len(top), 1, 2, sharey=True, width_ratios=(3, 2))
    signals = list(dict.fromkeys(column.signal for column in columns))
    for place, row in enumerate(top):
        number = signals.index(columns[row].signal)
        color = style.OKABE_ITO[number] if q[row] <= MAX_FDR else style.FAINT
        panels[0].barh(place, found.t[row], color=color, height=0.7)
        low, high = found.g_low[row], found.g_high[row]
        panels[1].plot([low, high], [place, place], color=style.OKABE_ITO[number], lw=2)
        panels[1].plot(found.g[row], place, style.MARKERS[number], color=style.OKABE_ITO[number], ms=6)
    panels[0].set_yticks(range(len(top)), [f"{columns[row].name}  ({columns[row].signal})" for row in top])
    for panel in panels:
        panel.axvline(0, color=style.GREY, lw=0.8)
        panel.grid(axis="x", color=style.FAINT, lw=0.6)
    panels[0].set(xlabel="Welch's t", title=f"{name} minus {rest}")
    panels[1].set(xlabel="Hedges' g, 95 % interval", title="effect size")
    for number, signal in enumerate(signals):
        panels[1].plot([], [], style.MARKERS[number], color=style.OKABE_ITO[number], label=style.signal_name(signal))
    figure.legend(loc="outside lower center", ncols=len(signals))
    significant = int((q <= MAX_FDR).sum())
    strongest = columns[order[0]]
    title = f"Acoustic indices: {name} against {rest}"
    caption = (
        f"{significant:,} of {len(numbers):,} indices differ between {name} and {rest} at a false-discovery rate of "
        f"{MAX_FDR:.0%} ({_counted(found)}, {material.clips}); {strongest.name} of "
        f"the {style.signal_name(strongest.signal)} differs most (t = {found.t[order[0]]:.1f}, "
        f"g = {found.g[order[0]]:.2f})."
    )
    listed = ", ".join(f"{columns[row].name} ({columns[row].signal}) {found.t[row]:.1f}" for row in order[:5])
    alt = f"Bars of Welch's t and effect sizes with intervals of the {len(top)} indices that differ most: {listed}."
    data = pa.table(
        {
            "class": [name] * len(numbers),
            "against": [rest] * len(numbers),
            "block": [column.block for column in columns],
            "signal": [column.signal for column in columns],
            "index": [column.name for column in columns],
            "unit": [material.units.get((column.block, column.name), "1") for column in columns],
            **{part: getattr(found, part) for part in Contrast.__dataclass_fields__},
            "q": q,
        }
    )
    return Plot(f"contrast-indices-{chosen}", SECTION, title, caption, alt, figure, data.take(pa.array(order)))


@style.drawn
def _draw_maps(material: Material, chosen: int, maps: dict[str, npt.NDArray[np.int64]]) -> Plot:
    found, q = _compare(material, chosen, np.concatenate(list(maps.values())))
    name, rest = material.name(chosen), material.against(chosen)
    t = found.t.reshape(len(maps), *SHAPE)
    significant = (q <= MAX_FDR).reshape(t.shape)
    nothing = not significant.any()
    limit = float(np.nanmax(np.abs(t), initial=1.0))
    figure, (panels,) = style.new_panels(3.6 * len(maps) + 1.2, 3.9, 1, len(maps), squeeze=False, sharey=True)
    for panel, signal, values, kept in zip(panels, maps, t, significant, strict=True):
        mesh = style.draw_modulation(panel, np.where(kept | nothing, values, np.nan), limit)
        style.modulation_axes(panel, label_y=panel is panels[0])
        panel.set_title(f"{style.signal_name(signal)}: {kept.mean():.0%} of cells differ")
    figure.colorbar(mesh, ax=list(panels), label=f"t, {name} minus {rest}", shrink=0.9)
    where = _strongest(t, significant, list(maps))
    title = f"Modulation spectrum: {name} against {rest}"
    said = "no cell differs, so all are drawn," if nothing else "grey cells do not differ"
    caption = (
        f"Welch's t of each modulation, {name} minus {rest} ({_counted(found)}); {said} at a false-discovery rate of "
        f"{MAX_FDR:.0%}. {where}"
    )
    alt = f"Maps of t over temporal modulation in Hz and spectral modulation in cycles per kHz, one a signal. {where}"
    cells = {"t": found.t, "p": found.p, "q": q, "g": found.g}
    data = pa.table({"class": [name] * len(q), **style.modulation_cells("signal", list(maps)), **cells})
    return Plot(f"contrast-modulation-{chosen}", SECTION, title, caption, alt, figure, data)


def _strongest(t: Floats, significant: npt.NDArray[np.bool_], signals: list[str]) -> str:
    """Describe the two ends of the significant cells, of all cells where none is."""
    if not significant.any():
        significant = np.isfinite(t)
    spectral, temporal = axes()
    said = []
    for word, extreme in (("highest", np.nanargmax), ("lowest", np.nanargmin)):
        masked = np.where(significant, t, np.nan)
        signal, row, column = np.unravel_index(int(extreme(masked)), t.shape)
        said.append(
            f"{word} t {t[signal, row, column]:.1f} at {temporal[column]:.0f} Hz and {spectral[row]:.1f} cycles/kHz "
            f"({style.signal_name(signals[int(signal)])})"
        )
    return f"The {' and the '.join(said)}."


def correlation_plots(material: Material) -> list[Plot]:
    """Draw a heat map of the rank correlations of a block's named columns, for each signal that has several."""
    found = []
    for (block, signal), numbers in material.parts().items():
        own = np.intersect1d(numbers, scalar_columns(material))
        if len(own) > 2:
            names = [material.matrix.columns[number].name for number in own]
            found.append(_draw_correlation(block, signal, names, material.matrix.values[:, own], material.clips))
    return found


@style.drawn
def _draw_correlation(block: str, signal: str, names: list[str], values: Any, clips: str) -> Plot:
    correlation = rank_correlation(values)
    known = np.flatnonzero(np.isfinite(np.diag(correlation)))
    kept = known[cluster_order(correlation[np.ix_(known, known)])]
    ordered, labels = correlation[np.ix_(kept, kept)], [names[i] for i in kept]
    size = 3.2 + 0.165 * len(kept)
    figure, axes_ = style.new_panels(size + 0.8, size)
    image = axes_.imshow(ordered, cmap=style.DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
    axes_.set_xticks(range(len(kept)), labels, rotation=90, fontsize=8)
    axes_.set_yticks(range(len(kept)), labels, fontsize=8)
    axes_.tick_params(length=2)
    figure.colorbar(image, ax=axes_, label="Spearman correlation", shrink=0.6)
    strong = int((np.abs(ordered[np.triu_indices(len(kept), 1)]) > 0.9).sum())
    pairs = len(kept) * (len(kept) - 1) // 2
    title = f"How the {block} of the {style.signal_name(signal)} correlate"
    caption = (
        f"{strong:,} of {pairs:,} pairs of {block} ({style.signal_name(signal)}) order the clips almost alike "
        f"(Spearman correlation beyond ±0.9), so few of them say something of their own; columns that are alike stand "
        f"side by side ({clips})."
    )
    alt = f"Square heat map of the correlations of {len(kept)} columns, ordered by similarity: {', '.join(labels)}."
    first, second = np.repeat(labels, len(labels)), np.tile(labels, len(labels))
    data = pa.table({"first": first, "second": second, "spearman": ordered.ravel()})
    return Plot(f"correlation-{block}-{signal}", SECTION, title, caption, alt, figure, data)
