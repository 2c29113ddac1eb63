"""Plots of what networks on sequences rely on: patches on the mel image of clips, and averages of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from acoustic_env.explain import style
from acoustic_env.explain.material import FrameAxes, Material
from acoustic_env.explain.plot import Plot, table
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
    grid = _Grid(material, axes, patches)
    return [*(draw(grid, clips) for clips in by_class.values()), _draw_means(grid, by_class)]


@dataclass(frozen=True)
class _Grid:
    """Where patches of frames and bands lie in time, frequency and signals."""

    material: Material
    axes: FrameAxes
    patches: Patches

    @property
    def signals(self) -> list[str]:
        return [column.signal for column in self.material.matrix.columns]

    @property
    def size(self) -> int:
        """Bands of a signal."""
        return int(self.patches.bands[-1]) // len(self.signals)

    @property
    def seconds(self) -> Floats:
        """Where rows of patches begin, and the end, in seconds [rows + 1]."""
        return np.asarray(np.maximum(0, self.axes.first_s + self.patches.frames * self.axes.hop_s))

    @property
    def hertz(self) -> Floats:
        """The ends of columns of patches in Hz [columns, 2]; none where bands have no frequency."""
        if self.axes.edges_hz is None:
            return np.empty((self.patches.shape[1], 0))
        low, high = self.patches.bands[:-1] % self.size, (self.patches.bands[1:] - 1) % self.size + 1
        return np.stack([self.axes.edges_hz[low], self.axes.edges_hz[high]], axis=1)

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The number of the signal of each column of patches [columns]."""
        return np.arange(self.patches.shape[1]) * len(self.signals) // self.patches.shape[1]

    def time(self, row: int) -> str:
        return f"{self.seconds[row]:.2f} to {self.seconds[row + 1]:.2f} s"

    def band(self, column: int) -> str:
        return " to ".join(f"{hertz:,.0f}" for hertz in self.hertz[column]) + " Hz"

    def levels(self, clip: ExplainedClip) -> Floats:
        """Return the frames of a clip in dB [frames, bands]."""
        if self.axes.log == "none":
            return np.asarray(10 * np.log10(np.maximum(clip.frames, LEAST_POWER)))
        return np.asarray(clip.frames * (10 / np.log(10) if self.axes.log == "ln" else 1.0), np.float64)

    def rows(self, of: Mapping[str, str], values: Mapping[str, Floats]) -> pd.DataFrame:
        """Return a row for each patch: what it is of, where it lies, and its values."""
        rows, columns = (index.ravel() for index in np.indices(self.patches.shape))
        place: dict[str, Any] = {"signal": np.array(self.signals)[self.numbers[columns]]}
        place |= {"start_s": self.seconds[rows], "end_s": self.seconds[rows + 1]}
        place |= dict(zip(("low_Hz", "high_Hz"), self.hertz[columns].T, strict=False))
        return pd.DataFrame({**of, **place, **{name: found.ravel() for name, found in values.items()}})

    def mark_hz(self, axis: Any) -> None:
        """Mark an axis of band numbers with round frequencies, each where its mel band lies."""
        edges = self.axes.edges_hz
        assert edges is not None
        marked = [hz for hz in MARKED_HZ if edges[0] <= hz <= edges[-1]]
        axis.set_ticks(np.interp(marked, edges, np.arange(len(edges))), [f"{hz:,}" for hz in marked])


# ---- a class's clips


def _draw_images(grid: _Grid, clips: list[ExplainedClip]) -> Plot:
    """Draw a row for each clip and signal: the mel image, then both methods on it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    scales = {name: Normalize(*_limits([getattr(clip, name) for clip in clips])) for name in METHODS}
    shown = [(clip, number) for clip in clips for number in range(len(grid.signals))]
    figure, panels = style.new_panels(
        11, 1.3 + 2.2 * len(shown), len(shown), 3, squeeze=False, sharex=True, sharey=True
    )
    for (clip, number), (left, *others) in zip(shown, panels, strict=True):
        levels = grid.levels(clip)[:, number * grid.size : (number + 1) * grid.size]
        low, high = np.quantile(levels, [0.02, 0.998])
        image = _image(left, grid, levels.T, vmin=low, vmax=high)
        figure.colorbar(image, ax=left, label="dB", pad=0.01)
        of = f", {style.signal_name(grid.signals[number])}" if len(grid.signals) > 1 else ""
        left.set(ylabel="frequency (Hz)", title=style.shortened(f"given: {clip.given}{of}", 40))
        others[0].set_title(f"probability {clip.probability:.2f}")
        for panel, (name, scale) in zip(others, scales.items(), strict=True):
            _image(panel, grid, levels.T, vmin=low, vmax=high, cmap="Greys_r")
            part = getattr(clip, name)[:, grid.numbers == number]
            cells = np.repeat(part, np.diff(grid.patches.frames), axis=0)
            cells = np.repeat(cells, np.diff(grid.patches.bands[: part.shape[1] + 1]), axis=1)
            colors = ScalarMappable(scale, style.DIVERGING).to_rgba(cells.T)
            colors[..., 3] = OPAQUE * np.sqrt(np.abs(cells.T) / scale.vmax).clip(0, 1)
            _image(panel, grid, colors)
    for column, (name, scale) in enumerate(scales.items(), start=1):
        bar = {"label": f"{METHODS[name]} (log odds)", "location": "bottom", "ticks": MaxNLocator(5)}
        figure.colorbar(ScalarMappable(scale, style.DIVERGING), ax=panels[:, column], shrink=0.8, **bar)
    for panel in panels[-1]:
        panel.set_xlabel("time (s)")
    panels[0, 0].set_xlim(0, None)
    grid.mark_hz(panels[0, 0].yaxis)
    return _clip_plot(grid, clips, figure)


def _image(panel: Any, grid: _Grid, values: npt.NDArray[Any], **options: Any) -> Any:
    """Draw numbers or colors [bands, frames] over seconds and band numbers."""
    end = grid.axes.first_s + values.shape[1] * grid.axes.hop_s
    extent = (grid.axes.first_s, end, 0, len(values))
    return panel.imshow(values, origin="lower", aspect="auto", extent=extent, interpolation="none", **options)


def _draw_lines(grid: _Grid, clips: list[ExplainedClip]) -> Plot:
    """Draw both methods over time, a panel for each clip, signals summed."""
    figure, panels = style.new_panels(8, 1.2 + 1.7 * len(clips), len(clips), 1, squeeze=False, sharex=True)
    for panel, clip in zip(panels[:, 0], clips, strict=True):
        for color, (name, label) in zip(style.OKABE_ITO, METHODS.items(), strict=False):
            over_time = getattr(clip, name).sum(axis=1)
            panel.stairs(over_time, grid.seconds, color=color, lw=1.8, label=label, baseline=None)
        panel.axhline(0, color=style.GREY, lw=0.8)
        panel.grid(axis="x")
        title = style.shortened(f"given: {clip.given}", 60) + f", probability {clip.probability:.2f}"
        panel.set(ylabel="log odds", title=title)
    panels[-1, 0].set_xlabel("time (s)")
    style.legend_below(figure, len(METHODS), panels[0, 0])
    return _clip_plot(grid, clips, figure)


def _clip_plot(grid: _Grid, clips: list[ExplainedClip], figure: Any) -> Plot:
    material, in_hz = grid.material, grid.axes.edges_hz is not None
    name = material.name(clips[0].predicted)
    places = [_strongest(grid, clip) for clip in clips]
    signs = "orange patches speak for it, purple ones" if in_hz else "frames above 0 speak for it, below"
    residual = max(abs(clip.residual) for clip in clips)
    caption = (
        f"Predicted as {name}, {len(clips)} of the {material.scored}: {signs} against it, by integrated gradients from "
        f"the mean of each band, and by the log odds lost when a patch becomes that mean. "
        f"Occlusion costs most at {'; '.join(places)}. "
        f"Completeness: the sum of the gradients differs by {residual:.1e} at most from the log odds of the clip less "
        f"those of the mean (which are {style.span([clip.value - clip.base for clip in clips], '.2f')})."
    )
    if material.bundle.recipe.windows:
        caption += " Log odds are the mean of those of the clip's windows; frames at the ends lie in fewer windows."
    listed = "; ".join(
        f"{clip.clip_id}, given {clip.given}: {place}" for clip, place in zip(clips, places, strict=True)
    )
    alt = f"For each clip the importance of its parts by two methods. Where occlusion costs most: {listed}."
    rows = []
    for clip in clips:
        values = {"level_dB": grid.patches.sums(grid.levels(clip)) / grid.patches.sizes()} if in_hz else {}
        values |= {method: getattr(clip, method) for method in METHODS}
        rows.append(grid.rows({"class": name, "clip_id": clip.clip_id, "given": clip.given}, values))
    title = f"Clips predicted as {name}"
    return Plot(f"clips-{clips[0].predicted}", SECTION, title, caption, alt, figure, table(pd.concat(rows)))


def _strongest(grid: _Grid, clip: ExplainedClip) -> str:
    row, column = map(int, np.unravel_index(int(np.argmax(clip.occlusion)), grid.patches.shape))
    place = grid.time(row)
    if grid.axes.edges_hz is not None:
        place += f", {grid.band(column)}"
    return f"{place} ({clip.occlusion[row, column]:.2f})"


# ---- means of the classes


def _draw_means(grid: _Grid, by_class: dict[int, list[ExplainedClip]]) -> Plot:
    """Draw the mean of each class over time, bands summed, and over bands that have frequencies, time summed."""
    names, in_hz = [grid.material.name(chosen) for chosen in by_class], grid.axes.edges_hz is not None
    means = {
        method: np.stack([np.mean([getattr(clip, method) for clip in clips], axis=0) for clips in by_class.values()])
        for method in METHODS
    }
    height = 1.8 + 2 * (0.8 + 0.26 * len(names))
    options = {"squeeze": False, "sharey": True}
    figure, panels = style.new_panels(6.6 + 4.6 * in_hz, height, 2, 1 + in_hz, **options)
    for (left, *right), (method, label) in zip(panels, METHODS.items(), strict=True):
        sides = ("time", grid.seconds, 2, "time (s)"), ("bands", grid.patches.bands, 1, "frequency (Hz)")
        for panel, (side, edges, summed, unit) in zip((left, *right), sides, strict=False):
            values, classes = means[method].sum(axis=summed), np.arange(len(names) + 1)
            low, high = _limits(values)
            mesh = panel.pcolormesh(edges, classes, values, cmap=style.DIVERGING, vmin=low, vmax=high, rasterized=True)
            figure.colorbar(mesh, ax=panel, label="log odds", pad=0.01)
            panel.set(title=f"{label}, over {side}", xlabel=unit)
        left.set_yticks(np.arange(len(names)) + 0.5, [style.shortened(one, 24) for one in names])
        for panel in right:
            _mark_bands(panel, grid)
    panels[0, 0].invert_yaxis()
    said = "; ".join(f"{name} {_leading(grid, mean)}" for name, mean in zip(names, means["occlusion"], strict=True))
    counts = [len(clips) for clips in by_class.values()]
    caption = (
        f"Mean over {sum(counts)} {grid.material.scored}, {style.span(counts)} predicted as each class: what patches "
        "add to its log odds (gradients), or cost when replaced by the mean of their bands (occlusion), summed over "
        f"the other axis. Most by occlusion: {said}."
    )
    alt = f"Heat maps of classes by time and by frequency, for two methods. Most by occlusion: {said}."
    rows = [
        grid.rows({"class": name}, {method: means[method][number] for method in METHODS})
        for number, name in enumerate(names)
    ]
    return Plot("clips-means", SECTION, "Means of the classes", caption, alt, figure, table(pd.concat(rows)))


def _limits(values: Any) -> tuple[float, float]:
    """Return limits around zero that hold all values."""
    limit = max(float(np.abs(values).max()), 1e-12)
    return -limit, limit


def _mark_bands(panel: Any, grid: _Grid) -> None:
    """Mark band numbers with frequencies, for one signal, or each signal's share of the axis with its name."""
    if len(grid.signals) == 1:
        grid.mark_hz(panel.xaxis)
        panel.tick_params(axis="x", rotation=45)
        return
    places = (np.arange(len(grid.signals)) + 0.5) * grid.size
    panel.set_xticks(places, [style.signal_name(signal) for signal in grid.signals])
    edges = grid.axes.edges_hz
    assert edges is not None
    panel.set_xlabel(f"signal, each {edges[0]:,.0f} to {edges[-1]:,.0f} Hz")
    for place in range(1, len(grid.signals)):
        panel.axvline(place * grid.size, color=style.GREY, lw=0.8)


def _leading(grid: _Grid, mean: Floats) -> str:
    """Say where a class's mean [rows, columns] is highest, over bands that have frequencies or else over time."""
    if grid.axes.edges_hz is None:
        return grid.time(int(mean.sum(axis=1).argmax()))
    column = int(mean.sum(axis=0).argmax())
    of = f" of {style.signal_name(grid.signals[grid.numbers[column]])}" if len(grid.signals) > 1 else ""
    return f"{grid.band(column)}{of}"
