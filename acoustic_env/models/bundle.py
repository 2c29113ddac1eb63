"""A trained classifier as a folder: everything prediction needs, without pickle (see `estimators.storage`)."""

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
from safetensors.numpy import load, save

from acoustic_env.config import Recipe, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_bytes, read_if_there, write_bytes
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.location import join
from acoustic_env.models.data.matrix import FeatureMatrix
from acoustic_env.models.data.preprocessing import KeepFrames, Preprocessor, load_preprocessor
from acoustic_env.models.estimators.fitting import Ensemble
from acoustic_env.models.estimators.storage import dump_estimator, load_estimator
from acoustic_env.models.novelty import Novelty
from acoustic_env.models.validation.calibration import Calibrator
from acoustic_env.models.validation.performance import Performance
from acoustic_env.stats.intervals import Floats

FORMAT: Final = 5
METADATA: Final = "metadata.json"
PREPROCESSING: Final = "preprocessing.safetensors"
TRAINED_ON: Final = "trained_on.safetensors"
REFERENCES: Final = "references.safetensors"
LIBRARIES: Final = (
    *("acoustic-env", "numpy", "scipy", "scikit-learn", "skops", "torch", "xgboost", "safetensors", "pyarrow"),
)
# Attributes of a bundle that are plain data, in its metadata as they are.
PLAIN: Final = (
    *("own_estimator", "classes", "fingerprints", "held_out", "training_hash", "versions", "weights_sha256", "test"),
    *("clip_s", "variants", "exponent"),
)
SHOWN: Final = 5


@dataclass(frozen=True)
class TestEvaluation:
    """One evaluation of a bundle on clips it was not trained on.

    Attributes:
        time: UTC, ISO 8601.
        clips_hash: `clips_hash` of the clips.
        clips: how many.
        metrics: name -> [value, low, high]; None where it is not defined, or has no interval.
        weights: SHA-256 of the weights that were evaluated; not the bundle's own after it was trained over.
    """

    time: str
    clips_hash: str
    clips: int
    metrics: Mapping[str, Sequence[float | None]]
    weights: str = ""


@dataclass
class Bundle:
    """A trained classifier with what it takes to use it and to know where it comes from.

    Attributes:
        recipe: of the study: task, classes, exclusions, split, reduction and model settings.
        classes: names, the order of the probabilities.
        preprocessor: fitted.
        classifier: the fitted members.
        calibrator: calibration and thresholds, fitted on held-out rows.
        fingerprints: block -> signal -> the version trained on.
        held_out: performance on the held-out rows (`performance.Performance.as_json`).
        training_hash: `clips_hash` of the training and validation clips.
        trained_on: `key` of every clip id and group it has seen, uint64 sorted.
        trained_groups: [clips, 2] `key` of every clip it has seen and of that clip's group, uint64 sorted.
        versions: library -> version it was trained with.
        test_evaluations: so far at the bundle's path, oldest first, those of weights since trained over too.
        test: everything the last evaluation of these weights found (`performance.Performance.as_json`); None before it.
        weights_sha256: hash of what was learned; empty before the first save.
        own_estimator: whether the members are copies of a user's estimator, not of the recipe's kind.
        clip_s: median length of the clips it was trained on, in s; None where neither their list nor their
            files' headers say.
        variants: block -> variant of a signal -> the version trained on; empty without variants.
        novelty: what tells clips unlike the training clips; None where they are of one group.
        exponent: of learned pooling of recordings (`windows.learn_recordings`); None without.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    preprocessor: Preprocessor | KeepFrames
    classifier: Ensemble
    calibrator: Calibrator
    fingerprints: dict[str, dict[str, str]]
    held_out: dict[str, Any]
    training_hash: str
    trained_on: npt.NDArray[np.uint64]
    trained_groups: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 2), np.uint64))
    versions: dict[str, str] = field(default_factory=lambda: library_versions())
    test_evaluations: list[TestEvaluation] = field(default_factory=list)
    test: dict[str, Any] | None = None
    weights_sha256: str = ""
    own_estimator: bool = False
    clip_s: float | None = None
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    novelty: Novelty | None = None
    exponent: float | None = None

    @property
    def own_evaluations(self) -> list[TestEvaluation]:
        """Test evaluations of these weights."""
        return [one for one in self.test_evaluations if one.weights == self.weights_sha256]

    def variant_lines(self) -> list[str]:
        """Return a line for each variant it was trained on, with its version."""
        return [
            f"trained on variant {signal} of block {block}, too, version {version}"
            for block, versions in self.variants.items()
            for signal, version in versions.items()
        ]

    def check(self, matrix: FeatureMatrix) -> FeatureMatrix:
        """Return the matrix's columns that the bundle was trained on, in its order.

        Raises:
            UsageError: a block of another version, or a column that is missing; says which.
        """
        differences = self._other_versions(matrix.fingerprints)
        columns = self.preprocessor.feature_columns
        offered = {str(column): number for number, column in enumerate(matrix.columns)}
        missing = [str(column) for column in columns if str(column) not in offered]
        if missing:
            more = f" and {len(missing) - SHOWN:,} more" if len(missing) > SHOWN else ""
            differences.append(f"features missing: {', '.join(missing[:SHOWN])}{more}")
        _refuse(differences)
        numbers = [offered[str(column)] for column in columns]
        if numbers == list(range(len(matrix.columns))):
            return matrix
        return dataclasses.replace(matrix, values=matrix.values[:, numbers], columns=columns)

    def check_versions(self, fingerprints: Mapping[str, Mapping[str, str]]) -> None:
        """Raise UsageError where features are of other versions than those trained on: block -> signal -> version."""
        _refuse(self._other_versions(fingerprints))

    def _other_versions(self, fingerprints: Mapping[str, Mapping[str, str]]) -> list[str]:
        return [
            f"block {block}, signal {signal}: trained on version {trained}, offered {offered}"
            for block, versions in self.fingerprints.items()
            for signal, trained in versions.items()
            if (offered := fingerprints.get(block, {}).get(signal, trained)) != trained
        ]

    def raw_proba(self, matrix: FeatureMatrix) -> Floats:
        """Return probabilities before calibration: [n, classes], or [windows, classes] of a bundle of windows.

        Raises:
            UsageError: the features are not those trained on.
        """
        return self.classifier.predict_proba(self.preprocessor.transform(self.check(matrix).values))

    def predict_proba(self, matrix: FeatureMatrix) -> Floats:
        """Return calibrated probabilities of clips [n, classes]; of a bundle of windows the mean of those of a clip.

        Raises:
            UsageError: the features are not those trained on.
        """
        found = self.calibrator.predict_proba(self.raw_proba(matrix))
        return np.asarray(found.reshape(len(matrix.clip_ids), -1, len(self.classes)).mean(axis=1))

    def seen(self, clip_ids: Sequence[str], groups: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which clips it was trained on, or whose group it has seen; bool [n]."""
        return np.isin(keys(clip_ids), self.trained_on) | np.isin(keys(groups), self.trained_on)

    def groups_of(self, clip_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Return `key` of the group of each clip it was trained on, uint64 [n]; of the clip where that is not known."""
        own = keys(clip_ids)
        clips, groups = self.trained_groups.T
        place = np.minimum(np.searchsorted(clips, own), len(clips) - 1)
        return np.where(clips[place] == own, groups[place], own)

    def save(self, folder: str | Path) -> None:
        """Write the bundle; an interrupted save leaves the one that was there, or none that loads.

        The record of test evaluations of a bundle that is there already is carried over: a test set that helped to
        choose stays one that helped to choose. Its files that the new bundle does not have are removed.

        Raises:
            UsageError: a bundle is there whose record cannot be read.
        """
        place, parts = str(folder), self._parts()
        if not self.weights_sha256:
            self.weights_sha256 = self._hash()
        stale = self._carry_record(place) - set(parts)
        metadata = {
            "format": FORMAT,
            "recipe": self.recipe.as_json(),
            "members": [name for name in parts if name.startswith("classifier-")],
            **self.calibrator.as_json(),
            **{name: getattr(self, name) for name in PLAIN},
            "parts": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
            "test_evaluations": [dataclasses.asdict(earlier) for earlier in self.test_evaluations],
        }
        # The parts first: metadata that name other parts than those there do not load.
        for name, data in parts.items():
            write_bytes(join(place, name), data)
        write_bytes(join(place, METADATA), json.dumps(metadata, indent=1).encode())
        for name in stale:
            open_filesystem(place).remove(Path(name).name)

    def _parts(self) -> dict[str, bytes]:
        """Return file name -> content."""
        found = {PREPROCESSING: self.preprocessor.dump_fitted()}
        for number, member in enumerate(self.classifier.members):
            suffix, data = dump_estimator(member, own=self.own_estimator)
            found[f"classifier-{number}.{suffix}"] = data
        found[TRAINED_ON] = save({"trained_on": self.trained_on, "trained_groups": self.trained_groups})
        if self.novelty is not None:
            found[REFERENCES] = save(self.novelty.arrays())
        return found

    def _hash(self) -> str:
        """Return the SHA-256 of what was learned: files of skops differ from save to save, histories have seconds."""
        import joblib

        members = [getattr(member, "weights_", member) for member in self.classifier.members]
        learned = (self.preprocessor, members, self.calibrator)
        return hashlib.sha256(joblib.hash(learned).encode()).hexdigest()

    def _carry_record(self, place: str) -> set[str]:
        """Put the test evaluations of the bundle at `place` before the own ones; return the names of its files."""
        data = read_if_there(join(place, METADATA))
        if data is None:
            return set()
        try:
            there = json.loads(data)
            recorded = _recorded(there)
            if there["weights_sha256"] == self.weights_sha256 and self.test is None:
                self.test = there["test"]
            parts = set(there["parts"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{join(place, METADATA)}: not readable, so its record of test evaluations would be lost: {error}; "
                "move it away, or write the new bundle elsewhere"
            ) from error
        self.test_evaluations = recorded + [own for own in self.test_evaluations if own not in recorded]
        return parts

    @classmethod
    def load(cls, folder: str | Path, trusted: Sequence[str] = ()) -> Bundle:
        """Read a saved bundle.

        Args:
            folder: of the bundle, a path or URL.
            trusted: types of an own estimator that may be loaded, as "package.module.Type".

        Raises:
            UsageError: no bundle there, one of another format, damaged, or with types that are not trusted.
        """
        place = str(folder)
        metadata, parts = _read(place)
        recipe = from_mapping(Recipe, metadata["recipe"], join(place, METADATA))
        members = []
        for name in metadata["members"]:
            unfitted = None if metadata["own_estimator"] else recipe.model.estimator(0)
            members.append(load_estimator(parts[name], join(place, name), unfitted, trusted))
        arrays = load(parts[TRAINED_ON])
        plain = {name: metadata[name] for name in PLAIN}
        return cls(
            recipe=recipe,
            preprocessor=load_preprocessor(parts[PREPROCESSING], sequences=recipe.model.reads_sequences),
            classifier=Ensemble(members, len(metadata["classes"])),
            calibrator=Calibrator.from_json(recipe.task, metadata),
            test_evaluations=_recorded(metadata),
            **{**plain, "classes": tuple(plain["classes"])},
            trained_on=arrays["trained_on"],
            trained_groups=arrays["trained_groups"],
            novelty=Novelty.from_arrays(load(parts[REFERENCES])) if REFERENCES in parts else None,
        )

    def record_evaluation(self, folder: str | Path, hash_of_clips: str, found: Performance) -> TestEvaluation:
        """Note in the saved bundle that it was evaluated, and what was found."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        ends = {name: (e.value, e.low, e.high) for name, e in found.metrics.items()}
        metrics = {name: [end if np.isfinite(end) else None for end in own] for name, own in ends.items()}
        evaluation = TestEvaluation(now, hash_of_clips, found.clips, metrics, self.weights_sha256)
        self.test_evaluations.append(evaluation)
        self.test = found.as_json()
        place = join(str(folder), METADATA)
        metadata = json.loads(read_bytes(place))
        metadata["test_evaluations"] = [dataclasses.asdict(one) for one in (*_recorded(metadata), evaluation)]
        if metadata["weights_sha256"] == self.weights_sha256:  # else trained over while it was evaluated
            metadata["test"] = self.test
        write_bytes(place, json.dumps(metadata, indent=1).encode())
        return evaluation


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise UsageError(
            f"the features offered are not those the bundle was trained on: {'; '.join(differences)}. "
            "Extract the version trained on, or train a new bundle"
        )


def _recorded(metadata: Mapping[str, Any]) -> list[TestEvaluation]:
    """Return the test evaluations on record."""
    return [TestEvaluation(**one) for one in metadata["test_evaluations"]]


def _read(folder: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return metadata and parts, checked against each other."""
    place = join(folder, METADATA)
    data = read_if_there(place)
    if data is None:
        raise UsageError(f"{folder}: no bundle: {METADATA} is not there; make one with acoustic-env train")
    try:
        metadata = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{place}: not readable: {error}; train the bundle again") from error
    if metadata.get("format") != FORMAT:
        raise UsageError(
            f"{folder}: bundle of format {metadata.get('format')!r}, this version reads {FORMAT}; make it again: "
            f"acoustic-env train --clips LIST --store URL --recipe R --out {folder} (its record of test evaluations "
            "is kept)"
        )
    parts = {}
    for name, digest in metadata["parts"].items():
        part = read_if_there(join(folder, name))
        if part is None or hashlib.sha256(part).hexdigest() != digest:
            raise UsageError(f"{join(folder, name)}: not the part {METADATA} was written with; train the bundle again")
        parts[name] = part
    return metadata, parts


def keys(names: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return 64-bit hashes of names.

    >>> keys(["clip1", "clip2"]).shape, keys(["clip1"]).dtype.name
    ((2,), 'uint64')
    """
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def clips_hash(clip_ids: Sequence[str], y: npt.NDArray[Any]) -> str:
    """Return 16 hex digits of clips with their targets, whatever their order.

    >>> clips_hash(["b", "a"], np.array([0, 1])) == clips_hash(["a", "b"], np.array([1, 0]))
    True
    """
    rows = sorted(zip(clip_ids, (np.atleast_1d(row).tobytes() for row in y), strict=True))
    digest = hashlib.sha256()
    for clip_id, row in rows:
        digest.update(clip_id.encode() + b"\0" + row + b"\n")
    return digest.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Return versions of what a result may depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
