"""The page's section on misclassified test clips: where they are, and how they sound."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Judged:
    """A test clip with what it was predicted as."""

    row: Mapping[str, Any]  # of the clip list's columns
    given: tuple[str, ...]  # names of its classes
    predicted: tuple[str, ...]
    probability: float  # calibrated, the highest of the classes predicted or, without one, of those missed
    tags: Sequence[str]  # of the clip
    seconds: float | None  # its length, None where it is not known

    @property
    def wrong(self) -> bool:
        """Whether the classes differ."""
        return set(self.given) != set(self.predicted)

    @property
    def pair(self) -> tuple[str, str]:
        """Given and predicted classes as text."""
        return ", ".join(self.given) or "none", ", ".join(self.predicted) or "none"


def error_section(bundle: Bundle, clips: pa.Table, store: FeatureStore) -> Section | None:
    """List the misclassified clips of a list on which the bundle was evaluated; None without an evaluation on it."""
    if not bundle.own_evaluations:
        return None
    title = "Misclassified test clips"
    try:
        judged = _judge(bundle, clips, store)
    except UsageError as error:
        return Section(title, [Text(f"{error}.", "note", lead="Not listed")])
    wrong = [clip for clip in judged if clip.wrong]
    rate = f"{len(wrong):,} of {len(judged):,} test clips are misclassified, {_error_rate(judged)}."
    section = Section(title, [Text(rate), Text(ABOUT, "quiet")])
    if not wrong:
        return section
    pairs = Counter(clip.pair for clip in wrong)
    rows = [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]
    title = f"Given and predicted class of misclassified clips, {min(PAIRS, len(rows))} of {len(rows)} pairs"
    section.add(Table(title, ("given", "predicted", "clips"), rows[:PAIRS]))
    section.add(*(_slice_table(name, values) for name, values in _slices(judged).items()))
    section.add(*_listen(_chosen(wrong), len(wrong)))
    return section


def _judge(bundle: Bundle, clips: pa.Table, store: FeatureStore) -> list[Judged]:
    """Predict the clips that the bundle has not seen.

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
    names = [class_name(name) for name in bundle.classes]
    rows = unseen.clips.to_pylist()

    def named(mask: Any) -> tuple[str, ...]:
        return tuple(names[c] for c in np.flatnonzero(mask))

    return [
        Judged(row, named(given), named(said), float(p[said if said.any() else slice(None)].max()), tags, seconds)
        for row, given, said, p, tags, seconds in zip(
            rows, truth, called, probabilities, tags_of(unseen.clips), _lengths(rows), strict=True
        )
    ]


def _lengths(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return the length of each clip as the list has it, or as the headers of local files do."""
    whole = [row for row in rows if row["end_s"] is None]
    readable = len(whole) <= HEADERS and all(local_file(row["uri"]) for row in whole)
    ends = [duration_of(row["uri"]) if row["end_s"] is None and readable else row["end_s"] for row in rows]
    return [None if end is None else end - (row["start_s"] or 0.0) for row, end in zip(rows, ends, strict=True)]


def _error_rate(clips: Sequence[Judged]) -> Estimate:
    """Return the share of clips that are misclassified, with the interval of their recordings."""
    return of_share(np.array([clip.wrong for clip in clips]), [clip.row["group"] for clip in clips])


def _slices(judged: Sequence[Judged]) -> dict[str, dict[str, list[Judged]]]:
    """Return slice -> value -> its clips; slices of one value are left out."""
    values: dict[str, list[Sequence[str]]] = {
        "given class": [clip.given for clip in judged],
        "tag": [tuple(dict.fromkeys(clip.tags)) for clip in judged],
        "length": _length_ranges([clip.seconds for clip in judged]),
    }
    for name in ("source", *(name for name in judged[0].row if name not in (*CLIP_SCHEMA.names, "class", "tags"))):
        column = [clip.row.get(name) for clip in judged]
        texts: list[Sequence[str]] = [() if value is None else (str(value),) for value in column]
        if not any(isinstance(value, list | dict) for value in column) and len(set(texts)) <= VALUES:
            values[name] = texts
    found: dict[str, dict[str, list[Judged]]] = {}
    for name, of_clips in values.items():
        for clip, value in ((clip, value) for clip, own in zip(judged, of_clips, strict=True) for value in own):
            found.setdefault(name, {}).setdefault(value, []).append(clip)
    return {name: parts for name, parts in found.items() if len(parts) > 1}


def _length_ranges(seconds: Sequence[float | None]) -> list[Sequence[str]]:
    """Return the quarter of the lengths that each clip's is in, as a text with its bounds in seconds."""
    lengths = pd.Series(np.array(seconds, float))
    cuts = np.unique(lengths.quantile(np.linspace(0, 1, LENGTHS + 1)).round(1).dropna())
    if len(cuts) < 2:
        return [()] * len(seconds)
    texts = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(cuts)]
    cut = pd.cut(lengths, [-np.inf, *cuts[1:-1], np.inf], labels=texts)
    return [() if pd.isna(text) else (str(text),) for text in cut]


def _slice_table(name: str, parts: Mapping[str, Sequence[Judged]]) -> Table:
    """Return the error rates of the largest values of a slice, highest first."""
    largest = sorted(parts, key=lambda value: (-len(parts[value]), value))[:SLICES]
    rates = sorted(((_error_rate(parts[value]), value) for value in largest), key=lambda one: (-one[0].value, one[1]))
    rows = [(value, len(parts[value]), sum(clip.wrong for clip in parts[value]), str(rate)) for rate, value in rates]
    more = f", the {len(rows)} largest of {len(parts)}" if len(rows) < len(parts) else ""
    return Table(f"Error rate by {name}{more}", (name, "clips (n)", "wrong", "error rate, 95 % interval"), rows)


def _chosen(wrong: Sequence[Judged]) -> list[Judged]:
    """Return some clips: of each pair of classes in turn, those predicted with the most confidence first."""
    order = seeded_order([clip.row["clip_id"] for clip in wrong])
    ranked = sorted((wrong[row] for row in order), key=lambda clip: -clip.probability)
    return in_turn(ranked, lambda clip: clip.pair)[:PLAYED]


def _listen(chosen: Sequence[Judged], count: int) -> list[Part]:
    """Make players of the chosen clips by given class, and mel images of some; a note for those that cannot be read."""
    rows = [(clip.row["clip_id"], *clip.pair, f"{clip.probability:.2f}", digits(clip.seconds, 1)) for clip in chosen]
    title = f"{len(rows):,} of {count:,} misclassified clips, each pair of classes in turn, the most confident first"
    found: list[Part] = [Table(title, ("clip", "given", "predicted", "probability", "seconds"), rows)]
    drawn: dict[str, list[HeardClip]] = {}
    players: dict[str, list[Player]] = {}
    failed = []
    for clip in sorted(chosen, key=lambda clip: clip.pair[0]):
        try:
            sound = hear(*(clip.row[name] for name in ("clip_id", "uri", "start_s", "end_s")))
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
