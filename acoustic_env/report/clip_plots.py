"""Plots of a sample of clips: one clip in detail, a gallery, lengths and levels; and of labels and tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from acoustic_env.explain.plot import Plot
from acoustic_env.explain.style import FAINT, GREY, OKABE_ITO, SEQUENTIAL, drawn, new_figure, new_panels, shortened
from acoustic_env.report.clip_sample import (
    BANDS,
    FRAMES,
    RATE,
    Array,
    HeardClip,
    band_hertz,
    decibels,
    mel_filters,
    mel_power,
)

SECTION: Final = "Clips"
RANGE_DB: Final = 70.0
GALLERY: Final = 3
GALLERY_S: Final = 10.0
TAGS: Final = 30
LABELS: Final = 12
MEL_TICKS: Final = (250, 1000, 4000, 10_000)
OUTLINE: Final = 1200  # columns of a waveform

Clips = Mapping[str, Sequence[HeardClip]]


def _mel_axis(panel: Any, *, labels: bool = True) -> None:
    places = np.interp(MEL_TICKS, band_hertz(), np.arange(BANDS))
    panel.set_yticks(places, [f"{hertz / 1000:g}" for hertz in MEL_TICKS] if labels else [])
    if labels:
        panel.set_ylabel("frequency (kHz)")


def _mel_image(panel: Any, levels: Array, top: float) -> Any:
    end = len(levels) * FRAMES.hop_length / RATE
    extent = (0, end, -0.5, BANDS - 0.5)
    options = {"origin": "lower", "aspect": "auto", "cmap": SEQUENTIAL, "interpolation": "nearest"}
    return panel.imshow(levels.T, extent=extent, vmin=top - RANGE_DB, vmax=top, **options)


@drawn
def example_plot(name: str, clip: HeardClip) -> Plot:
    """Draw waveform, spectrum, mel filters, mel spectrogram and MFCCs of a clip of class `name`."""
    from acoustic_env.features.mel import MfccBlock

    power = mel_power(clip.waveform)
    levels, spectrum = decibels(power), decibels(power.mean(axis=0))
    coefficients = MfccBlock("fast").frames_of(clip.waveform)["mfcc"]
    figure = new_figure(9.4, 8.4)
    panels = figure.subplot_mosaic("ww;sf;mc", height_ratios=(0.8, 1, 1.1))
    _draw_waveform(panels["w"], clip.waveform)
    panels["s"].plot(band_hertz(), spectrum, color=OKABE_ITO[0], lw=1.5)
    panels["s"].set(xlabel="frequency (Hz)", ylabel="level in the band (dBFS)", title="Spectrum, mean over time")
    hertz = np.arange(FRAMES.n_fft // 2 + 1) * RATE / FRAMES.n_fft
    for number, weights in enumerate(mel_filters()):
        panels["f"].plot(hertz, weights, color=OKABE_ITO[0] if number % 8 == 0 else FAINT, lw=1)
    panels["f"].set(xlabel="frequency (Hz)", ylabel="weight", title=f"The {BANDS} mel filters, every eighth in color")
    for key in "sf":
        panels[key].grid(color=FAINT, lw=0.6)
    image = _mel_image(panels["m"], levels, float(levels.max()))
    _mel_axis(panels["m"])
    panels["m"].set(xlabel="time (s)", title="Mel spectrogram")
    figure.colorbar(image, ax=panels["m"], label="level in the band (dBFS)")
    end = len(coefficients) * FRAMES.hop_length / RATE
    extent = (0, end, 0.5, coefficients.shape[1] - 0.5)
    limit = float(np.abs(coefficients[:, 1:]).max()) or 1.0
    options = {"origin": "lower", "aspect": "auto", "interpolation": "nearest", "cmap": "PuOr_r"}
    image = panels["c"].imshow(coefficients.T[1:], extent=extent, vmin=-limit, vmax=limit, **options)
    panels["c"].set(xlabel="time (s)", ylabel="coefficient", title="MFCCs 1 to 19", yticks=(1, 5, 10, 15, 19))
    figure.colorbar(image, ax=panels["c"], label="coefficient (dB)")
    where = f"clip {clip.clip_id} of class {name}"
    caption = (
        f"A clip in detail: {where}, chosen by a seed, {clip.seconds:.1f} s, RMS {clip.rms_db:.1f} dBFS. Resampled to "
        f"{RATE / 1000:g} kHz, not normalized; levels are of the RMS relative to full scale, frames of {FRAMES.n_fft} "
        f"samples every {FRAMES.hop_length}. MFCCs by the block mfcc with its defaults; coefficient 0, the level, is "
        "left out."
    )
    alt = f"Waveform, spectrum, mel filters, mel spectrogram and MFCCs of {where}; RMS {clip.rms_db:.1f} dBFS."
    columns = {f"level_dBFS_{at:.0f}_Hz": levels[:, band] for band, at in enumerate(band_hertz())}
    data = pa.table({"time_s": np.arange(len(levels)) * FRAMES.hop_length / RATE, **columns})
    return Plot("clip-example", SECTION, "A clip in detail", caption, alt, figure, data)


def _draw_waveform(panel: Any, waveform: Array) -> None:
    pieces = np.array_split(waveform, min(OUTLINE, len(waveform)))
    times = np.linspace(0, len(waveform) / RATE, len(pieces))
    low, high = [piece.min() for piece in pieces], [piece.max() for piece in pieces]
    panel.fill_between(times, low, high, color=OKABE_ITO[0], lw=0.4)
    panel.set(xlabel="time (s)", ylabel="amplitude", title="Waveform (full scale 1.0)", xlim=(0, times[-1]))
    panel.axhline(0, color=GREY, lw=0.5)


@drawn
def gallery_plot(clips: Clips, name: str, title: str, lead: str) -> Plot:
    """Draw mel images, a row for each name of `clips`, at most `GALLERY` in a row, all in the same colors."""
    shown = [(of, clip) for of, found in clips.items() for clip in found[:GALLERY]]
    images = [decibels(mel_power(clip.waveform[: round(GALLERY_S * RATE)])) for _, clip in shown]
    top = max(float(levels.max()) for levels in images)
    figure, panels = new_panels(9.4, 0.9 + 1.35 * len(clips), len(clips), GALLERY, squeeze=False)
    for panel in panels.ravel():
        panel.set_axis_off()
    image, places = None, Counter[str]()
    rows = {of: row for row, of in enumerate(clips)}
    for (of, clip), levels in zip(shown, images, strict=True):
        panel = panels[rows[of], places[of]]
        panel.set_axis_on()
        image = _mel_image(panel, levels, top)
        panel.set_title(shortened(clip.clip_id, 34), fontsize=8)
        _mel_axis(panel, labels=places[of] == 0)
        if places[of] == 0:
            panel.set_ylabel(f"{shortened(of, 22)}\n(kHz)")
        panel.tick_params(labelsize=8)
        places[of] += 1
    figure.supxlabel("time (s)", fontsize=10)
    figure.colorbar(image, ax=panels, label="level in the mel band (dBFS)", shrink=min(1, 4 / len(clips)))
    caption = (
        f"{lead} {len(shown)} clips, at most {GALLERY} a row, the first {GALLERY_S:g} s of each at most, "
        f"not normalized, all in one color scale of {RANGE_DB:g} dB."
    )
    alt = f"Mel spectrograms of {len(shown)} clips: " + "; ".join(f"{of}, {places[of]}" for of in clips)
    measured = {"rms_dBFS": [clip.rms_db for _, clip in shown], "seconds": [clip.seconds for _, clip in shown]}
    ids = {"row": [of for of, _ in shown], "clip_id": [clip.clip_id for _, clip in shown]}
    return Plot(name, SECTION, title, caption, alt, figure, pa.table(ids | measured))


def _strips(panel: Any, names: Sequence[str], values: Sequence[Sequence[float]]) -> None:
    """Draw each value as a stroke and the median of a name as a dot, a line for each name."""
    for place, own in enumerate(values):
        panel.plot(own, [place] * len(own), "|", color=OKABE_ITO[0], ms=9, alpha=0.7)
        panel.plot(np.median(own), place, "D", color=OKABE_ITO[1], ms=6)
    panel.set_yticks(range(len(names)), [shortened(name, 26) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.grid(axis="x", color=FAINT, lw=0.6)


def _sampled(clips: Clips) -> str:
    sizes = [len(found) for found in clips.values()]
    each = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return f"{sum(sizes):,} sampled clips, {each} a class"


@drawn
def lengths_plot(clips: Clips) -> Plot:
    """Draw the length of each sampled clip by class."""
    names, values = list(clips), [[clip.seconds for clip in found] for found in clips.values()]
    figure, panel = new_panels(9, 1.2 + 0.36 * len(names))
    _strips(panel, names, values)
    flat = np.concatenate(values)
    panel.set(xlabel="length (s)", xscale="log" if flat.max() > 20 * max(flat.min(), 1e-3) else "linear")
    said = f"{flat.min():.2f} s to {flat.max():.2f} s, median {np.median(flat):.2f} s"
    caption = f"Lengths of {_sampled(clips)}: {said}. Each stroke is a clip, the diamond the median of its class."
    rows = [(of, clip.clip_id, clip.seconds) for of, found in clips.items() for clip in found]
    data = pa.table(dict(zip(("class", "clip_id", "seconds"), map(list, zip(*rows, strict=True)), strict=True)))
    return Plot("clip-lengths", SECTION, "Lengths", caption, f"Lengths of clips by class: {said}.", figure, data)


@drawn
def levels_plot(clips: Clips) -> Plot:
    """Draw RMS, zero-crossing rate and spectrum of the sampled clips by class."""
    names = list(clips)
    rms = [[clip.rms_db for clip in found] for found in clips.values()]
    crossings = [[clip.crossings for clip in found] for found in clips.values()]
    spectra = np.array(
        [
            np.median([decibels(mel_power(clip.waveform).mean(axis=0)) for clip in found], axis=0)
            for found in clips.values()
        ]
    )
    figure, (left, middle, right) = new_panels(11, 1.8 + 0.36 * len(names), 1, 3, width_ratios=(1, 1, 1.5))
    _strips(left, names, rms)
    left.set(xlabel="RMS (dBFS)", title="Level")
    _strips(middle, names, crossings)
    middle.set(xlabel="crossings per second", title="Zero-crossing rate")
    top = float(spectra.max())
    lowest = max(float(spectra.min()), top - RANGE_DB)
    options = {"aspect": "auto", "cmap": SEQUENTIAL, "interpolation": "nearest"}
    image = right.imshow(spectra, vmin=lowest, vmax=top, **options)
    right.set_xticks(np.interp(MEL_TICKS, band_hertz(), np.arange(BANDS)), [f"{hertz / 1000:g}" for hertz in MEL_TICKS])
    right.set(xlabel="frequency (kHz)", title="Spectrum, median of the clips")
    figure.colorbar(image, ax=right, label="level in the mel band (dBFS)")
    for panel in (middle, right):
        panel.set_yticks(range(len(names)), [])
    medians = [float(np.median(own)) for own in rms]
    loud, quiet = names[int(np.argmax(medians))], names[int(np.argmin(medians))]
    said = f"loudest in the median is {loud} ({max(medians):.1f} dBFS), quietest {quiet} ({min(medians):.1f} dBFS)"
    caption = (
        f"Level, zero-crossing rate and spectrum of {_sampled(clips)}, at {RATE / 1000:g} kHz and before any "
        f"normalization: {said}. Each stroke is a clip, the diamond the median. A level that tells classes apart is "
        "lost in signals that are normalized."
    )
    data = pa.table(
        {
            "class": names,
            "rms_dBFS_median": medians,
            "crossings_per_s_median": [float(np.median(own)) for own in crossings],
            **{f"level_dBFS_{at:.0f}_Hz": spectra[:, band] for band, at in enumerate(band_hertz())},
        }
    )
    title = "Level, zero crossings and spectrum of each class"
    return Plot("clip-levels", SECTION, title, caption, f"Strips of levels by class: {said}.", figure, data)


def _count_clips(names: Sequence[Sequence[str]]) -> Counter[str]:
    """Return name -> clips that have it, from the names of each clip."""
    return Counter(name for own in names for name in set(own))


def _draw_counts(counts: Mapping[str, Counter[str]], margin: float, step: float) -> tuple[Any, list[str]]:
    """Draw bars of the most frequent names, part after part in a row, and return the figure and all names by count.

    The figure is `margin` inches high, and `step` more for each row.
    """
    total = sum(counts.values(), Counter())
    order = sorted(total, key=lambda name: (-total[name], name))
    shown = order[:TAGS]
    figure, panel = new_panels(9, margin + step * len(shown))
    left = np.zeros(len(shown))
    for number, (role, own) in enumerate(counts.items()):
        width = np.array([own[name] for name in shown], float)
        panel.barh(range(len(shown)), width, left=left, color=OKABE_ITO[number], label=role, height=0.7)
        left += width
    panel.set_yticks(range(len(shown)), [shortened(name) for name in shown])
    panel.set(xlabel="clips", ylim=(len(shown) - 0.4, -0.6))
    panel.grid(axis="x", color=FAINT, lw=0.6)
    return figure, order


@drawn
def labels_plot(labels: Mapping[str, Sequence[Sequence[str]]]) -> Plot:
    """Draw how many clips carry each label, by part of the split -> labels of each of its clips."""
    counts = {role: _count_clips(rows) for role, rows in labels.items()}
    total = sum(counts.values(), Counter())
    figure, order = _draw_counts(counts, 1.4, 0.28)
    if len(counts) > 1:
        figure.legend(loc="outside lower center", ncols=len(counts))
    which = f"the {TAGS} most frequent of {len(order):,} labels" if len(order) > TAGS else "all labels"
    said = f"most frequent is {order[0]} ({total[order[0]]:,}), rarest {order[-1]} ({total[order[-1]]:,})"
    caption = f"Clips of each label{' by part of the split' if len(counts) > 1 else ''} ({which}): {said}."
    rows = [{"label": name, **{role: own[name] for role, own in counts.items()}} for name in order]
    data = pa.Table.from_pylist(rows)
    return Plot("clip-labels", SECTION, "Counts of labels", caption, f"Bars of label counts: {said}.", figure, data)


@drawn
def cooccurrence_plot(labels: Mapping[str, Sequence[Sequence[str]]]) -> Plot | None:
    """Draw how often labels occur together, a panel for each part of the split; None where no clip has two labels."""
    parts = {role: [sorted(set(own)) for own in rows] for role, rows in labels.items()}
    if not any(len(own) > 1 for rows in parts.values() for own in rows):
        return None
    total = Counter(label for rows in parts.values() for own in rows if len(own) > 1 for label in own)
    names = sorted(total, key=lambda name: (-total[name], name))[:LABELS]
    place = {name: number for number, name in enumerate(names)}
    size = (2.6 + 3.4 * len(parts), 2.4 + 0.27 * len(names))
    figure, (panels,) = new_panels(*size, 1, len(parts), squeeze=False)
    data: list[dict[str, Any]] = []
    image = None
    for number, (panel, (role, rows)) in enumerate(zip(panels, parts.items(), strict=True)):
        counts = np.zeros((len(names), len(names)))
        for own in rows:
            known = [place[label] for label in own if label in place]
            counts[np.ix_(known, known)] += 1
        carry = np.maximum(np.diag(counts)[:, None], 1)
        shares = np.where(np.eye(len(names), dtype=bool), np.nan, counts / carry)
        image = panel.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
        panel.set_xticks(range(len(names)), [shortened(name, 18) for name in names], rotation=60, ha="right")
        panel.set_yticks(range(len(names)), [shortened(name, 18) for name in names] if number == 0 else [])
        panel.set_title(f"{role} ({len(rows):,})")
        data += [
            {"part": role, "label": a, "other": b, "clips": int(counts[place[a], place[b]])}
            for a in names
            for b in names
        ]
    figure.colorbar(image, ax=panels, label="share of the row's clips", shrink=0.8)
    best = max((row for row in data if row["label"] < row["other"]), key=lambda row: row["clips"])
    said = f"most often together: {best['label']} and {best['other']}, {best['clips']:,} clips of {best['part']}"
    caption = (
        f"Labels that occur together: of the clips with the row's label, the share that has the column's as well "
        f"({len(names)} of {len(total):,} labels that occur with others); {said}."
    )
    alt = f"Matrices of co-occurrence of labels; {said}."
    table, title = pa.Table.from_pylist(data), "Labels that occur together"
    return Plot("clip-cooccurrence", SECTION, title, caption, alt, figure, table)


@drawn
def tags_plot(tags: Sequence[Sequence[str]]) -> Plot:
    """Draw the most frequent tags."""
    counts = _count_clips(tags)
    figure, order = _draw_counts({"": counts}, 1.2, 0.26)
    said = f"{order[0]} is the most frequent, on {counts[order[0]]:,} of {len(tags):,} clips"
    caption = f"The {len(order[:TAGS])} most frequent of {len(order):,} tags: {said}."
    data = pa.table({"tag": order, "clips": [counts[tag] for tag in order]})
    return Plot("clip-tags", SECTION, "Tags", caption, f"Bars of tag counts: {said}.", figure, data)
