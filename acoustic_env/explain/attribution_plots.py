"""Plots of what the model relies on: SHAP over backgrounds, the components behind it, permutation importance."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.attribution import BUDGET, Attribution, attribute
from acoustic_env.explain.importance import Importance, feature_groups, permutation_importance
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot, table
from acoustic_env.features.modulation import SHAPE, as_maps, axes
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
        found += [_draw_ranks(material, chosen, values), _draw_swarm(material, chosen, values)]
        found += _draw_components(material, chosen, values)
    return found


@style.drawn
def _draw_ranks(material: Material, chosen: int, found: Attribution) -> Plot:
    names, name = material.bundle.preprocessor.names, material.name(chosen)
    middle, low, high = found.rank_interval()
    mean, ends, order = found.importance.mean(axis=0), found.importance_interval(), found.order()
    top = order[:SHOWN][::-1]
    figure, (left, right) = style.row_panels([names[i] for i in top], columns=2, width_ratios=(3, 2))
    style.draw_intervals(left, range(len(top)), ends[0][top], mean[top], ends[1][top], number=0)
    left.set(xlabel=f"mean |SHAP value| ({found.output})", xlim=(0, None), title="importance")
    style.draw_intervals(right, range(len(top)), low[top], middle[top], high[top], number=1)
    right.set(xlabel="rank, 1 = most important", xlim=(0, None), title="rank over backgrounds")
    residual = np.abs(found.residual)
    first = order[0]
    caption = (
        f"{names[first]} moves the {found.output} of {name} most; over {len(found.ranks)} stratified backgrounds its "
        f"rank is {_ranks(found, first)} (bars: 95 % of the backgrounds, {len(found.rows)} {material.scored}). "
        f"Additivity: f(x) − E f and the sum of the values differ by {residual.mean():.1e} on average, "
        f"{residual.max():.1e} at most, where f(x) has a standard deviation of {found.std:.2f}."
    )
    listed = ", ".join(f"{names[i]} rank {_ranks(found, i)}" for i in order[:5])
    alt = f"Dots with intervals of importance and rank of the {len(top)} leading reduced features: {listed}."
    block, signal, _ = zip(*(feature.split(".", 2) for feature in names), strict=True)
    columns: dict[str, Any] = {"class": name, "feature": names, "block": block, "signal": signal}
    columns |= {"importance": mean, "importance_low": ends[0], "importance_high": ends[1]}
    columns |= {"rank": middle, "rank_low": low, "rank_high": high, "direction": found.direction()}
    title = f"SHAP values of the reduced features: {name}"
    return Plot(f"shap-ranks-{chosen}", SECTION, title, caption, alt, figure, table(columns).take(order))


@style.drawn
def _draw_swarm(material: Material, chosen: int, found: Attribution) -> Plot:
    names, name = material.bundle.preprocessor.names, material.name(chosen)
    top = found.order()[:SWARMED][::-1]
    figure, panel = style.row_panels([names[i] for i in top], 0.38)
    phi, values, count = found.phi[:, top], found.values[:, top], len(found.rows)
    heights = np.arange(len(top))[:, None] + np.random.default_rng(0).uniform(-0.28, 0.28, (len(top), count))
    look: dict[str, Any] = {"cmap": style.SEQUENTIAL, "vmin": -2, "vmax": 2, "s": 14, "linewidths": 0}
    points = panel.scatter(phi, heights.T, c=np.clip(values, -2, 2), **look)
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.set_xlabel(f"SHAP value for {name} ({found.output})")
    figure.colorbar(points, ax=panel, label="value of the feature (standard deviations)", shrink=0.8, extend="both")
    direction = found.direction()
    way = "towards" if direction[top[-1]] > 0 else "away from"
    caption = (
        f"Each point is one clip: high values (yellow) of {names[top[-1]]} push {way} {name}; points right of the line "
        f"speak for {name}, left of it against."
    )
    listed = ", ".join(f"{names[i]} {'for' if direction[i] > 0 else 'against'}" for i in top[::-1][:5])
    alt = f"Strips of points, a row a feature, colored by the feature's value. High values speak: {listed}."
    clip_ids = np.repeat([material.targets.clip_ids[row] for row in found.rows], len(top))
    columns = {"clip_id": clip_ids, "feature": [names[i] for i in top] * count}
    data = table({**columns, "value": values.ravel(), "shap": phi.ravel()})
    return Plot(f"shap-values-{chosen}", SECTION, f"SHAP values clip by clip: {name}", caption, alt, figure, data)


def _draw_components(material: Material, chosen: int, found: Attribution) -> list[Plot]:
    """Draw the leading components of named columns as weights, those of the modulation spectrum as maps.

    A part kept without PCA has no components: its reduced features are its columns.
    """
    named, mapped = [], []
    for feature in map(int, found.order()):
        loading = material.bundle.preprocessor.back_project(feature)
        if np.count_nonzero(loading.component) == 1:
            continue
        if loading.columns[0].block in material.maps:
            mapped.append(feature)
        elif "[" not in loading.columns[0].name:
            named.append(feature)
    plots = [_draw_weights(material, chosen, found, named[:COMPONENTS])] if named else []
    return [*plots, _draw_component_maps(material, chosen, found, mapped[:COMPONENTS])] if mapped else plots


def _grid(material: Material, found: Attribution, features: list[int], **options: Any) -> tuple[Any, list[Any]]:
    """Return a figure with a panel for each feature, under its name, rank and sign."""
    columns = min(3, len(features))
    rows = -(-len(features) // columns)
    figure, grid = style.new_panels(3.4 * columns + 1.0, 3.5 * rows, rows, columns, squeeze=False, **options)
    panels = grid.ravel().tolist()
    for panel, feature in zip(panels, features, strict=False):
        sign = "+" if found.direction()[feature] > 0 else "−"
        name = material.bundle.preprocessor.names[feature]
        panel.set_title(f"{name}\nrank {_ranks(found, feature)}, {sign}", fontsize=10)
    for panel in panels[len(features) :]:
        panel.remove()
    return figure, panels[: len(features)]


def _ranks(found: Attribution, feature: int) -> str:
    _, low, high = (quantile[feature] for quantile in found.rank_interval())
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


@style.drawn
def _draw_weights(material: Material, chosen: int, found: Attribution, features: list[int]) -> Plot:
    preprocessor, name = material.bundle.preprocessor, material.name(chosen)
    figure, panels = _grid(material, found, features)
    frames: list[pd.DataFrame] = []
    for panel, feature in zip(panels, features, strict=True):
        loading = preprocessor.back_project(feature)
        columns = [column.name for column in loading.columns]
        own = {"class": name, "feature": preprocessor.names[feature], "column": columns}
        weights = pd.DataFrame({**own, "weight": loading.component, "per_deviation": loading.per_deviation})
        top = weights.sort_values("per_deviation", key=lambda rise: -rise.abs(), kind="stable")[:WEIGHTS][::-1]
        colors = np.where(top["per_deviation"] > 0, style.OKABE_ITO[0], style.OKABE_ITO[1])
        panel.barh(top["column"], top["per_deviation"], color=colors, height=0.75)
        panel.axvline(0, color=style.GREY, lw=0.8)
        frames.append(weights)
    strongest = frames[0]["column"].iloc[int(frames[0]["per_deviation"].abs().argmax())]
    figure.supxlabel("change of the component when the index rises by one standard deviation", fontsize=10)
    caption = (
        f"What the components that matter most are made of: {preprocessor.names[features[0]]} follows {strongest} "
        f"above all (+ in the heading: high values speak for {name}; ranks as in the SHAP figure)."
    )
    alt = f"Bars of the {WEIGHTS} largest weights of {len(features)} components, blue positive, orange negative."
    title = f"The leading components of the indices: {name}"
    return Plot(f"components-indices-{chosen}", SECTION, title, caption, alt, figure, table(pd.concat(frames)))


@style.drawn
def _draw_component_maps(material: Material, chosen: int, found: Attribution, features: list[int]) -> Plot:
    name, names = material.name(chosen), [material.bundle.preprocessor.names[feature] for feature in features]
    figure, panels = _grid(material, found, features, sharex=True, sharey=True)
    maps = [_component_map(material, feature) for feature in features]
    for panel, values in zip(panels, maps, strict=True):
        mesh = style.draw_modulation(panel, values / np.nanmax(np.abs(values)), 1.0)
    figure.colorbar(mesh, ax=panels, label="effect of a cell, 1 = the strongest of the map", shrink=0.8)
    peaks = [f"{own} weighs {_peak(values)} most" for own, values in zip(names, maps, strict=True)]
    caption = (
        f"Where in the modulation spectrum the components that matter most lie: {peaks[0]} (+ in the heading: high "
        f"values speak for {name})."
    )
    said = "; ".join(peaks)
    alt = f"Maps of component weights over temporal modulation in Hz and spectral modulation in cycles per kHz: {said}."
    data = table({**style.modulation_cells("feature", names), "per_deviation": np.concatenate(maps).ravel()})
    title = f"The leading components of the modulation spectrum: {name}"
    return Plot(f"components-modulation-{chosen}", SECTION, title, caption, alt, figure, data)


def _component_map(material: Material, feature: int) -> Floats:
    """Return the effect of each cell on a component, [spectral, temporal]; NaN for cells left out of the reduction."""
    loading = material.bundle.preprocessor.back_project(feature)
    vector = np.full(SHAPE[0] * SHAPE[1], np.nan)
    cells = [int(column.name.partition("[")[2].rstrip("]")) for column in loading.columns]
    vector[cells] = loading.per_deviation
    return np.asarray(as_maps(vector))


def _peak(values: Floats) -> str:
    spectral, temporal = axes()
    row, column = np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape)
    return f"{temporal[column]:.0f} Hz, {spectral[row]:.1f} cycles/kHz"


def importance_plots(material: Material) -> list[Plot]:
    """Draw permutation importance of blocks, indices and regions of the modulation spectrum."""
    found, base, clips = permutation_importance(material, feature_groups(material))
    found = sorted(found, key=lambda one: -one.drop)
    plots = [_draw_importance(material, found, base, clips)]
    return plots if material.bundle.recipe.task == "binary" else [*plots, _draw_importance_by_class(material, found)]


@style.drawn
def _draw_importance(material: Material, ordered: list[Importance], base: float, clips: int) -> Plot:
    parts = [one for one in ordered if one.group.kind == "part"]
    shown = [*parts, *[one for one in ordered if one.group.kind != "part"][: SHOWN - 2]][::-1]
    figure, panel = style.row_panels([one.group.name for one in shown])
    for number, (kind, label) in enumerate(KINDS.items()):
        own = [(place, one) for place, one in enumerate(shown) if one.group.kind == kind]
        if own:
            places, drops = [place for place, _ in own], [one.drop for _, one in own]
            panel.barh(places, drops, color=style.OKABE_ITO[number], height=0.7, label=label)
    panel.hlines(range(len(shown)), [one.low for one in shown], [one.high for one in shown], color="#333333", lw=1.2)
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.set_xlabel("drop in AUC when shuffled, 95 % interval")
    style.legend_below(figure, len(KINDS))
    best = ordered[0]
    clear = sum(one.low > 0 for one in ordered)
    caption = (
        f"Shuffling {_spoken(best)} costs most, {best.drop:.3f} of an AUC of {base:.3f} ({best.low:.3f} to "
        f"{best.high:.3f}); for {clear} of {len(ordered)} groups the interval lies above 0 "
        f"(if none mattered, about {0.025 * len(ordered):.0f} would by chance; {clips:,} {material.scored}). "
        "Correlated features replace each other, so a small drop does not mean that a feature is useless."
    )
    listed = ", ".join(f"{one.group.name} {one.drop:.3f}" for one in ordered[:5])
    alt = f"Bars of the drop in AUC with intervals, whole blocks above, their finer groups below: {listed}."
    rows = [
        {"group": one.group.name, "kind": one.group.kind, "block": one.group.block, "signal": one.group.signal}
        | {"features": len(one.group.columns), "drop": one.drop, "low": one.low, "high": one.high}
        for one in ordered
    ]
    title = "Permutation importance of the original features"
    return Plot("permutation-importance", SECTION, title, caption, alt, figure, pa.Table.from_pylist(rows))


@style.drawn
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
