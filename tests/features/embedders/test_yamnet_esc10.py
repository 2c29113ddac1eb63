"""What the real YAMNet's numbers are worth: ESC-10 by linear probe and by class score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from acoustic_env.audio.decode import decode, resample
from acoustic_env.audio.normalize import rms_normalize
from acoustic_env.features.embedders.contract import EmbedderBlock
from acoustic_env.features.registry import make_block

# What AudioSet calls the ten classes of ESC-10, by folder number.
AUDIOSET_NAMES = (
    ("Dog", "Bark"),
    ("Rain", "Raindrop", "Rain on surface"),
    ("Ocean", "Waves, surf"),
    ("Baby cry, infant cry",),
    ("Clock", "Tick", "Tick-tock"),
    ("Sneeze",),
    ("Helicopter",),
    ("Chainsaw",),
    ("Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    ("Fire", "Crackle"),
)


@pytest.fixture
def block(real_yamnet: Path) -> EmbedderBlock:
    """The real int8 YAMNet on the fast engine, loaded."""
    made = make_block("yamnet", "fast", {"weights": "tflite"})
    made.load("cpu")
    assert isinstance(made, EmbedderBlock)
    return made


def computed(
    block: EmbedderBlock, test_data: Path, every: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Embeddings [clips, 1024], scores [clips, 521], class and fold of every so many clips of ESC-10, normalized."""
    columns, labels, folds = [], [], []
    for path in sorted((test_data / "clips" / "esc10").glob("*/*.ogg"))[::every]:
        with path.open("rb") as stream:
            waveform, rate = decode(stream, None, None, path.name)
        columns.append(block.compute(rms_normalize(resample(waveform, rate, 16_000)[None])))
        labels.append(int(path.parent.name[:3]) - 1)
        folds.append(int(path.name[0]))
    embeddings, scores = (np.concatenate([c[name] for c in columns]) for name in ("embedding", "scores"))
    return embeddings, scores, np.array(labels), np.array(folds)


def zero_shot(block: EmbedderBlock, scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of clips whose highest score among the ten classes' names is their own."""
    names = json.loads(block.metadata()["class_names"])
    best = np.stack([scores[:, [names.index(name) for name in own]].max(axis=1) for own in AUDIOSET_NAMES], axis=1)
    return float((best.argmax(axis=1) == labels).mean())


def test_most_real_clips_score_highest_in_their_own_class(block: EmbedderBlock, test_data: Path) -> None:
    _, scores, labels, _ = computed(block, test_data, every=10)
    assert zero_shot(block, scores, labels) >= 0.85


@pytest.mark.slow
def test_esc10_reaches_the_published_quality(block: EmbedderBlock, test_data: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    embeddings, scores, labels, folds = computed(block, test_data, every=1)
    assert zero_shot(block, scores, labels) >= 0.89
    right = 0
    for fold in range(1, 6):
        train, test = folds != fold, folds == fold
        probes = [
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3)) for c in (0.01, 0.1, 1)
        ]
        inner = [
            cross_val_score(p, embeddings[train], labels[train], groups=folds[train], cv=GroupKFold(4)).mean()
            for p in probes
        ]
        probe = probes[int(np.argmax(inner))].fit(embeddings[train], labels[train])
        right += int((probe.predict(embeddings[test]) == labels[test]).sum())
    assert right / len(labels) >= 0.955
