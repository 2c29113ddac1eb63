"""Plots of a sample of clips: one clip in detail, a gallery, lengths and levels; and of labels and tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from acoustic_env.explain import style
from acoustic_env.explain.plot import Plot, table
from acoustic_env.report.clip_sample import (
    BANDS,
    FRAMES,
    RATE,
    Array,
    HeardClip,
    band_hertz,
    decibels,
    mel_filters,
)

SECTION: Final = "Clips"
RANGE_DB: Final = 70.0
GALLERY: Final = 3
GALLERY_S: Final = 10.0
TAGS: Final = 30
LABELS: Final = 12
MEL_TICKS: Final = (250, 1000, 4000, 10_000)
OUTLINE: Final = 1200  # columns of a waveform
HOP_S: Final = FRAMES.hop_length / RATE
Clips = Mapping[str, Sequence[HeardClip]]  # class -> its clips
Names = Sequence[Sequence[str]]  # labels or tags of each clip


def _mark_mel(axis: Any) -> None:
    axis.set_ticks(np.interp(MEL_TICKS, band_hertz(), np.arange(BANDS)), [f"{hertz / 1000:g}" for hertz in MEL_TICKS])


def _frames_image(panel: Any, values: Array, low: float, high: float, **options: Any) -> Any:
    """Draw numbers of frames [frames, rows] over seconds."""
    extent = (0, len(values) * HOP_S, -0.5, values.shape[1] - 0.5)
    return panel.imshow(values.T, extent=extent, vmin=low, vmax=high, origin="lower", aspect="auto", **options)


def example_plot(name: str, clip: HeardClip) -> Plot:
    """Draw waveform, spectrum, mel filters, mel spectrogram and MFCCs of a clip of class `name`."""
    from acoustic_env.features.mel import MfccBlock

    levels, top = decibels(clip.mel_power), float(decibels(clip.mel_power).max())
    coefficients = MfccBlock("fast").frames_of(clip.waveform)["mfcc"][:, 1:]
    figure = style.new_figure(9.4, 8.4)
    waveform, spectrum, filters, mel, mfcc = figure.subplot_mosaic("ww;sf;mc", height_ratios=(0.8, 1, 1.1)).values()
    pieces = np.array_split(clip.waveform, min(OUTLINE, len(clip.waveform)))
    times = np.linspace(0, len(clip.waveform) / RATE, len(pieces))
    ends = [piece.min() for piece in pieces], [piece.max() for piece in pieces]
    waveform.fill_between(times, *ends, color=style.OKABE_ITO[0], lw=0.4)
    waveform.set(xlabel="time (s)", ylabel="amplitude", title="Waveform (full scale 1.0)", xlim=(0, times[-1]))
    waveform.axhline(0, color=style.GREY, lw=0.5)
    spectrum.plot(band_hertz(), clip.spectrum_db, color=style.OKABE_ITO[0], lw=1.5)
    spectrum.set(xlabel="frequency (Hz)", ylabel="level in the band (dBFS)", title="Spectrum, mean over time")
    hertz = np.arange(FRAMES.n_fft // 2 + 1) * RATE / FRAMES.n_fft
    for number, weights in enumerate(mel_filters()):
        filters.plot(hertz, weights, color=style.FAINT if number % 8 else style.OKABE_ITO[0], lw=1)
    filters.set(xlabel="frequency (Hz)", ylabel="weight", title=f"The {BANDS} mel filters, every eighth in color")
    spectrum.grid()
    filters.grid()
    image = _frames_image(mel, levels, top - RANGE_DB, top)
    figure.colorbar(image, ax=mel, label="level in the band (dBFS)")
    _mark_mel(mel.yaxis)
    mel.set(xlabel="time (s)", ylabel="frequency (kHz)", title="Mel spectrogram")
    limit = float(np.abs(coefficients).max()) or 1.0
    image = _frames_image(mfcc, coefficients, -limit, limit, cmap=style.DIVERGING)
    figure.colorbar(image, ax=mfcc, label="coefficient (dB)")
    mfcc.set_yticks([0, 4, 9, 14, 18], [1, 5, 10, 15, 19])
    mfcc.set(xlabel="time (s)", ylabel="coefficient", title="MFCCs 1 to 19")
    where = f"clip {clip.clip_id} of class {name}"
    caption = (
        f"A clip in detail: {where}, chosen by a seed, {clip.seconds:.1f} s, RMS {clip.rms_db:.1f} dBFS. Resampled to "
        f"{RATE / 1000:g} kHz, not normalized; levels are of the RMS relative to full scale, frames of {FRAMES.n_fft} "
        f"samples every {FRAMES.hop_length}. MFCCs by the block mfcc with its defaults; coefficient 0, the level, is "
        "left out."
    )
    alt = f"Waveform, spectrum, mel filters, mel spectrogram and MFCCs of {where}; RMS {clip.rms_db:.1f} dBFS."
    data = table({"time_s": np.arange(len(levels)) * HOP_S, **_band_columns(levels)})
    return Plot("clip-example", SECTION, "A clip in detail", caption, alt, figure, data)


def _band_columns(levels: Array) -> dict[str, Array]:
    """Return levels [n, bands] as columns of a table."""
    return {f"level_dBFS_{hertz:.0f}_Hz": own for hertz, own in zip(band_hertz(), levels.T, strict=True)}


def gallery_plot(clips: Clips, name: str, title: str, lead: str) -> Plot:
    """Draw mel images, a row for each name of `clips`, at most `GALLERY` in a row, all in the same colors."""
    shown = [(row, column, clip) for row, of in enumerate(clips) for column, clip in enumerate(clips[of][:GALLERY])]
    images = [decibels(clip.mel_power[: round(GALLERY_S / HOP_S) + 1]) for *_, clip in shown]
    top = max(float(levels.max()) for levels in images)
    figure, panels = style.new_panels(9.4, 0.9 + 1.35 * len(clips), len(clips), GALLERY, squeeze=False)
    for panel in panels.ravel():
        panel.set_axis_off()
    names = list(clips)
    for (row, column, clip), levels in zip(shown, images, strict=True):
        panel = panels[row, column]
        panel.set_axis_on()
        image = _frames_image(panel, levels, top - RANGE_DB, top)
        panel.set_title(style.shortened(clip.clip_id, 34), fontsize=8)
        _mark_mel(panel.yaxis)
        panel.tick_params(labelsize=8, labelleft=column == 0)
        panel.set_ylabel("" if column else f"{style.shortened(names[row], 22)}\n(kHz)")
    figure.supxlabel("time (s)", fontsize=10)
    figure.colorbar(image, ax=panels, label="level in the mel band (dBFS)", shrink=min(1, 4 / len(clips)))
    caption = (
        f"{lead} {len(shown)} clips, at most {GALLERY} a row, the first {GALLERY_S:g} s of each at most, "
        f"not normalized, all in one color scale of {RANGE_DB:g} dB."
    )
    counts = "; ".join(f"{of}, {len(own[:GALLERY])}" for of, own in clips.items())
    alt = f"Mel spectrograms of {len(shown)} clips: {counts}"
    rows = [(names[row], clip.clip_id, clip.rms_db, clip.seconds) for row, _, clip in shown]
    data = table(pd.DataFrame(rows, columns=["row", "clip_id", "rms_dBFS", "seconds"]))
    return Plot(name, SECTION, title, caption, alt, figure, data)


def _strips(panel: Any, values: Sequence[Sequence[float]]) -> None:
    """Draw each value as a stroke and the median of a class as a diamond, a row for each class."""
    panel.eventplot(values, colors=style.OKABE_ITO[0], alpha=0.7, lineoffsets=range(len(values)), linelengths=0.3)
    panel.plot([np.median(own) for own in values], range(len(values)), "D", color=style.OKABE_ITO[1], ms=6)


def _sampled(clips: Clips) -> str:
    sizes = [len(found) for found in clips.values()]
    return f"{sum(sizes):,} sampled clips, {style.span(sizes)} a class"


def lengths_plot(clips: Clips) -> Plot:
    """Draw the length of each sampled clip by class."""
    figure, panel = style.row_panels(list(clips), 0.36, downwards=True)
    _strips(panel, [[clip.seconds for clip in found] for found in clips.values()])
    rows = [(of, clip.clip_id, clip.seconds) for of, found in clips.items() for clip in found]
    data = pd.DataFrame(rows, columns=["class", "clip_id", "seconds"])
    shortest, middle, longest = data["seconds"].quantile([0, 0.5, 1])
    panel.set(xlabel="length (s)", xscale="log" if longest > 20 * max(shortest, 1e-3) else "linear")
    said = f"{shortest:.2f} s to {longest:.2f} s, median {middle:.2f} s"
    caption = f"Lengths of {_sampled(clips)}: {said}. Each stroke is a clip, the diamond the median of its class."
    alt = f"Lengths of clips by class: {said}."
    return Plot("clip-lengths", SECTION, "Lengths", caption, alt, figure, table(data))


def levels_plot(clips: Clips) -> Plot:
    """Draw RMS, zero-crossing rate and spectrum of the sampled clips by class."""
    names = list(clips)
    rms = [[clip.rms_db for clip in found] for found in clips.values()]
    crossings = [[clip.crossings for clip in found] for found in clips.values()]
    spectra = np.array([np.median([clip.spectrum_db for clip in found], axis=0) for found in clips.values()])
    figure, (left, middle, right) = style.row_panels(names, 0.45, 3, downwards=True, width_ratios=(1, 1, 1.5))
    _strips(left, rms)
    left.set(xlabel="RMS (dBFS)", title="Level")
    _strips(middle, crossings)
    middle.set(xlabel="crossings per second", title="Zero-crossing rate")
    top = float(spectra.max())
    image = right.imshow(spectra, vmin=max(float(spectra.min()), top - RANGE_DB), vmax=top, aspect="auto")
    _mark_mel(right.xaxis)
    right.grid(visible=False)
    right.set(xlabel="frequency (kHz)", title="Spectrum, median of the clips")
    figure.colorbar(image, ax=right, label="level in the mel band (dBFS)")
    medians = {name: float(np.median(own)) for name, own in zip(names, rms, strict=True)}
    loud, quiet = max(medians, key=medians.__getitem__), min(medians, key=medians.__getitem__)
    said = f"loudest in the median is {loud} ({medians[loud]:.1f} dBFS), quietest {quiet} ({medians[quiet]:.1f} dBFS)"
    caption = (
        f"Level, zero-crossing rate and spectrum of {_sampled(clips)}, at {RATE / 1000:g} kHz and before any "
        f"normalization: {said}. Each stroke is a clip, the diamond the median. A level that tells classes apart is "
        "lost in signals that are normalized."
    )
    columns = {"class": names, "rms_dBFS_median": list(medians.values())}
    columns["crossings_per_s_median"] = [float(np.median(own)) for own in crossings]
    data, title = table({**columns, **_band_columns(spectra)}), "Level, zero crossings and spectrum of each class"
    return Plot("clip-levels", SECTION, title, caption, f"Strips of levels by class: {said}.", figure, data)


def _count_clips(names: Mapping[str, Names]) -> pd.DataFrame:
    """Count the clips that have each name, most frequent first, a column for each part."""
    listed = [(part, name) for part, rows in names.items() for own in rows for name in dict.fromkeys(own)]
    found = pd.DataFrame(listed, columns=["part", "name"])
    counts = pd.crosstab(found["name"], found["part"]).reindex(columns=list(names), fill_value=0)
    return counts.sort_index().loc[counts.sum(axis=1).sort_index().sort_values(ascending=False, kind="stable").index]


def counts_plot(noun: str, names: Mapping[str, Names]) -> Plot:
    """Draw how many clips carry each label or tag, by part of the split -> names of each of its clips."""
    counts = _count_clips(names)
    total, shown = counts.sum(axis=1), counts[:TAGS]
    figure, panel = style.row_panels(list(shown.index), downwards=True)
    left = np.zeros(len(shown))
    for number, part in enumerate(shown):
        panel.barh(range(len(shown)), shown[part], left=left, color=style.OKABE_ITO[number], label=part, height=0.7)
        left += shown[part]
    panel.set_xlabel("clips")
    if len(names) > 1:
        style.legend_below(figure, len(names))
    which = f"the {TAGS} most frequent of {len(total):,} {noun}s" if len(total) > TAGS else f"all {noun}s"
    said = f"most frequent is {total.index[0]} ({total.iloc[0]:,}), rarest {total.index[-1]} ({total.iloc[-1]:,})"
    clips = f"{' by part of the split' if len(names) > 1 else ''}, of {sum(map(len, names.values())):,} clips"
    caption, alt = f"Clips of each {noun}{clips} ({which}): {said}.", f"Bars of {noun} counts: {said}."
    data = table(counts.rename_axis(noun).reset_index())
    return Plot(f"clip-{noun}s", SECTION, f"Counts of {noun}s", caption, alt, figure, data)


def cooccurrence_plot(labels: Mapping[str, Names]) -> Plot | None:
    """Draw how often labels occur together, a panel for each part of the split; None where no clip has two labels."""
    several = [own for rows in labels.values() for own in rows if len(set(own)) > 1]
    if not several:
        return None
    total = _count_clips({"clips": several})
    names = list(total.index[:LABELS])
    size = (2.6 + 3.4 * len(labels), 2.4 + 0.27 * len(names))
    figure, (panels,) = style.new_panels(*size, 1, len(labels), squeeze=False, sharey=True)
    tables: list[pd.DataFrame] = []
    for panel, (part, rows) in zip(panels, labels.items(), strict=True):
        carried = np.array([[name in own for name in names] for own in rows], np.int64).reshape(-1, len(names))
        counts = carried.T @ carried
        shares = counts / np.maximum(np.diag(counts)[:, None], 1)
        image = panel.imshow(np.where(np.eye(len(names), dtype=bool), np.nan, shares), vmin=0, vmax=1)
        style.mark_cells(panel, names, names, 18)
        panel.set_title(f"{part} ({len(rows):,})")
        pairs = {"label": np.repeat(names, len(names)), "other": np.tile(names, len(names)), "clips": counts.ravel()}
        tables.append(pd.DataFrame({"part": part, **pairs}))
    figure.colorbar(image, ax=panels, label="share of the row's clips", shrink=0.8)
    data = pd.concat(tables, ignore_index=True)
    best = data.iloc[int(data["clips"].where(data["label"] < data["other"], -1).argmax())]
    said = f"most often together: {best['label']} and {best['other']}, {best['clips']:,} clips of {best['part']}"
    caption = (
        f"Labels that occur together: of the clips with the row's label, the share that has the column's as well "
        f"({len(names)} of {len(total):,} labels that occur with others); {said}."
    )
    alt, title = f"Matrices of co-occurrence of labels; {said}.", "Labels that occur together"
    return Plot("clip-cooccurrence", SECTION, title, caption, alt, figure, table(data))
