"""Plots of what differs between classes: indices, the modulation spectrum, and how the indices correlate."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from acoustic_env.explain import style
from acoustic_env.explain.contrasts import cluster_order, contrast, rank_correlation
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot, table
from acoustic_env.features.modulation import SHAPE
from acoustic_env.stats.intervals import Floats

SECTION: Final = "What differs between the classes"
MAX_FDR: Final = 0.05  # false-discovery rate up to which a difference is significant
SHOWN: Final = 20


def contrast_plots(material: Material) -> list[Plot]:
    """Draw a bar plot of indices and a t-map of the modulation spectrum for each class explained."""
    found: list[Plot] = []
    scalars, maps = material.scalar_columns(), material.map_parts()
    for chosen in material.explained_classes():
        if len(scalars):
            found.append(_draw_indices(material, chosen, scalars))
        if maps:
            found.append(_draw_maps(material, chosen, maps))
    return found


def _compare(material: Material, chosen: int, numbers: npt.NDArray[np.int64]) -> tuple[pd.DataFrame, str]:
    """Compare a class in some columns, and say how many recordings were compared."""
    found = contrast(material.matrix.values[:, numbers], material.truth[:, chosen], material.groups)
    return found, f"{int(found['n'].max()):,} against {int(found['rest_n'].max()):,} recordings"


def _draw_indices(material: Material, chosen: int, numbers: npt.NDArray[np.int64]) -> Plot:
    compared, counted = _compare(material, chosen, numbers)
    name, rest = material.name(chosen), material.against(chosen)
    columns = [material.matrix.columns[number] for number in numbers]
    index = [(name, rest, column.block, column.signal, column.name, material.unit(column)) for column in columns]
    named = pd.DataFrame(index, columns=["class", "against", "block", "signal", "index", "unit"])
    found = named.join(compared).sort_values("t", key=lambda t: -t.abs(), kind="stable")
    top, strongest = found[:SHOWN][::-1].reset_index(drop=True), found.iloc[0]
    figure, (bars, effects) = style.row_panels(
        list(top["index"] + "  (" + top["signal"] + ")"), columns=2, width_ratios=(3, 2)
    )
    signals = list(named["signal"].unique())
    for number, signal in enumerate(signals):
        own = top[top["signal"] == signal]
        colors = np.where(own["q"] <= MAX_FDR, style.OKABE_ITO[number], style.FAINT)
        bars.barh(own.index, own["t"], color=colors, height=0.7)
        ends = own["g_low"], own["g"], own["g_high"]
        style.draw_intervals(effects, own.index, *ends, number=number, label=style.signal_name(signal))
    for panel in (bars, effects):
        panel.axvline(0, color=style.GREY, lw=0.8)
    bars.set(xlabel="Welch's t", title=f"{name} minus {rest}")
    effects.set(xlabel="Hedges' g, 95 % interval", title="effect size")
    style.legend_below(figure, len(signals), effects)
    caption = (
        f"{(found['q'] <= MAX_FDR).sum():,} of {len(numbers):,} indices differ between {name} and {rest} at a "
        f"false-discovery rate of {MAX_FDR:.0%} ({counted}, {material.clips}); {strongest['index']} of "
        f"the {style.signal_name(strongest['signal'])} differs most (t = {strongest['t']:.1f}, "
        f"g = {strongest['g']:.2f})."
    )
    listed = ", ".join(f"{row['index']} ({row['signal']}) {row['t']:.1f}" for _, row in found[:5].iterrows())
    alt = f"Bars of Welch's t and effect sizes with intervals of the {len(top)} indices that differ most: {listed}."
    title = f"Acoustic indices: {name} against {rest}"
    return Plot(f"contrast-indices-{chosen}", SECTION, title, caption, alt, figure, table(found))


def _draw_maps(material: Material, chosen: int, maps: dict[str, npt.NDArray[np.int64]]) -> Plot:
    found, counted = _compare(material, chosen, np.concatenate(list(maps.values())))
    name, rest = material.name(chosen), material.against(chosen)
    t, q = (found[key].to_numpy().reshape(len(maps), *SHAPE) for key in ("t", "q"))
    differs = q <= MAX_FDR
    drawn = t if not differs.any() else np.where(differs, t, np.nan)
    limit = float(np.nanmax(np.abs(t), initial=1.0))
    figure, (panels,) = style.new_panels(3.6 * len(maps) + 1.2, 3.9, 1, len(maps), squeeze=False, sharey=True)
    for panel, signal, values, kept in zip(panels, maps, drawn, differs, strict=True):
        mesh = style.draw_modulation(panel, values, limit)
        panel.set_title(f"{style.signal_name(signal)}: {kept.mean():.0%} of cells differ")
    figure.colorbar(mesh, ax=list(panels), label=f"t, {name} minus {rest}", shrink=0.9)
    where = _strongest(drawn, list(maps))
    said = "grey cells do not differ" if differs.any() else "no cell differs, so all are drawn,"
    caption = (
        f"Welch's t of each modulation, {name} minus {rest} ({counted}); {said} at a false-discovery rate of "
        f"{MAX_FDR:.0%}. {where}"
    )
    alt = f"Maps of t over temporal modulation in Hz and spectral modulation in cycles per kHz, one a signal. {where}"
    data = table({"class": name, **style.modulation_cells("signal", list(maps)), **found[["t", "p", "q", "g"]]})
    title = f"Modulation spectrum: {name} against {rest}"
    return Plot(f"contrast-modulation-{chosen}", SECTION, title, caption, alt, figure, data)


def _strongest(t: Floats, signals: list[str]) -> str:
    """Describe the highest and the lowest cell of maps [signals, spectral, temporal]."""
    said = []
    for word, extreme in (("highest", np.nanargmax), ("lowest", np.nanargmin)):
        signal, *cell = np.unravel_index(int(extreme(t)), t.shape)
        of = style.signal_name(signals[int(signal)])
        said.append(f"{word} t {t[signal, *cell]:.1f} at {style.modulation_at(cell)} ({of})")
    return f"The {' and the '.join(said)}."


def correlation_plots(material: Material) -> list[Plot]:
    """Draw a heat map of the rank correlations of a block's named columns, for each signal that has several."""
    found = []
    for (block, signal), numbers in material.matrix.parts().items():
        own = np.intersect1d(numbers, material.scalar_columns())
        if len(own) > 2:
            names = [material.matrix.columns[number].name for number in own]
            found.append(_draw_correlation(block, signal, names, material.matrix.values[:, own], material.clips))
    return found


def _draw_correlation(block: str, signal: str, names: list[str], values: Any, clips: str) -> Plot:
    correlation = rank_correlation(values)
    known = np.flatnonzero(np.isfinite(np.diag(correlation)))
    kept = known[cluster_order(correlation[np.ix_(known, known)])]
    ordered, labels = correlation[np.ix_(kept, kept)], [names[i] for i in kept]
    size = 3.2 + 0.165 * len(kept)
    figure, panel = style.new_panels(size + 0.8, size)
    image = panel.imshow(ordered, cmap=style.DIVERGING, vmin=-1, vmax=1)
    panel.set_xticks(range(len(kept)), labels, rotation=90, fontsize=8)
    panel.set_yticks(range(len(kept)), labels, fontsize=8)
    figure.colorbar(image, ax=panel, label="Spearman correlation", shrink=0.6)
    strong = int((np.abs(ordered[np.triu_indices(len(kept), 1)]) > 0.9).sum())
    caption = (
        f"{strong:,} of {len(kept) * (len(kept) - 1) // 2:,} pairs of {block} ({style.signal_name(signal)}) order the "
        "clips almost alike (Spearman correlation beyond ±0.9), so few of them say something of their own; columns "
        f"that are alike stand side by side ({clips})."
    )
    alt = f"Square heat map of the correlations of {len(kept)} columns, ordered by similarity: {', '.join(labels)}."
    pairs = {"first": np.repeat(labels, len(labels)), "second": np.tile(labels, len(labels))}
    title = f"How the {block} of the {style.signal_name(signal)} correlate"
    data = table({**pairs, "spearman": ordered.ravel()})
    return Plot(f"correlation-{block}-{signal}", SECTION, title, caption, alt, figure, data)
