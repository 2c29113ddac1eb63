"""Plots of what the model relies on: SHAP over backgrounds, the components behind it, permutation importance."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.attribution import BUDGET, Attribution, attribute
from acoustic_env.explain.contrast_plots import MAPS
from acoustic_env.explain.importance import Importance, feature_groups, permutation_importance
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Plot
from acoustic_env.features.modulation import SHAPE, as_maps, axes
from acoustic_env.stats.intervals import Floats

SECTION: Final = "What the model relies on"
SHOWN: Final = 20
SWARMED: Final = 12
COMPONENTS: Final = 6
WEIGHTS: Final = 12
COLORS: Final = {"part": style.OKABE_ITO[0], "column": style.OKABE_ITO[1], "region": style.OKABE_ITO[2]}
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


def _name(material: Material, feature: int) -> str:
    return material.bundle.preprocessor.names[feature]


@style.drawn
def _draw_ranks(material: Material, chosen: int, found: Attribution) -> Plot:
    names, name = material.bundle.preprocessor.names, material.name(chosen)
    middle, low, high = found.rank_interval()
    mean = found.importance.mean(axis=0)
    ends = np.quantile(found.importance, [0.025, 0.975], axis=0)
    order = np.argsort(-mean, kind="stable")
    top = order[:SHOWN][::-1]
    figure, panels = style.new_panels(9, 1.3 + 0.27 * len(top), 1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(top))
    panels[0].hlines(places, ends[0, top], ends[1, top], color=style.OKABE_ITO[0], lw=2)
    panels[0].plot(mean[top], places, "o", color=style.OKABE_ITO[0], ms=6)
    panels[0].set_yticks(places, [style.shortened(names[i]) for i in top])
    panels[0].set(xlabel=f"mean |SHAP value| ({found.output})", xlim=(0, None), title="importance")
    panels[1].hlines(places, low[top], high[top], color=style.OKABE_ITO[1], lw=2)
    panels[1].plot(middle[top], places, "s", color=style.OKABE_ITO[1], ms=5)
    panels[1].set(xlabel="rank, 1 = most important", xlim=(0, None), title="rank over backgrounds")
    for panel in panels:
        panel.grid(axis="x", color=style.FAINT, lw=0.6)
    residual = np.abs(found.residual)
    first = order[0]
    title = f"SHAP values of the reduced features: {name}"
    caption = (
        f"{names[first]} moves the {found.output} of {name} most; over {len(found.ranks)} stratified backgrounds its "
        f"rank is {_ranks(low[first], high[first])} (bars: 95 % of the backgrounds, "
        f"{len(found.rows)} {material.scored}). Additivity: f(x) − E f and the sum of the values differ by "
        f"{residual.mean():.1e} on average, {residual.max():.1e} at most, where f(x) has a standard deviation of "
        f"{found.std:.2f}."
    )
    listed = ", ".join(f"{names[i]} rank {_ranks(low[i], high[i])}" for i in order[:5])
    alt = f"Dots with intervals of importance and rank of the {len(top)} leading reduced features: {listed}."
    data = pa.table(
        {
            "class": [name] * len(names),
            "feature": names,
            "block": [feature.split(".")[0] for feature in names],
            "signal": [feature.split(".")[1] for feature in names],
            "importance": mean,
            "importance_low": ends[0],
            "importance_high": ends[1],
            "rank": middle,
            "rank_low": low,
            "rank_high": high,
            "direction": found.direction(),
        }
    ).take(pa.array(order))
    return Plot(f"shap-ranks-{chosen}", SECTION, title, caption, alt, figure, data)


@style.drawn
def _draw_swarm(material: Material, chosen: int, found: Attribution) -> Plot:
    names, name = material.bundle.preprocessor.names, material.name(chosen)
    top = np.argsort(-np.abs(found.phi).mean(axis=0), kind="stable")[:SWARMED][::-1]
    figure, panel = style.new_panels(9, 1.5 + 0.38 * len(top))
    random = np.random.default_rng(0)
    for place, feature in enumerate(top):
        values = found.values[:, feature]
        points = panel.scatter(
            found.phi[:, feature],
            place + random.uniform(-0.28, 0.28, len(values)),
            c=np.clip(values, -2, 2),
            cmap=style.SEQUENTIAL,
            vmin=-2,
            vmax=2,
            s=14,
            linewidths=0,
        )
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.grid(axis="x", color=style.FAINT, lw=0.6)
    panel.set_yticks(range(len(top)), [style.shortened(names[i]) for i in top])
    panel.set_xlabel(f"SHAP value for {name} ({found.output})")
    figure.colorbar(points, ax=panel, label="value of the feature (standard deviations)", shrink=0.8, extend="both")
    first = int(top[-1])
    way = "towards" if found.direction()[first] > 0 else "away from"
    title = f"SHAP values clip by clip: {name}"
    caption = (
        f"Each point is one clip: high values (yellow) of {names[first]} push {way} {name}; points right of the line "
        f"speak for {name}, left of it against."
    )
    listed = ", ".join(f"{names[i]} {'for' if found.direction()[i] > 0 else 'against'}" for i in top[::-1][:5])
    alt = f"Strips of points, a row a feature, colored by the feature's value. High values speak: {listed}."
    data = pa.table(
        {
            "clip_id": [material.targets.clip_ids[row] for row in found.rows for _ in top],
            "feature": [names[i] for i in top] * len(found.rows),
            "value": found.values[:, top].ravel(),
            "shap": found.phi[:, top].ravel(),
        }
    )
    return Plot(f"shap-values-{chosen}", SECTION, title, caption, alt, figure, data)


def _draw_components(material: Material, chosen: int, found: Attribution) -> list[Plot]:
    """Draw the leading components of named columns as weights, those of the modulation spectrum as maps.

    A part kept without PCA has no components: its reduced features are its columns.
    """
    order = np.argsort(-found.importance.mean(axis=0), kind="stable")
    named, mapped = [], []
    for feature in order:
        loading = material.bundle.preprocessor.back_project(int(feature))
        if np.count_nonzero(loading.component) == 1:
            continue
        if loading.columns[0].block == MAPS:
            mapped.append(int(feature))
        elif "[" not in loading.columns[0].name:
            named.append(int(feature))
    plots = []
    if named:
        plots.append(_draw_weights(material, chosen, found, named[:COMPONENTS]))
    if mapped:
        plots.append(_draw_component_maps(material, chosen, found, mapped[:COMPONENTS]))
    return plots


def _heading(material: Material, found: Attribution, feature: int) -> str:
    _, low, high = found.rank_interval()
    sign = "+" if found.direction()[feature] > 0 else "−"
    return f"{_name(material, feature)}\nrank {_ranks(low[feature], high[feature])}, {sign}"


def _grid(material: Material, found: Attribution, features: list[int], **options: Any) -> tuple[Any, list[Any]]:
    """Return a figure with a panel for each feature, under its heading."""
    columns = min(3, len(features))
    rows = -(-len(features) // columns)
    figure, grid = style.new_panels(3.4 * columns + 1.0, 3.5 * rows, rows, columns, squeeze=False, **options)
    panels = grid.ravel().tolist()
    for panel, feature in zip(panels, features, strict=False):
        panel.set_title(_heading(material, found, feature), fontsize=10)
    for panel in panels[len(features) :]:
        panel.remove()
    return figure, panels[: len(features)]


def _ranks(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


@style.drawn
def _draw_weights(material: Material, chosen: int, found: Attribution, features: list[int]) -> Plot:
    name = material.name(chosen)
    figure, panels = _grid(material, found, features)
    table: list[dict[str, Any]] = []
    for panel, feature in zip(panels, features, strict=True):
        loading = material.bundle.preprocessor.back_project(feature)
        top = np.argsort(-np.abs(loading.per_deviation), kind="stable")[:WEIGHTS][::-1]
        colors = [style.OKABE_ITO[0] if loading.per_deviation[i] > 0 else style.OKABE_ITO[1] for i in top]
        panel.barh(range(len(top)), loading.per_deviation[top], color=colors, height=0.75)
        panel.set_yticks(range(len(top)), [loading.columns[i].name for i in top])
        panel.axvline(0, color=style.GREY, lw=0.8)
        own = {"class": name, "feature": _name(material, feature)}
        weights = zip(loading.columns, loading.component, loading.per_deviation, strict=True)
        table += [own | {"column": c.name, "weight": weight, "per_deviation": rise} for c, weight, rise in weights]
    figure.supxlabel("change of the component when the index rises by one standard deviation", fontsize=10)
    first = material.bundle.preprocessor.back_project(features[0])
    strongest = first.columns[int(np.abs(first.per_deviation).argmax())].name
    title = f"The leading components of the indices: {name}"
    caption = (
        f"What the components that matter most are made of: {_name(material, features[0])} follows {strongest} above "
        f"all (+ in the heading: high values speak for {name}; ranks as in the SHAP figure)."
    )
    alt = f"Bars of the {WEIGHTS} largest weights of {len(features)} components, blue positive, orange negative."
    return Plot(f"components-indices-{chosen}", SECTION, title, caption, alt, figure, pa.Table.from_pylist(table))


@style.drawn
def _draw_component_maps(material: Material, chosen: int, found: Attribution, features: list[int]) -> Plot:
    name = material.name(chosen)
    figure, panels = _grid(material, found, features, sharex=True, sharey=True)
    maps = [_component_map(material, feature) for feature in features]
    for panel, values in zip(panels, maps, strict=True):
        mesh = style.draw_modulation(panel, values / np.nanmax(np.abs(values)), 1.0)
        style.modulation_axes(panel)
        panel.label_outer()
    figure.colorbar(mesh, ax=panels, label="effect of a cell, 1 = the strongest of the map", shrink=0.8)
    title = f"The leading components of the modulation spectrum: {name}"
    caption = (
        f"Where in the modulation spectrum the components that matter most lie: "
        f"{_peak(material, features[0], maps[0])} (+ in the heading: high values speak for {name})."
    )
    said = "; ".join(_peak(material, feature, values) for feature, values in zip(features, maps, strict=True))
    alt = f"Maps of component weights over temporal modulation in Hz and spectral modulation in cycles per kHz: {said}."
    cells = style.modulation_cells("feature", [_name(material, feature) for feature in features])
    data = pa.table({**cells, "per_deviation": np.concatenate([values.ravel() for values in maps])})
    return Plot(f"components-modulation-{chosen}", SECTION, title, caption, alt, figure, data)


def _component_map(material: Material, feature: int) -> Floats:
    """Return the effect of each cell on a component, [spectral, temporal]; NaN for cells left out of the reduction."""
    loading = material.bundle.preprocessor.back_project(feature)
    vector = np.full(SHAPE[0] * SHAPE[1], np.nan)
    cells = [int(column.name.partition("[")[2].rstrip("]")) for column in loading.columns]
    vector[cells] = loading.per_deviation
    return np.asarray(as_maps(vector))


def _peak(material: Material, feature: int, values: Floats) -> str:
    spectral, temporal = axes()
    row, column = np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape)
    return f"{_name(material, feature)} weighs {temporal[column]:.0f} Hz, {spectral[row]:.1f} cycles/kHz most"


def importance_plots(material: Material) -> list[Plot]:
    """Draw permutation importance of blocks, indices and regions of the modulation spectrum."""
    groups = feature_groups(material)
    found, base, clips = permutation_importance(material, groups)
    plots = [_draw_importance(material, found, base, clips)]
    return plots if material.bundle.recipe.task == "binary" else [*plots, _draw_importance_by_class(material, found)]


@style.drawn
def _draw_importance(material: Material, found: list[Importance], base: float, clips: int) -> Plot:
    ordered = sorted(found, key=lambda one: -one.drop)
    parts = [one for one in ordered if one.group.kind == "part"]
    finer = [one for one in ordered if one.group.kind != "part"][: SHOWN - 2]
    shown = (parts + finer)[::-1]
    figure, panel = style.new_panels(9, 1.4 + 0.27 * len(shown))
    for place, one in enumerate(shown):
        color = COLORS[one.group.kind]
        panel.barh(place, one.drop, color=color, height=0.7)
        panel.plot([one.low, one.high], [place, place], color="#333333", lw=1.2)
    panel.set_yticks(range(len(shown)), [one.group.name for one in shown])
    panel.axvline(0, color=style.GREY, lw=0.8)
    panel.grid(axis="x", color=style.FAINT, lw=0.6)
    panel.set_xlabel("drop in AUC when shuffled, 95 % interval")
    kinds = dict.fromkeys(one.group.kind for one in parts + finer)
    for kind in kinds:
        panel.barh([0], [0], color=COLORS[kind], label=KINDS[kind])
    figure.legend(loc="outside lower center", ncols=len(kinds))
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
    groups = [
        {"group": one.group.name, "kind": one.group.kind, "block": one.group.block, "signal": one.group.signal}
        | {"features": len(one.group.columns), "drop": one.drop, "low": one.low, "high": one.high}
        for one in ordered
    ]
    data = pa.Table.from_pylist(groups)
    title = "Permutation importance of the original features"
    return Plot("permutation-importance", SECTION, title, caption, alt, figure, data)


@style.drawn
def _draw_importance_by_class(material: Material, found: list[Importance]) -> Plot:
    ordered = sorted(found, key=lambda one: -one.drop)
    names = [material.name(chosen) for chosen in range(len(material.targets.classes))]
    support = material.truth.sum(axis=0)
    classes = np.sort(np.argsort(-support, kind="stable")[:SHOWN])
    drops = np.array([one.of_class for one in ordered])
    shown = drops[:SHOWN, classes]
    figure, panel = style.new_panels(2.5 + 0.5 * len(classes) + 3, 2.2 + 0.3 * len(shown))
    most = max(float(np.nanmax(np.abs(shown), initial=0)), 1e-6)
    image = panel.imshow(shown, cmap=style.DIVERGING, vmin=-most, vmax=most, aspect="auto")
    panel.set_yticks(range(len(shown)), [style.shortened(one.group.name) for one in ordered[:SHOWN]])
    panel.set_xticks(range(len(classes)), [style.shortened(names[c], 24) for c in classes], rotation=45, ha="right")
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
    rows = [
        {"group": one.group.name, "kind": one.group.kind, "class": name, "clips": int(clips), "drop": drop}
        for one in ordered
        for name, clips, drop in zip(names, support, one.of_class, strict=True)
    ]
    title = "Permutation importance for each class"
    return Plot("permutation-importance-classes", SECTION, title, caption, alt, figure, pa.Table.from_pylist(rows))


def _spoken(one: Importance) -> str:
    if one.group.kind == "part":
        return f"all {one.group.block} of the {style.signal_name(one.group.signal)}"
    return one.group.name
