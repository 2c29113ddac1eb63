"""What is explained: a bundle, the clips it learned from, their features, and which model predicts which clip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.clips.select import Targets, class_targets, select
from acoustic_env.clips.splits import Split, split
from acoustic_env.errors import UsageError
from acoustic_env.explain.style import class_name
from acoustic_env.features.block import METADATA_PREFIX
from acoustic_env.features.registry import IMPORTED, names_where
from acoustic_env.models.bundle import Bundle, clips_hash
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.matrix import FeatureColumn, FeatureMatrix
from acoustic_env.models.estimators.fitting import Ensemble, fit_ensemble, stops_on_rows
from acoustic_env.models.learn import Log, bundle_matrix, without_absent
from acoustic_env.stats.intervals import Floats
from acoustic_env.store.feature_store import FeatureStore

# Classes explained one by one where a study has many.
MOST_CLASSES: Final = 4
MAP_SHAPE: Final = f"{METADATA_PREFIX}mps_shape".encode()  # what the metadata of a map says

# What is known of test clips among those that are explained.
LEARNED: Final = "they are the clips the bundle's record names (by hash) as learned from, so no test clip is among them"
SEEN: Final = "every one, or its recording, was learned from, so none can be in a test evaluation of this bundle"
UNRECORDED: Final = "no record of the bundle says whether they are test clips"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameAxes:
    """Where the frames and bands of a block lie."""

    hop_s: float  # seconds from frame to frame
    first_s: float  # when the first frame begins; before 0 where frames are centered
    edges_hz: Floats | None  # of the mel bands [bands + 1]; None where bands have no frequency
    log: str  # of the mel spectrogram: db, ln or none


@dataclass(frozen=True)
class HeldOutScorer:
    """A model and the clips that it did not learn from; the bundle's reduction saw their features, not their labels."""

    rows: Rows  # of the material
    model: Ensemble  # that predicts them


@dataclass(frozen=True)
class Material:
    """Clips with features and targets, rows aligned."""

    bundle: Bundle  # trained
    matrix: FeatureMatrix  # features [n, d] in the bundle's order of columns, or sequences
    targets: Targets  # given labels [n]
    groups: npt.NDArray[np.int64]  # int64 [n], recording of each clip
    folds: npt.NDArray[np.int64]  # int64 [n], fold of each clip; zeros where the list is not the one trained on
    scorers: list[HeldOutScorer]  # models with the clips each held out
    units: Mapping[tuple[str, str], str]  # (block, column) -> unit
    maps: frozenset[str]  # blocks whose column is a map of modulations
    clips: str  # which clips these are, for captions
    scored: str  # which clips the scorers predict, for captions
    test_clips: str  # what the bundle's records say of test clips among these, for captions
    frames: FrameAxes | None = None  # where frames and bands lie, for networks on sequences

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """The given labels, bool [n, classes]."""
        y: npt.NDArray[Any] = self.targets.y
        return y.astype(bool) if y.ndim == 2 else np.eye(len(self.targets.classes), dtype=bool)[y]

    def explained_classes(self) -> list[int]:
        """Return the positive class of a binary study, else the classes with most clips."""
        if self.bundle.recipe.task == "binary":
            return [1]
        support = self.truth.sum(axis=0)
        return [int(c) for c in np.argsort(-support, kind="stable")[:MOST_CLASSES] if 0 < support[c] < len(self.truth)]

    def name(self, chosen: int) -> str:
        """Return the display name of a class."""
        return class_name(self.targets.classes[chosen])

    def unit(self, column: FeatureColumn) -> str:
        """Return the unit of a column."""
        return self.units.get((column.block, column.name), "1")

    def scalar_columns(self) -> npt.NDArray[np.int64]:
        """Return numbers of the columns that are one number with a name (indices), not a cell of a vector."""
        return np.flatnonzero(["[" not in column.name for column in self.matrix.columns])

    def map_parts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return signal -> column numbers of its map."""
        return {signal: own for (block, signal), own in self.matrix.parts().items() if block in self.maps}

    def against(self, chosen: int) -> str:
        """Return what a class is compared with, human-readable."""
        classes = self.targets.classes
        return class_name(classes[0]) if self.bundle.recipe.task == "binary" else "the other classes"


def gather(bundle: Bundle, clips: pa.Table, store: FeatureStore, log: Log) -> Material:
    """Gather the clips of a list that the bundle learned from (training and validation), with their features.

    Test clips are not used: that would be a test evaluation. Of a list the bundle does not know,
    every clip is taken, and the captions say so.

    Raises:
        UsageError: no clip of the bundle's classes, or features of another version.
    """
    selection = select(clips, bundle.recipe)
    for line in (*bundle.variant_lines(), *selection.summary()):
        log(line)
    matrix = bundle_matrix(bundle, selection.clips["clip_id"].to_pylist(), store)
    kept, matrix = without_absent(selection.clips, matrix, log)
    targets = class_targets(kept, bundle.recipe, bundle.classes)
    schemas = {block: store.joint_schema(block, trained) for block, trained in bundle.fingerprints.items()}
    fields = [(block, field) for block, schema in schemas.items() for field in schema]
    units = {(block, field.name): (field.metadata or {}).get(b"unit", b"1").decode() for block, field in fields}
    _, groups = np.unique(np.array(kept["group"].to_pylist(), object), return_inverse=True)
    seen = bundle.seen(targets.clip_ids, kept["group"].to_pylist())
    taken, folds = np.ones(len(seen), bool), np.zeros(len(seen), np.int64)
    clips_are = scored = "clips of a list the model was not trained on"
    test_clips = UNRECORDED
    parts = _known_split(bundle, kept, targets)
    if parts is not None:
        taken, folds = np.isin(np.arange(len(seen)), [*parts.train, *parts.validation]), parts.folds.astype(np.int64)
        clips_are, test_clips = "training and validation clips", LEARNED
        scored = "clips held out from the model that scores them"
    elif not seen.any():
        test_clips = _evaluated(bundle, clips_hash(targets.clip_ids, targets.y))
    elif bundle.recipe.model.reads_sequences and not seen.all():
        log(f"the list is not the one trained on; {seen.sum():,} of its clips are known to the model and left out")
        taken, clips_are = ~seen, "clips of the list that the model was not trained on"
    else:
        log(f"the list is not the one trained on; {seen.sum():,} of its clips are known to the model, which are taken")
        taken, clips_are, test_clips = seen, "clips the model learned from", SEEN
        scored = "clips the model learned from, so scores are optimistic"
    rows = np.flatnonzero(taken)
    found = Material(
        bundle=bundle,
        matrix=matrix.take(rows),
        targets=replace(targets, clip_ids=[targets.clip_ids[row] for row in rows], y=targets.y[rows]),
        groups=groups[rows].astype(np.int64),
        folds=folds[rows],
        scorers=[HeldOutScorer(np.arange(len(rows)), bundle.classifier)],
        units=units,
        maps=frozenset(block for block, schema in schemas.items() if MAP_SHAPE in (schema.metadata or {})),
        clips=f"{len(rows):,} {clips_are}",
        scored=scored,
        test_clips=test_clips,
        frames=_frame_axes(schemas) if bundle.recipe.model.reads_sequences else None,
    )
    return found if parts is None else replace(found, scorers=_scorers(found))


def _evaluated(bundle: Bundle, hash_of_clips: str) -> str:
    """Describe whether a list that was not trained on is one that the bundle was evaluated on."""
    for number, one in enumerate(bundle.test_evaluations, start=1):
        if one.clips_hash == hash_of_clips:
            return (
                f"these are the test clips of evaluation {number}: what is chosen by these plots needs other test clips"
            )
    return UNRECORDED


def _known_split(bundle: Bundle, clips: pa.Table, targets: Targets) -> Split | None:
    """Return the split the bundle was trained with, if these are the clips it was trained with."""
    try:
        parts = split(clips, bundle.recipe.split)
    except UsageError:
        return None
    rows = np.sort(np.concatenate([parts.train, parts.validation]))
    learned = clips_hash([targets.clip_ids[row] for row in rows], targets.y[rows])
    return parts if learned == bundle.training_hash else None


def _scorers(learned: Material) -> list[HeldOutScorer]:
    """Return scorers by the folds that `classifier.fit_ensemble` held out: those of validation, then each other one.

    It holds out none for classifiers that do not stop on rows; of these, a copy is fitted without the validation folds.
    """
    bundle, folds = learned.bundle, learned.folds
    first = bundle.recipe.split.validation_folds
    members = bundle.classifier.members
    if not stops_on_rows(members[0]):
        out = np.isin(folds, first)
        x = bundle.preprocessor.transform(learned.matrix.values[~out])
        seen = Examples(x, learned.targets.y[~out], learned.groups[~out])
        classifier = members[0] if bundle.own_estimator else bundle.recipe.model
        seed, size = bundle.recipe.model.seed, len(members)
        model = fit_ensemble(classifier, len(bundle.classes), seen, folds[~out], (), seed=seed, size=size)
        return [HeldOutScorer(np.flatnonzero(out), model)]
    held_out: list[tuple[int, ...]] = [tuple(first), *((int(fold),) for fold in np.unique(folds) if fold not in first)]
    rows = [np.flatnonzero(np.isin(folds, held)) for held in held_out]
    own = [list(members[number :: len(held_out)]) for number in range(len(held_out))]
    pairs = zip(rows, own, strict=True)
    return [
        HeldOutScorer(held, Ensemble(fitted, len(bundle.classes))) for held, fitted in pairs if fitted and len(held)
    ]


def _frame_axes(schemas: Mapping[str, pa.Schema]) -> FrameAxes:
    """Return the axes that the stored frames' metadata describe."""
    ((block, schema),) = schemas.items()
    if block in IMPORTED:
        return FrameAxes(IMPORTED[block].FRAME_S, 0.0, None, "none")
    metadata = schema.metadata or {}
    hop_s = float(metadata[f"{METADATA_PREFIX}frame_hop_s".encode()])
    named = json.loads(metadata.get(f"{METADATA_PREFIX}parameters".encode(), b"{}"))
    first_s = -hop_s / 2 if "hop_length" in named else 0.0  # of the short-time blocks, whose frames are centered
    if not names_where("mel_bands", [block]):
        return FrameAxes(hop_s, first_s, None, "none")
    highest = named["fmax"] or float(metadata[f"{METADATA_PREFIX}sample_rate".encode()]) / 2
    return FrameAxes(hop_s, first_s, mel_edges(named["n_mels"], named["fmin"], highest), named["log"])


def mel_edges(bands: int, lowest: float, highest: float) -> Floats:
    """Return the frequencies in Hz, halfway on the mel scale, at which one band's filter passes less than the next's.

    >>> mel_edges(2, 0.0, 1000.0).round().tolist()
    [167.0, 500.0, 833.0]
    """
    import librosa

    return np.asarray(librosa.mel_frequencies(2 * bands + 3, fmin=lowest, fmax=highest)[1::2])
