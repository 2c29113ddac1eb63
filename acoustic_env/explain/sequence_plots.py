"""Plots of what networks on sequences rely on: patches on the mel image of clips, and averages of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.explain import style
from acoustic_env.explain.material import FrameAxes, Material
from acoustic_env.explain.plot import Plot
from acoustic_env.explain.sequence_attribution import ExplainedClip, Patches, explained_clips
from acoustic_env.stats.intervals import Floats

SECTION: Final = "What the network relies on"
METHODS: Final = {"gradients": "integrated gradients", "occlusion": "occlusion"}
LEAST_POWER: Final = 1e-10
MARKED_HZ: Final = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
OPAQUE: Final = 0.9  # of the patch that counts most


def sequence_plots(material: Material) -> list[Plot]:
    """Draw a few clips of each class predicted, and the mean of these clips for each class."""
    axes = material.frames
    if axes is None:
        return []
    _, frames, bands = material.matrix.values.shape
    patches = Patches.of(frames, bands, len(material.matrix.columns), by_band=axes.edges_hz is not None)
    by_class: dict[int, list[ExplainedClip]] = {}
    for clip in explained_clips(material, patches):
        by_class.setdefault(clip.predicted, []).append(clip)
    draw = _draw_lines if axes.edges_hz is None else _draw_images
    found = [draw(material, axes, patches, clips) for clips in by_class.values()]
    return [*found, _draw_means(material, axes, patches, by_class)]


# ---- where patches lie


def _seconds(axes: FrameAxes, patches: Patches) -> Floats:
    """Return where rows of patches begin, and the end, in seconds [rows + 1]."""
    return np.asarray(np.maximum(0, axes.first_s + patches.frames * axes.hop_s))


def _columns(material: Material, patches: Patches) -> list[tuple[str, int, int]]:
    """Return the signal of each column of patches, and its first and last band edge."""
    signals = [column.signal for column in material.matrix.columns]
    size = int(patches.bands[-1]) // len(signals)
    own = patches.shape[1] // len(signals)
    edges = patches.bands
    return [
        (signals[c // own], int(edges[c] % size), int((edges[c + 1] - 1) % size) + 1) for c in range(patches.shape[1])
    ]


def _decibels(levels: npt.NDArray[Any], log: str) -> Floats:
    if log == "none":
        return np.asarray(10 * np.log10(np.maximum(levels, LEAST_POWER)))
    return np.asarray(levels * (10 / np.log(10) if log == "ln" else 1.0), np.float64)


# ---- a class's clips


@style.drawn
def _draw_images(material: Material, axes: FrameAxes, patches: Patches, clips: list[ExplainedClip]) -> Plot:
    """Draw a row for each clip and signal: the mel image, then both methods on it."""
    from matplotlib.ticker import MaxNLocator

    signals = [column.signal for column in material.matrix.columns]
    own = patches.shape[1] // len(signals)
    size = int(patches.bands[-1]) // len(signals)
    limits = {name: _limit([getattr(clip, name) for clip in clips]) for name in METHODS}
    count = len(clips) * len(signals)
    figure, panels = style.new_panels(11, 1.3 + 2.2 * count, count, 3, squeeze=False, sharex=True, sharey=True)
    last: dict[str, Any] = {}
    for row, (clip, number) in enumerate((clip, number) for clip in clips for number in range(len(signals))):
        levels = _decibels(clip.frames[:, number * size : (number + 1) * size], axes.log)
        last["level"] = _image(panels[row, 0], axes, levels, style.SEQUENTIAL)
        figure.colorbar(last["level"], ax=panels[row, 0], label="dB", pad=0.01)
        panels[row, 0].set_ylabel("frequency (Hz)")
        of = f", {style.signal_name(signals[number])}" if len(signals) > 1 else ""
        panels[row, 0].set_title(style.shortened(f"given: {clip.given}{of}", 40))
        panels[row, 1].set_title(f"probability {clip.probability:.2f}")
        for panel, name in zip(panels[row, 1:], METHODS, strict=True):
            _image(panel, axes, levels, "Greys_r")
            part = getattr(clip, name)[:, number * own : (number + 1) * own]
            last[name] = _overlay(panel, axes, patches, part, limits[name])
    for column, name in enumerate(METHODS, start=1):
        figure.colorbar(
            last[name],
            ax=panels[:, column],
            label=f"{METHODS[name]} (log odds)",
            location="bottom",
            shrink=0.8,
            ticks=MaxNLocator(5),
        )
    _mark_axes(panels, axes, size)
    return _clip_plot(material, axes, patches, clips, figure)


def _image(panel: Any, axes: FrameAxes, levels: Floats, colors: str) -> Any:
    """Draw levels [frames, bands] over seconds and band numbers."""
    ends = (axes.first_s, axes.first_s + len(levels) * axes.hop_s)
    low, high = np.quantile(levels, [0.02, 0.998])
    extent = (*ends, 0, levels.shape[1])
    return panel.imshow(
        levels.T, origin="lower", aspect="auto", extent=extent, cmap=colors, vmin=low, vmax=high, interpolation="none"
    )


def _overlay(panel: Any, axes: FrameAxes, patches: Patches, values: Floats, limit: float) -> Any:
    """Draw patches [rows, columns] over an image, the more opaque the more they count; return what a bar shows."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = Normalize(-limit, limit)
    cells = np.repeat(values, np.diff(patches.frames), axis=0)
    cells = np.repeat(cells, np.diff(patches.bands[: values.shape[1] + 1]), axis=1)
    colors = matplotlib.colormaps[style.DIVERGING](scale(cells.T))
    colors[..., 3] = OPAQUE * np.sqrt(np.abs(cells.T) / limit).clip(0, 1)
    extent = (axes.first_s, axes.first_s + patches.frames[-1] * axes.hop_s, 0, cells.shape[1])
    panel.imshow(colors, origin="lower", aspect="auto", extent=extent, interpolation="none")
    return ScalarMappable(scale, style.DIVERGING)


def _mark_axes(panels: npt.NDArray[Any], axes: FrameAxes, bands: int) -> None:
    assert axes.edges_hz is not None
    for panel in panels[-1]:
        panel.set_xlabel("time (s)")
    panels[0, 0].set_xlim(0, None)
    _mark_hz(panels[0, 0].yaxis, axes.edges_hz, bands)


def _mark_hz(axis: Any, edges: Floats, bands: int) -> None:
    """Mark an axis of band numbers with round frequencies, each where its mel band lies."""
    marked = [hz for hz in MARKED_HZ if edges[0] <= hz <= edges[-1]]
    axis.set_ticks(np.interp(marked, edges, np.arange(bands + 1)), [f"{hz:,}" for hz in marked])


@style.drawn
def _draw_lines(material: Material, axes: FrameAxes, patches: Patches, clips: list[ExplainedClip]) -> Plot:
    """Draw both methods over time, a panel for each clip, signals summed."""
    edges = _seconds(axes, patches)
    figure, panels = style.new_panels(8, 1.2 + 1.7 * len(clips), len(clips), 1, squeeze=False, sharex=True)
    panels = panels[:, 0]
    for panel, clip in zip(panels, clips, strict=True):
        for color, (name, label) in zip(style.OKABE_ITO, METHODS.items(), strict=False):
            panel.stairs(getattr(clip, name).sum(axis=1), edges, color=color, lw=1.8, label=label, baseline=None)
        panel.axhline(0, color=style.GREY, lw=0.8)
        panel.grid(axis="x", color=style.FAINT, lw=0.6)
        panel.set_ylabel("log odds")
        panel.set_title(style.shortened(f"given: {clip.given}", 60) + f", probability {clip.probability:.2f}")
    panels[-1].set_xlabel("time (s)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS))
    return _clip_plot(material, axes, patches, clips, figure)


def _clip_plot(material: Material, axes: FrameAxes, patches: Patches, clips: list[ExplainedClip], figure: Any) -> Plot:
    chosen = clips[0].predicted
    name = material.name(chosen)
    places = [_strongest(material, axes, patches, clip) for clip in clips]
    signs = "frames above 0 speak for it, below against it"
    if axes.edges_hz is not None:
        signs = "orange patches speak for it, purple ones against it"
    caption = (
        f"Predicted as {name}, {len(clips)} of the {material.scored}: {signs}, by integrated gradients from the "
        f"mean of each band, and by the log odds lost when a patch becomes that mean. "
        f"Occlusion costs most at {'; '.join(places)}. "
    )
    residual = max(abs(clip.residual) for clip in clips)
    caption += (
        f"Completeness: the sum of the gradients differs by {residual:.1e} at most from the log odds of the clip less "
        f"those of the mean (which are {_range([clip.value - clip.base for clip in clips])})."
    )
    if material.bundle.recipe.windows:
        caption += " Log odds are the mean of those of the clip's windows; frames at the ends lie in fewer windows."
    listed = "; ".join(
        f"{clip.clip_id}, given {clip.given}: {place}" for clip, place in zip(clips, places, strict=True)
    )
    alt = f"For each clip the importance of its parts by two methods. Where occlusion costs most: {listed}."
    data = _table(material, axes, patches, clips)
    return Plot(f"clips-{chosen}", SECTION, f"Clips predicted as {name}", caption, alt, figure, data)


def _strongest(material: Material, axes: FrameAxes, patches: Patches, clip: ExplainedClip) -> str:
    row, column = np.unravel_index(int(np.argmax(clip.occlusion)), patches.shape)
    seconds = _seconds(axes, patches)
    place = f"{seconds[row]:.2f} to {seconds[row + 1]:.2f} s"
    if axes.edges_hz is not None:
        _, low, high = _columns(material, patches)[int(column)]
        place += f", {axes.edges_hz[low]:,.0f} to {axes.edges_hz[high]:,.0f} Hz"
    return f"{place} ({clip.occlusion[row, column]:.2f})"


def _range(values: Sequence[float]) -> str:
    return f"{values[0]:.2f}" if len(values) == 1 else f"{min(values):.2f} to {max(values):.2f}"


def _table(material: Material, axes: FrameAxes, patches: Patches, clips: list[ExplainedClip]) -> pa.Table:
    """Return a row for each clip and patch."""
    rows = []
    for clip in clips:
        of = {"class": material.name(clip.predicted), "clip_id": clip.clip_id, "given": clip.given}
        values = {name: getattr(clip, name) for name in METHODS}
        if axes.edges_hz is not None:
            values = {"level_dB": patches.sums(_decibels(clip.frames, axes.log)) / patches.sizes(), **values}
        rows += _patch_rows(material, axes, patches, of, values)
    return pa.Table.from_pylist(rows)


def _patch_rows(
    material: Material, axes: FrameAxes, patches: Patches, of: dict[str, str], values: dict[str, Floats]
) -> list[dict[str, Any]]:
    """Return a row for each patch: what it is of, where it lies, and its values."""
    seconds, columns, rows = _seconds(axes, patches), _columns(material, patches), []
    for row, column in np.ndindex(patches.shape):
        signal, low, high = columns[column]
        place: dict[str, Any] = {"signal": signal, "start_s": seconds[row], "end_s": seconds[row + 1]}
        if axes.edges_hz is not None:
            place |= {"low_Hz": axes.edges_hz[low], "high_Hz": axes.edges_hz[high]}
        rows.append({**of, **place, **{name: float(found[row, column]) for name, found in values.items()}})
    return rows


# ---- means of the classes


@style.drawn
def _draw_means(
    material: Material, axes: FrameAxes, patches: Patches, by_class: dict[int, list[ExplainedClip]]
) -> Plot:
    """Draw the mean of each class over time, bands summed, and over bands that have frequencies, time summed."""
    names = [material.name(chosen) for chosen in by_class]
    means = {
        name: np.stack([np.mean([getattr(clip, name) for clip in clips], axis=0) for clips in by_class.values()])
        for name in METHODS
    }
    sides = 1 if axes.edges_hz is None else 2
    height = 1.8 + 2 * (0.8 + 0.26 * len(names))
    figure, panels = style.new_panels(4.6 * sides + 2, height, 2, sides, squeeze=False, sharey=True)
    seconds = _seconds(axes, patches)
    for row, (name, label) in enumerate(METHODS.items()):
        over = [("time", seconds, means[name].sum(axis=2)), ("bands", patches.bands, means[name].sum(axis=1))]
        for panel, (side, edges, values) in zip(panels[row], over, strict=False):
            figure.colorbar(_heat(panel, edges, values), ax=panel, label="log odds", pad=0.01)
            panel.set(title=f"{label}, over {side}", xlabel="time (s)" if side == "time" else "frequency (Hz)")
        panels[row, 0].set_yticks(np.arange(len(names)) + 0.5, [style.shortened(one, 24) for one in names])
        if axes.edges_hz is not None:
            _mark_bands(panels[row, 1], material, axes.edges_hz)
    panels[0, 0].invert_yaxis()
    said = [_leading(material, axes, patches, name, mean) for name, mean in zip(names, means["occlusion"], strict=True)]
    caption = (
        f"Mean over {sum(map(len, by_class.values()))} {material.scored}, "
        f"{_count([len(clips) for clips in by_class.values()])} predicted as each class: what patches add to its log "
        f"odds (gradients), or cost when replaced by the mean of their bands (occlusion), summed over the other axis. "
        f"Most by occlusion: {'; '.join(said)}."
    )
    alt = f"Heat maps of classes by time and by frequency, for two methods. Most by occlusion: {'; '.join(said)}."
    data = [
        row
        for number, name in enumerate(names)
        for row in _patch_rows(material, axes, patches, {"class": name}, {key: means[key][number] for key in METHODS})
    ]
    return Plot("clips-means", SECTION, "Means of the classes", caption, alt, figure, pa.Table.from_pylist(data))


def _limit(values: Sequence[Floats]) -> float:
    return max(float(np.abs(values).max()), 1e-12)


def _heat(panel: Any, edges: npt.NDArray[Any], values: Floats) -> Any:
    limit = _limit([values])
    return panel.pcolormesh(
        edges, np.arange(len(values) + 1), values, cmap=style.DIVERGING, vmin=-limit, vmax=limit, rasterized=True
    )


def _mark_bands(panel: Any, material: Material, edges: Floats) -> None:
    """Mark band numbers with frequencies, for one signal, or each signal's share of the axis with its name."""
    signals = [column.signal for column in material.matrix.columns]
    size = len(edges) - 1
    if len(signals) == 1:
        _mark_hz(panel.xaxis, edges, size)
        panel.tick_params(axis="x", rotation=45)
        return
    panel.set_xticks((np.arange(len(signals)) + 0.5) * size, [style.signal_name(signal) for signal in signals])
    panel.set_xlabel(f"signal, each {edges[0]:,.0f} to {edges[-1]:,.0f} Hz")
    for place in range(1, len(signals)):
        panel.axvline(place * size, color=style.GREY, lw=0.8)


def _leading(material: Material, axes: FrameAxes, patches: Patches, name: str, mean: Floats) -> str:
    if axes.edges_hz is None:
        seconds, row = _seconds(axes, patches), int(mean.sum(axis=1).argmax())
        return f"{name} {seconds[row]:.2f} to {seconds[row + 1]:.2f} s"
    signal, low, high = _columns(material, patches)[int(mean.sum(axis=0).argmax())]
    of = f" of {style.signal_name(signal)}" if len(material.matrix.columns) > 1 else ""
    return f"{name} {axes.edges_hz[low]:,.0f} to {axes.edges_hz[high]:,.0f} Hz{of}"


def _count(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
