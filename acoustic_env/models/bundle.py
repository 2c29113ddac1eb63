"""A trained classifier as a folder: everything prediction needs, in safetensors and JSON."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.config import Recipe, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_bytes, read_if_there, write_bytes
from acoustic_env.io.location import join
from acoustic_env.models.calibrate import Calibration
from acoustic_env.models.classifier import Classifier, State, restore_classifier
from acoustic_env.models.evaluate import Floats
from acoustic_env.models.matrix import FeatureMatrix
from acoustic_env.models.performance import Performance
from acoustic_env.models.reduce import Reducer

FORMAT: Final = 2
READABLE: Final = (1, FORMAT)  # 1 had one fingerprint a block
FACTS: Final = "bundle.json"
WEIGHTS: Final = "weights.safetensors"
LIBRARIES: Final = ("acoustic-env", "numpy", "scipy", "torch", "xgboost", "safetensors", "pyarrow")
SHOWN: Final = 5


@dataclass(frozen=True)
class TestEvaluation:
    """One evaluation of a bundle on clips it was not trained on.

    Attributes:
        time: UTC, ISO 8601.
        clips_hash: `clips_hash` of the clips.
        clips: how many.
        figures: name -> [value, low, high].
        weights: SHA-256 of the weights that were evaluated; not the bundle's own after it was trained over.
    """

    time: str
    clips_hash: str
    clips: int
    figures: Mapping[str, Sequence[float]]
    weights: str = ""


@dataclass
class Bundle:
    """A trained classifier with what it takes to use it and to know where it comes from.

    Attributes:
        recipe: of the study: task, classes, exclusions, split, reduction and model settings.
        classes: names, the order of the probabilities.
        reducer: fitted.
        classifier: fitted.
        calibration: fitted on held-out rows.
        thresholds: [classes] on calibrated probabilities; of a multiclass study not used.
        fingerprints: block -> signal -> the version trained on.
        metrics: of the held-out rows (`performance.Performance.as_json`).
        training_hash: `clips_hash` of the training and validation clips.
        trained_on: `key` of every clip id and group it has seen, uint64 sorted.
        trained_groups: [clips, 2] `key` of every clip it has seen and of that clip's group, uint64 sorted; empty for
            bundles saved before it was kept.
        versions: library -> version it was trained with.
        looks: test evaluations so far at the bundle's path, oldest first, those of weights since trained over too.
        test: everything the last look at these weights found (`performance.Performance.as_json`); None before it.
        weights_sha256: of the saved weights; empty before the first save.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    reducer: Reducer
    classifier: Classifier
    calibration: Calibration
    thresholds: Floats
    fingerprints: dict[str, dict[str, str]]
    metrics: dict[str, Any]
    training_hash: str
    trained_on: npt.NDArray[np.uint64]
    trained_groups: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 2), np.uint64))
    versions: dict[str, str] = field(default_factory=dict)
    looks: list[TestEvaluation] = field(default_factory=list)
    test: dict[str, Any] | None = None
    weights_sha256: str = ""

    @property
    def own_looks(self) -> list[TestEvaluation]:
        """Test evaluations of these weights."""
        return [look for look in self.looks if look.weights == self.weights_sha256]

    def check(self, matrix: FeatureMatrix) -> FeatureMatrix:
        """The matrix's columns that the bundle was trained on, in its order.

        Raises:
            UsageError: a block of another version, or a column that is missing; says which.
        """
        differences = [
            f"block {block}, signal {signal}: trained on version {trained}, offered {offered_version}"
            for block, versions in self.fingerprints.items()
            for signal, trained in versions.items()
            if (offered_version := matrix.fingerprints.get(block, {}).get(signal, trained)) != trained
        ]
        offered = {str(column): number for number, column in enumerate(matrix.columns)}
        missing = [str(column) for column in self.reducer.columns if str(column) not in offered]
        if missing:
            more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
            differences.append(f"features missing: {', '.join(missing[:SHOWN])}{more}")
        if differences:
            msg = (
                f"the features offered are not those the bundle was trained on: {'; '.join(differences)}. "
                "Extract the version trained on, or train a new bundle"
            )
            raise UsageError(msg)
        numbers = [offered[str(column)] for column in self.reducer.columns]
        if numbers == list(range(len(matrix.columns))):
            return matrix
        return dataclasses.replace(matrix, values=matrix.values[:, numbers], columns=self.reducer.columns)

    def raw_proba(self, matrix: FeatureMatrix) -> Floats:
        """Probabilities [n, classes] before calibration.

        Raises:
            UsageError: the features are not those trained on.
        """
        return self.classifier.predict_proba(self.reducer.transform(self.check(matrix).values))

    def predict_proba(self, matrix: FeatureMatrix) -> Floats:
        """Calibrated probabilities [n, classes].

        Raises:
            UsageError: the features are not those trained on.
        """
        return self.calibration.apply(self.raw_proba(matrix))

    def seen(self, clip_ids: Sequence[str], groups: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Clips that the bundle was trained on, or whose group it has seen; bool [n]."""
        return np.isin(keys(clip_ids), self.trained_on) | np.isin(keys(groups), self.trained_on)

    def groups_of(self, clip_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Return `key` of the group of each clip it was trained on, uint64 [n]; of the clip where that is not known."""
        own = keys(clip_ids)
        if not len(self.trained_groups):
            return own
        clips, groups = self.trained_groups.T
        place = np.minimum(np.searchsorted(clips, own), len(clips) - 1)
        return np.where(clips[place] == own, groups[place], own)

    def save(self, folder: str | Path) -> None:
        """Write the bundle; an interrupted save leaves the one that was there, or none that loads.

        The record of test evaluations of a bundle that is there already is carried over: a test set that helped to
        choose stays one that helped to choose.

        Raises:
            UsageError: a bundle is there whose record cannot be read.
        """
        from safetensors.numpy import save

        state = self.classifier.state()
        arrays = {f"reducer.{name}": array for name, array in self.reducer.arrays().items()}
        arrays |= {f"classifier.{name}": array for name, array in state.arrays.items()}
        arrays |= {"thresholds": self.thresholds, "trained_on": self.trained_on}
        arrays["trained_groups"] = self.trained_groups
        weights = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        place = str(folder)
        self.weights_sha256 = hashlib.sha256(weights).hexdigest()
        self._carry_record(place)
        facts = {
            "format": FORMAT,
            "recipe": self.recipe.as_json(),
            "classes": self.classes,
            "reducer": self.reducer.facts(),
            "classifier": state.facts,
            "calibration": dataclasses.asdict(self.calibration),
            "fingerprints": self.fingerprints,
            "metrics": self.metrics,
            "training_hash": self.training_hash,
            "versions": self.versions or library_versions(),
            "weights_sha256": self.weights_sha256,
            "looks": [dataclasses.asdict(look) for look in self.looks],
            "test": self.test,
        }
        # The weights first: facts that name other weights than those there do not load.
        write_bytes(join(place, WEIGHTS), weights)
        write_bytes(join(place, FACTS), json.dumps(facts, indent=1).encode())

    def _carry_record(self, place: str) -> None:
        """Put the test evaluations of the bundle at `place` before the own ones."""
        data = read_if_there(join(place, FACTS))
        if data is None:
            return
        try:
            there = json.loads(data)
            looks = _looks(there)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            msg = (
                f"{join(place, FACTS)}: not readable, so its record of test evaluations would be lost: {error}; "
                "move it away, or write the new bundle elsewhere"
            )
            raise UsageError(msg) from error
        self.looks = looks + [look for look in self.looks if look not in looks]
        if there["weights_sha256"] == self.weights_sha256 and self.test is None:
            self.test = there.get("test")

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """A saved bundle.

        Raises:
            UsageError: no bundle there, one of a newer format, or damaged.
        """
        from safetensors.numpy import load

        facts, weights = _read(str(folder))
        arrays = load(weights)

        def of(prefix: str) -> dict[str, npt.NDArray[Any]]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        reducer = Reducer.restore(facts["reducer"], of("reducer."))
        return cls(
            recipe=from_mapping(Recipe, facts["recipe"], join(str(folder), FACTS)),
            classes=tuple(facts["classes"]),
            reducer=reducer,
            classifier=restore_classifier(State(of("classifier."), facts["classifier"])),
            calibration=Calibration(**facts["calibration"]),
            thresholds=arrays["thresholds"],
            fingerprints=_by_signal(facts["fingerprints"], reducer),
            metrics=facts["metrics"],
            training_hash=facts["training_hash"],
            trained_on=arrays["trained_on"],
            trained_groups=arrays.get("trained_groups", np.empty((0, 2), np.uint64)),
            versions=facts["versions"],
            looks=_looks(facts),
            test=facts.get("test"),
            weights_sha256=facts["weights_sha256"],
        )

    def record_look(self, folder: str | Path, hash_of_clips: str, judged: Performance) -> TestEvaluation:
        """Note in the saved bundle that it was evaluated, and what was found."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        figures = {name: [e.value, e.low, e.high] for name, e in judged.figures.items()}
        look = TestEvaluation(now, hash_of_clips, judged.clips, figures, self.weights_sha256)
        self.looks.append(look)
        self.test = judged.as_json()
        place = join(str(folder), FACTS)
        facts = json.loads(read_bytes(place))
        facts["looks"] = [dataclasses.asdict(earlier) for earlier in (*_looks(facts), look)]
        if facts["weights_sha256"] == self.weights_sha256:  # else trained over while it was evaluated
            facts["test"] = self.test
        write_bytes(place, json.dumps(facts, indent=1).encode())
        return look


def _looks(facts: Mapping[str, Any]) -> list[TestEvaluation]:
    """The record of a bundle; an earlier version wrote it without weights, and never of others than the bundle's."""
    return [TestEvaluation(**{"weights": facts["weights_sha256"], **look}) for look in facts["looks"]]


def _read(folder: str) -> tuple[dict[str, Any], bytes]:
    found = {name: read_if_there(join(folder, name)) for name in (FACTS, WEIGHTS)}
    missing = [name for name, data in found.items() if data is None]
    if missing:
        msg = f"{folder}: no bundle: {missing[0]} is not there; make one with acoustic-env train"
        raise UsageError(msg)
    described, weights = found[FACTS] or b"", found[WEIGHTS] or b""
    try:
        facts = json.loads(described)
    except ValueError as error:
        msg = f"{join(folder, FACTS)}: not readable: {error}; train the bundle again"
        raise UsageError(msg) from error
    if facts.get("format") not in READABLE:
        msg = f"{folder}: bundle of format {facts.get('format')!r}, this version reads {READABLE}; train it again"
        raise UsageError(msg)
    if hashlib.sha256(weights).hexdigest() != facts["weights_sha256"]:
        msg = f"{join(folder, WEIGHTS)}: not the weights {FACTS} was written with; train the bundle again"
        raise UsageError(msg)
    return facts, weights


def _by_signal(fingerprints: Mapping[str, Any], reducer: Reducer) -> dict[str, dict[str, str]]:
    """block -> signal -> version; bundles of older code name one version of a block for all its signals."""
    signals: dict[str, list[str]] = {}
    for column in reducer.columns:
        if column.signal not in signals.setdefault(column.block, []):
            signals[column.block].append(column.signal)
    return {
        block: dict.fromkeys(signals.get(block, ()), versions) if isinstance(versions, str) else dict(versions)
        for block, versions in fingerprints.items()
    }


def keys(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of names."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def clips_hash(clip_ids: Sequence[str], y: npt.NDArray[Any]) -> str:
    """16 hex digits of clips with their targets, whatever their order."""
    rows = sorted(zip(clip_ids, (np.atleast_1d(row).tobytes() for row in y), strict=True))
    digest = hashlib.sha256()
    for clip_id, row in rows:
        digest.update(clip_id.encode() + b"\0" + row + b"\n")
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
