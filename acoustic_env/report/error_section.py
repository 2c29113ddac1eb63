"""The page's section on misclassified test clips: where they are, and how they sound."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import soundfile

from acoustic_env.audio.fetch import duration_of, local_file
from acoustic_env.audit.listen_audio import normalize_for_playback
from acoustic_env.clips.table import CLIP_SCHEMA
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.explain.style import class_name
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import unseen_clips
from acoustic_env.models.validation.performance import called_classes
from acoustic_env.report.clip_plots import GALLERY, gallery_plot
from acoustic_env.report.clip_sample import RATE, HeardClip, hear, seeded_order
from acoustic_env.report.clip_section import tags_of
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Part, Player, Players, Table, Text, digits, in_turn
from acoustic_env.stats.intervals import Estimate, of_share
from acoustic_env.store.feature_store import FeatureStore

PLAYED: Final = 24
PLAYED_S: Final = 10.0
PAIRS: Final = 20
SLICES: Final = 15  # rows of a table
VALUES: Final = 20  # values of a further column that makes slices
HEADERS: Final = 2_000  # local files whose headers are read for their lengths
LENGTHS: Final = 4
DRAWN_ROWS: Final = 4
ABOUT: Final = (
    "Test clips are held out from training. Whoever chooses a model, a feature or a threshold by what is listed here "
    "needs other test clips afterwards. Intervals are of 95 % and say what to expect of new "
    "recordings like these. A slice that stands out among many may do so by chance."
)


def error_section(bundle: Bundle, clips: pa.Table, store: FeatureStore) -> Section | None:
    """List the misclassified clips of a list on which the bundle was evaluated; None without an evaluation on it."""
    if not bundle.own_evaluations:
        return None
    title = "Misclassified test clips"
    try:
        judged, columns = _judge(bundle, clips, store)
    except UsageError as error:
        return Section(title, [Text(f"{error}.", "note", lead="Not listed")])
    wrong = judged[judged["wrong"]]
    rate = f"{len(wrong):,} of {len(judged):,} test clips are misclassified, {_error_rate(judged)}."
    section = Section(title, [Text(rate), Text(ABOUT, "quiet")])
    if wrong.empty:
        return section
    pairs = Counter(wrong["pair"])
    rows = [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]
    title = f"Given and predicted class of misclassified clips, {min(PAIRS, len(rows))} of {len(rows)} pairs"
    section.add(Table(title, ("given", "predicted", "clips"), rows[:PAIRS]))
    section.add(*_slices(judged, columns), *_listen(_chosen(wrong), len(wrong)))
    return section


def _judge(bundle: Bundle, clips: pa.Table, store: FeatureStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the clips that the bundle has not seen.

    Returns:
        A row for each clip: where its audio lies, its `group` and `tags`, the `given` classes, the `pair` of given and
        predicted classes as text, whether they differ (`wrong`), the calibrated `probability`, the highest of the
        classes predicted or, without one, of all, and its length in `seconds`, None where it is not known. And the
        columns of the list that slices are made of.

    Raises:
        UsageError: the bundle was not evaluated on these clips, or cannot be.
    """
    unseen = unseen_clips(bundle, clips, store, log=lambda _: None)
    if unseen.hash not in {one.clips_hash for one in bundle.own_evaluations}:
        msg = "the bundle was not evaluated on the test clips of this list; run acoustic-env evaluate with it first"
        raise UsageError(msg)
    task, y = bundle.recipe.task, unseen.targets.y
    probabilities = bundle.predict_proba(unseen.matrix)
    called = called_classes(task, probabilities, bundle.calibrator.thresholds_)
    truth = y if task == "multilabel" else np.eye(len(bundle.classes), dtype=bool)[y]
    names = np.array([class_name(name) for name in bundle.classes], object)
    rows = pd.DataFrame(unseen.clips.to_pylist(), dtype=object)
    found: dict[str, Any] = {
        "tags": tags_of(unseen.clips),
        "given": [list(names[own]) for own in truth],
        "pair": [tuple(", ".join(names[own]) or "none" for own in both) for both in zip(truth, called, strict=True)],
        "wrong": (truth != called).any(axis=1),
        "probability": np.where(called | ~called.any(axis=1, keepdims=True), probabilities, 0).max(axis=1),
        "seconds": _lengths(rows),
    }
    judged = rows[["clip_id", "uri", "start_s", "end_s", "group"]].assign(**found)
    return judged, rows.drop(columns=[name for name in CLIP_SCHEMA.names if name != "source"] + ["class"])


def _lengths(rows: pd.DataFrame) -> list[float | None]:
    """Return the length of each clip as the list has it, or as the headers of local files do."""
    whole = rows["end_s"].isna()
    readable = whole.sum() <= HEADERS and all(map(local_file, rows["uri"][whole]))
    ends = [
        duration_of(uri) if end is None and readable else end for uri, end in zip(rows.uri, rows.end_s, strict=True)
    ]
    return [None if end is None else end - (start or 0.0) for start, end in zip(rows["start_s"], ends, strict=True)]


def _error_rate(clips: pd.DataFrame) -> Estimate:
    """Return the share of clips that are misclassified, with the interval of their recordings."""
    return of_share(clips["wrong"].to_numpy(), clips["group"].tolist())


def _slices(judged: pd.DataFrame, columns: pd.DataFrame) -> list[Table]:
    """Return the error rates by class, tag, length and further columns; those of one value are left out."""
    slices = {"given class": judged["given"], "tag": judged["tags"].map(lambda own: list(dict.fromkeys(own)))}
    slices["length"] = _length_ranges(judged["seconds"])
    for name, column in columns.drop(columns="tags", errors="ignore").items():
        texts = column.dropna().astype(str)
        if not column.map(lambda value: isinstance(value, list | dict)).any() and texts.nunique() <= VALUES:
            slices[str(name)] = texts
    values = {name: own.explode().dropna() for name, own in slices.items()}
    return [_slice_table(name, own, judged) for name, own in values.items() if own.nunique() > 1]


def _length_ranges(seconds: pd.Series[Any]) -> pd.Series[Any]:
    """Return the quarter of the lengths that each clip's is in, as a text with its bounds in seconds."""
    lengths = seconds.astype(float)
    cuts = np.unique(lengths.quantile(np.linspace(0, 1, LENGTHS + 1)).round(1).dropna())
    texts = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(cuts)]
    return pd.cut(lengths, [-np.inf, *cuts[1:-1], np.inf], labels=texts or ["any"]).astype(object)


def _slice_table(name: str, values: pd.Series[Any], judged: pd.DataFrame) -> Table:
    """Return the error rates of the largest values of a slice, highest first; a clip may have several of the values."""
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    parts = {value: judged.loc[values.index[values == value]] for value in counts.index[:SLICES]}
    rates = sorted(((_error_rate(own), value) for value, own in parts.items()), key=lambda one: (-one[0].value, one[1]))
    rows = [(value, len(parts[value]), int(parts[value]["wrong"].sum()), str(rate)) for rate, value in rates]
    more = f", the {len(rows)} largest of {len(counts)}" if len(rows) < len(counts) else ""
    return Table(f"Error rate by {name}{more}", (name, "clips (n)", "wrong", "error rate, 95 % interval"), rows)


def _chosen(wrong: pd.DataFrame) -> list[Any]:
    """Return some clips: of each pair of classes in turn, those predicted with the most confidence first."""
    ranked = wrong.iloc[seeded_order(wrong["clip_id"].tolist())].sort_values(
        "probability", ascending=False, kind="stable"
    )
    return in_turn(ranked.itertuples(), lambda clip: clip.pair)[:PLAYED]


def _listen(chosen: Sequence[Any], count: int) -> list[Part]:
    """Make players of the chosen clips by given class, and mel images of some; a note for those that cannot be read."""
    rows = [(clip.clip_id, *clip.pair, f"{clip.probability:.2f}", digits(clip.seconds, 1)) for clip in chosen]
    title = f"{len(rows):,} of {count:,} misclassified clips, each pair of classes in turn, the most confident first"
    found: list[Part] = [Table(title, ("clip", "given", "predicted", "probability", "seconds"), rows)]
    drawn: dict[str, list[HeardClip]] = {}
    players: dict[str, list[Player]] = {}
    failed = []
    for clip in sorted(chosen, key=lambda clip: clip.pair[0]):
        try:
            sound = hear(clip.clip_id, clip.uri, clip.start_s, clip.end_s)
        except ClipError as error:
            failed.append(error.message)
            continue
        given, predicted = clip.pair
        drawn.setdefault(f"{given} as {predicted}", []).append(sound)
        text = f"predicted {predicted}, probability {clip.probability:.2f}"
        players.setdefault(given, []).append(Player(sound.clip_id, text, _flac(sound)))
    if failed:
        text = f"{len(failed):,} of these {len(chosen):,} clips could not be read, such as {failed[0]}"
        found.append(Text(text, "note", lead="Audio not played"))
    if not drawn:
        return found
    most = dict(sorted(drawn.items(), key=lambda pair: -len(pair[1]))[: GALLERY * DRAWN_ROWS])
    lead = "Mel spectrograms of misclassified clips, given class as predicted class:"
    found.append(gallery_plot(most, "test-misclassified", "Misclassified clips", lead))
    text = (
        f"{len(chosen) - len(failed)} clips to listen to: their first {PLAYED_S:g} s at most, mono, {RATE / 1000:g} "
        "kHz, 16 bits, all at one loudness. The sounds lie in the page."
    )
    return [*found, Text(text, "quiet"), *(Players(f"Given {given}", own) for given, own in players.items())]


def _flac(sound: HeardClip) -> bytes:
    buffer = io.BytesIO()
    waveform = normalize_for_playback(sound.waveform[: round(PLAYED_S * RATE)])
    soundfile.write(buffer, waveform, RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
