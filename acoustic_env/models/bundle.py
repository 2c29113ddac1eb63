"""A trained classifier as a folder: everything prediction needs, without pickle (see `estimators.storage`)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from acoustic_env.config import Recipe, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_if_there, write_bytes
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

FORMAT: Final = 6
METADATA: Final = "metadata.json"
EVALUATIONS: Final = "evaluations.json"
PREPROCESSING: Final = "preprocessing.safetensors"
TRAINED_ON: Final = "trained_on.safetensors"
REFERENCES: Final = "references.safetensors"
LIBRARIES: Final = (
    *("acoustic-env", "numpy", "scipy", "scikit-learn", "skops", "torch", "xgboost", "safetensors", "pyarrow"),
)
# Attributes of a bundle that are plain data, in its metadata as they are.
PLAIN: Final = (
    *("own_estimator", "classes", "fingerprints", "held_out", "training_hash", "versions", "weights_sha256"),
    *("clip_s", "variants", "exponent", "learned_from"),
)
SHOWN: Final = 5


@dataclass(frozen=True)
class TestEvaluation:
    """One evaluation of a bundle on clips it was not trained on.

    Attributes:
        time: UTC, ISO 8601.
        clips_hash: `clips_hash` of the clips.
        weights: SHA-256 of the weights that were evaluated; not the bundle's own after it was trained over.
        found: everything that was found (`performance.Performance.as_json`).
    """

    time: str
    clips_hash: str
    weights: str
    found: Mapping[str, Any]


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
        weights_sha256: hash of what was learned; empty before the first save.
        own_estimator: whether the members are copies of a user's estimator, not of the recipe's kind.
        clip_s: median length of the clips it was trained on, in s; None where neither their list nor their
            files' headers say.
        variants: block -> variant of a signal -> the version trained on; empty without variants.
        novelty: what tells clips unlike the training clips; None where they are of one group.
        exponent: of learned pooling of recordings (`windows.learn_recordings`); None without.
        learned_from: the clip list whose labels it has learned, a path or URL.
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
    weights_sha256: str = ""
    own_estimator: bool = False
    clip_s: float | None = None
    variants: dict[str, dict[str, str]] = field(default_factory=dict)
    novelty: Novelty | None = None
    exponent: float | None = None
    learned_from: str = ""

    @property
    def own_evaluations(self) -> list[TestEvaluation]:
        """Test evaluations of these weights."""
        return [one for one in self.test_evaluations if one.weights == self.weights_sha256]

    @property
    def test(self) -> Mapping[str, Any] | None:
        """Everything that the last evaluation of these weights found; None before it."""
        return self.own_evaluations[-1].found if self.own_evaluations else None

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
        self._keep_evaluations(place)
        stale = _part_names(place) - set(parts)
        metadata = {
            "format": FORMAT,
            "recipe": self.recipe.as_json(),
            "members": [name for name in parts if name.startswith("classifier-")],
            **self.calibrator.as_json(),
            **{name: getattr(self, name) for name in PLAIN},
            "parts": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
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

    def _keep_evaluations(self, place: str) -> None:
        """Put the test evaluations of the bundle at `place` before the own ones, and write all."""
        recorded = _evaluations(place)
        self.test_evaluations = recorded + [own for own in self.test_evaluations if own not in recorded]
        if self.test_evaluations != recorded:
            self._write_evaluations(place)

    def _write_evaluations(self, place: str) -> None:
        plain = [dataclasses.asdict(one) for one in self.test_evaluations]
        write_bytes(join(place, EVALUATIONS), json.dumps(plain, indent=1).encode())

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
            test_evaluations=_evaluations(place),
            **{**plain, "classes": tuple(plain["classes"])},
            trained_on=arrays["trained_on"],
            trained_groups=arrays["trained_groups"],
            novelty=Novelty.from_arrays(load(parts[REFERENCES])) if REFERENCES in parts else None,
        )

    def record_evaluation(self, folder: str | Path, hash_of_clips: str, found: Performance) -> TestEvaluation:
        """Note beside the saved bundle that it was evaluated, and what was found."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        evaluation = TestEvaluation(now, hash_of_clips, self.weights_sha256, found.as_json())
        self.test_evaluations = [*_evaluations(str(folder)), evaluation]
        self._write_evaluations(str(folder))
        return evaluation


def keep_previous(folder: str) -> str | None:
    """Copy the bundle that is at a path, if any, to that path with `.previous` behind it, and return this one.

    Raises:
        UsageError: it cannot be read or written.
    """
    metadata = read_if_there(join(folder, METADATA))
    if metadata is None:
        return None
    previous = f"{folder.rstrip('/')}.previous"
    kept = {name: read_if_there(join(folder, name)) for name in (*sorted(_part_names(folder)), EVALUATIONS)}
    stale = (_part_names(previous) | {EVALUATIONS}) - {name for name, data in kept.items() if data is not None}
    for name, data in (*kept.items(), (METADATA, metadata)):  # metadata last: parts that are not theirs do not load
        if data is not None:
            write_bytes(join(previous, Path(name).name), data)
    for name in stale:
        open_filesystem(previous).remove(Path(name).name)
    return previous


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise UsageError(
            f"the features offered are not those the bundle was trained on: {'; '.join(differences)}. "
            "Extract the version trained on, or train a new bundle"
        )


def _evaluations(place: str) -> list[TestEvaluation]:
    """Return the test evaluations on record at the path of a bundle."""
    data = read_if_there(join(place, EVALUATIONS))
    try:
        return [TestEvaluation(**one) for one in json.loads(data or b"[]")]
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{join(place, EVALUATIONS)}: the record of test evaluations is not readable: {error}; "
            "move it away, or write the new bundle elsewhere"
        ) from error


def _part_names(place: str) -> set[str]:
    """Return the parts of the bundle that is there, if any."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return set(json.loads(read_if_there(join(place, METADATA)) or b"{}").get("parts", ()))
    return set()


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
            f"acoustic-env train --clips LIST --store URL --recipe R --out {folder} (copy {METADATA} before, "
            "if it records test evaluations: the new bundle does not)"
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
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # the build without CUDA has a name of its own
        return version(f"{name}-cpu")
