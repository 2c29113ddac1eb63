"""Plots of what the model relies on: SHAP over backgrounds, the components behind it, permutation importance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from acoustic_env.explain import style
from acoustic_env.explain.attribution import BUDGET, Attribution, attribute
from acoustic_env.explain.importance import Importance, feature_groups, permutation_importance
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot, table
from acoustic_env.features.modulation import SHAPE, as_maps
from acoustic_env.models.data.preprocessing import Loading
from acoustic_env.stats.intervals import Floats

SECTION: Final = "What the model relies on"
SHOWN: Final = 20
SWARMED: Final = 12
COMPONENTS: Final = 6
WEIGHTS: Final = 12
KINDS: Final = {
    "part": "a whole block",
    "column": "one index or vector",
    "region": "a region of the modulation spectrum",
}


def attribution_plots(material: Material) -> list[Plot]:
    """Draw SHAP values of each class explained, and the leading components in terms of the original features."""
    x = material.bundle.preprocessor.transform(material.matrix.values)
    label = material.truth.argmax(axis=1)
    candidates = np.unique(np.concatenate([scorer.rows for scorer in material.scorers]))
    found: list[Plot] = []
    classes = material.explained_classes()
    for chosen in classes:
        values = attribute(material.bundle.classifier, chosen, x, label, candidates, budget=BUDGET / len(classes))
        features = values.table(material.bundle.preprocessor.names)
        found += [_draw_ranks(material, chosen, values, features), _draw_swarm(material, chosen, values, features)]
        found += _draw_components(material, chosen, features)
    return found


def _draw_ranks(material: Material, chosen: int, found: Attribution, features: pd.DataFrame) -> Plot:
    top, name, first = features[:SHOWN][::-1], material.name(chosen), features.iloc[0]
    figure, panels = style.row_panels(top["feature"].tolist(), columns=2, width_ratios=(3, 2))
    for number, (panel, key) in enumerate(zip(panels, ("importance", "rank"), strict=True)):
        ends = (top[column] for column in (f"{key}_low", key, f"{key}_high"))
        style.draw_intervals(panel, range(len(top)), *ends, number=number)
        panel.set_xlim(0, None)
    panels[0].set(xlabel=f"mean |SHAP value| ({found.output})", title="importance")
    panels[1].set(xlabel="rank, 1 = most important", title="rank over backgrounds")
    residual = np.abs(found.residual)
    caption = (
        f"{first['feature']} moves the {found.output} of {name} most; over {len(found.ranks)} stratified backgrounds "
        f"its rank is {_ranks(first)} (bars: 95 % of the backgrounds, {len(found.rows)} {material.scored}). "
        f"Additivity: f(x) − E f and the sum of the values differ by {residual.mean():.1e} on average, "
        f"{residual.max():.1e} at most, where f(x) has a standard deviation of {found.std:.2f}."
    )
    listed = ", ".join(f"{row['feature']} rank {_ranks(row)}" for _, row in features[:5].iterrows())
    alt = f"Dots with intervals of importance and rank of the {len(top)} leading reduced features: {listed}."
    title, data = f"SHAP values of the reduced features: {name}", table({"class": name, **features})
    return Plot(f"shap-ranks-{chosen}", SECTION, title, caption, alt, figure, data)


def _draw_swarm(material: Material, chosen: int, found: Attribution, features: pd.DataFrame) -> Plot:
    top, name = features[:SWARMED][::-1], material.name(chosen)
    names = top["feature"].tolist()
    figure, panel = style.row_panels(names, 0.38)
    phi, values, count = found.phi[:, top.index], found.values[:, top.index], len(found.rows)
    heights = np.arange(len(top))[:, None] + np.random.default_rng(0).uniform(-0.28, 0.28, (len(top), count))
    look: dict[str, Any] = {"cmap": style.SEQUENTIAL, "vmin": -2, "vmax": 2, "s": 14, "linewidths": 0}
    points = panel.scatter(phi, heights.T, c=np.clip(values, -2, 2), **look)
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.set_xlabel(f"SHAP value for {name} ({found.output})")
    figure.colorbar(points, ax=panel, label="value of the feature (standard deviations)", shrink=0.8, extend="both")
    way = "towards" if top["direction"].iloc[-1] > 0 else "away from"
    caption = (
        f"Each point is one clip: high values (yellow) of {names[-1]} push {way} {name}; points right of the line "
        f"speak for {name}, left of it against."
    )
    signs = (f"{row['feature']} {'for' if row['direction'] > 0 else 'against'}" for _, row in features[:5].iterrows())
    alt = f"Strips of points, a row a feature, colored by the feature's value. High values speak: {', '.join(signs)}."
    clip_ids = np.repeat([material.targets.clip_ids[row] for row in found.rows], len(top))
    data = table({"clip_id": clip_ids, "feature": names * count, "value": values.ravel(), "shap": phi.ravel()})
    return Plot(f"shap-values-{chosen}", SECTION, f"SHAP values clip by clip: {name}", caption, alt, figure, data)


def _draw_components(material: Material, chosen: int, features: pd.DataFrame) -> list[Plot]:
    """Draw the leading components of named columns as weights, those of the modulation spectrum as maps.

    A part kept without PCA has no components: its reduced features are its columns.
    """
    loadings = {int(feature): material.bundle.preprocessor.back_project(int(feature)) for feature in features.index}
    several = {feature: own for feature, own in loadings.items() if np.count_nonzero(own.component) > 1}
    mapped = [feature for feature, own in several.items() if own.columns[0].block in material.maps]
    named = [feature for feature, own in several.items() if feature not in mapped and "[" not in own.columns[0].name]
    drawn = (_draw_weights, named[:COMPONENTS]), (_draw_component_maps, mapped[:COMPONENTS])
    return [draw(material, chosen, features.loc[own], [loadings[one] for one in own]) for draw, own in drawn if own]


def _grid(features: pd.DataFrame, **options: Any) -> tuple[Any, list[Any]]:
    """Return a figure with a panel for each feature, under its name, rank and sign."""
    columns = min(3, len(features))
    rows = -(-len(features) // columns)
    figure, grid = style.new_panels(3.4 * columns + 1.0, 3.5 * rows, rows, columns, squeeze=False, **options)
    panels = grid.ravel().tolist()
    for panel, (_, row) in zip(panels, features.iterrows(), strict=False):
        sign = "+" if row["direction"] > 0 else "−"
        panel.set_title(f"{row['feature']}\nrank {_ranks(row)}, {sign}", fontsize=10)
    for panel in panels[len(features) :]:
        panel.remove()
    return figure, panels[: len(features)]


def _ranks(row: Any) -> str:
    return style.span([row["rank_low"], row["rank_high"]], ".0f")


def _draw_weights(material: Material, chosen: int, features: pd.DataFrame, loadings: Sequence[Loading]) -> Plot:
    name, names = material.name(chosen), features["feature"].tolist()
    figure, panels = _grid(features)
    frames: list[pd.DataFrame] = []
    for panel, feature, loading in zip(panels, names, loadings, strict=True):
        own = {"class": name, "feature": feature, "column": [column.name for column in loading.columns]}
        weights = pd.DataFrame({**own, "weight": loading.component, "per_deviation": loading.per_deviation})
        top = weights.sort_values("per_deviation", key=lambda rise: -rise.abs(), kind="stable")[:WEIGHTS][::-1]
        colors = np.where(top["per_deviation"] > 0, style.OKABE_ITO[0], style.OKABE_ITO[1])
        panel.barh(top["column"], top["per_deviation"], color=colors, height=0.75)
        panel.axvline(0, color=style.GREY, lw=0.8)
        frames.append(weights)
    strongest = loadings[0].columns[int(np.abs(loadings[0].per_deviation).argmax())].name
    figure.supxlabel("change of the component when the index rises by one standard deviation", fontsize=10)
    caption = (
        f"What the components that matter most are made of: {names[0]} follows {strongest} above all (+ in the "
        f"heading: high values speak for {name}; ranks as in the SHAP figure)."
    )
    alt = f"Bars of the {WEIGHTS} largest weights of {len(features)} components, blue positive, orange negative."
    title = f"The leading components of the indices: {name}"
    return Plot(f"components-indices-{chosen}", SECTION, title, caption, alt, figure, table(pd.concat(frames)))


def _draw_component_maps(material: Material, chosen: int, features: pd.DataFrame, loadings: Sequence[Loading]) -> Plot:
    name, names = material.name(chosen), features["feature"].tolist()
    figure, panels = _grid(features, sharex=True, sharey=True)
    maps = [_component_map(loading) for loading in loadings]
    for panel, values in zip(panels, maps, strict=True):
        mesh = style.draw_modulation(panel, values / np.nanmax(np.abs(values)), 1.0)
    figure.colorbar(mesh, ax=panels, label="effect of a cell, 1 = the strongest of the map", shrink=0.8)
    cells = [np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape) for values in maps]
    peaks = [f"{own} weighs {style.modulation_at(cell)} most" for own, cell in zip(names, cells, strict=True)]
    caption = (
        f"Where in the modulation spectrum the components that matter most lie: {peaks[0]} (+ in the heading: high "
        f"values speak for {name})."
    )
    said = "; ".join(peaks)
    alt = f"Maps of component weights over temporal modulation in Hz and spectral modulation in cycles per kHz: {said}."
    data = table({**style.modulation_cells("feature", names), "per_deviation": np.concatenate(maps).ravel()})
    title = f"The leading components of the modulation spectrum: {name}"
    return Plot(f"components-modulation-{chosen}", SECTION, title, caption, alt, figure, data)


def _component_map(loading: Loading) -> Floats:
    """Return the effect of each cell on a component, [spectral, temporal]; NaN for cells left out of the reduction."""
    vector = np.full(SHAPE[0] * SHAPE[1], np.nan)
    vector[[int(column.name.partition("[")[2].rstrip("]")) for column in loading.columns]] = loading.per_deviation
    return np.asarray(as_maps(vector))


def importance_plots(material: Material) -> list[Plot]:
    """Draw permutation importance of blocks, indices and regions of the modulation spectrum."""
    found, base, clips = permutation_importance(material, feature_groups(material))
    found = sorted(found, key=lambda one: -one.drop)
    plots = [_draw_importance(material, found, base, clips)]
    return plots if material.bundle.recipe.task == "binary" else [*plots, _draw_importance_by_class(material, found)]


def _draw_importance(material: Material, ordered: list[Importance], base: float, clips: int) -> Plot:
    columns = {"group": "name", "kind": "kind", "block": "block", "signal": "signal"}
    groups = pd.DataFrame({key: [getattr(one.group, own) for one in ordered] for key, own in columns.items()})
    groups["features"] = [len(one.group.columns) for one in ordered]
    groups[["drop", "low", "high"]] = [(one.drop, one.low, one.high) for one in ordered]
    whole = groups["kind"] == "part"
    shown = pd.concat([groups[whole], groups[~whole][: SHOWN - 2]])[::-1].reset_index(drop=True)
    figure, panel = style.row_panels(shown["group"].tolist())
    for color, (kind, label) in zip(style.OKABE_ITO, KINDS.items(), strict=False):
        own = shown[shown["kind"] == kind]
        if len(own):
            panel.barh(own.index, own["drop"], color=color, height=0.7, label=label)
    panel.hlines(shown.index, shown["low"], shown["high"], color="#333333", lw=1.2)
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.set_xlabel("drop in AUC when shuffled, 95 % interval")
    style.legend_below(figure, len(KINDS))
    best, clear = ordered[0], (groups["low"] > 0).sum()
    caption = (
        f"Shuffling {_spoken(best)} costs most, {best.drop:.3f} of an AUC of {base:.3f} ({best.low:.3f} to "
        f"{best.high:.3f}); for {clear} of {len(ordered)} groups the interval lies above 0 "
        f"(if none mattered, about {0.025 * len(ordered):.0f} would by chance; {clips:,} {material.scored}). "
        "Correlated features replace each other, so a small drop does not mean that a feature is useless."
    )
    listed = ", ".join(f"{one.group.name} {one.drop:.3f}" for one in ordered[:5])
    alt = f"Bars of the drop in AUC with intervals, whole blocks above, their finer groups below: {listed}."
    title = "Permutation importance of the original features"
    return Plot("permutation-importance", SECTION, title, caption, alt, figure, table(groups))


def _draw_importance_by_class(material: Material, ordered: list[Importance]) -> Plot:
    names = [material.name(chosen) for chosen in range(len(material.targets.classes))]
    support = material.truth.sum(axis=0)
    classes = np.sort(np.argsort(-support, kind="stable")[:SHOWN])
    drops = np.array([one.of_class for one in ordered])
    shown = drops[:SHOWN, classes]
    figure, panel = style.new_panels(2.5 + 0.5 * len(classes) + 3, 2.2 + 0.3 * len(shown))
    most = max(float(np.nanmax(np.abs(shown), initial=0)), 1e-6)
    image = panel.imshow(shown, cmap=style.DIVERGING, vmin=-most, vmax=most, aspect="auto")
    style.mark_cells(panel, [one.group.name for one in ordered[:SHOWN]], [names[c] for c in classes], 34)
    figure.colorbar(image, ax=panel, label="drop in AUC")
    leading = []
    for chosen in classes[np.argsort(-np.nan_to_num(shown).max(axis=0), kind="stable")][:5]:
        best = int(np.argmax(np.nan_to_num(drops[:, chosen])))
        leading.append(f"{names[chosen]} needs {_spoken(ordered[best])} most ({drops[best, chosen]:.3f})")
    caption = (
        f"What each class against the others loses when features are shuffled: {'; '.join(leading)}. A group may serve "
        "one class alone, which the mean over classes hides."
    )
    alt = f"Colored cells, a row a group of features, a column a class: {'; '.join(leading)}."
    groups = np.repeat([(one.group.name, one.group.kind) for one in ordered], len(names), axis=0)
    of_class = {"class": names * len(ordered), "clips": np.tile(support, len(ordered)), "drop": drops.ravel()}
    data = table({"group": groups[:, 0], "kind": groups[:, 1], **of_class})
    title = "Permutation importance for each class"
    return Plot("permutation-importance-classes", SECTION, title, caption, alt, figure, data)


def _spoken(one: Importance) -> str:
    if one.group.kind == "part":
        return f"all {one.group.block} of the {style.signal_name(one.group.signal)}"
    return one.group.name
