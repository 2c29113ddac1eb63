"""A study of generated tones: audio, clip list, recipe, and a store whose features were computed without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile
import yaml

from acoustic_env.audio import prepare
from acoustic_env.audio.fetch import open_source
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.features.block import to_table
from acoustic_env.options import ExtractSettings
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.feature_store import FeatureStore

RATE: Final = 8_000
CLIPS: Final = 30
LABELS: Final = ("low", "high")
MEL: Final = {"sample_rate": RATE, "n_fft": 256, "hop_length": 128, "n_mels": 8, "seconds": 0.5}
FRAMES: Final[dict[str, Any]] = {
    "blocks": {"logmel": {**MEL, "frames": True}},
    "model": {
        "kind": "cnn",
        "layers": [{"channels": 8}],
        "max_epochs": 2,
        "learning_rate": 0.01,
        "batch_size": 8,
    },
}


@dataclass(frozen=True)
class Tones:
    """Places of the study."""

    folder: Path
    clips: str
    store: str
    recipe: str


def tone(label: str, seed: int) -> npt.NDArray[np.float32]:
    """Half a second of a low or a high tone in noise."""
    time = np.arange(RATE // 2) / RATE
    sound = 0.1 * np.sin(2 * np.pi * (300 if label == "low" else 2_000) * time)
    return np.asarray(sound + np.random.default_rng(seed).normal(0, 0.05, len(time)), np.float32)


def write_tones(folder: Path, samples: Mapping[int, int] | None = None, **changes: Any) -> Tones:
    """Thirty clips of two classes with their features; `changes` replace settings of the recipe.

    Args:
        folder: to write to.
        samples: clip number -> its length; of the others 4,000.
    """
    made = Tones(folder, str(folder / "clips.csv"), str(folder / "store"), str(folder / "tones.yaml"))
    rows = []
    for number in range(CLIPS):
        label = LABELS[number % 2]
        sound = np.resize(tone(label, number), (samples or {}).get(number, RATE // 2))
        soundfile.write(folder / f"{number}.wav", sound, RATE, subtype="FLOAT")
        uri = str(folder / f"{number}.wav")
        rows.append({"clip_id": f"c{number}", "uri": uri, "labels": [label], "group": f"g{number:02d}"})
    write_clips(clip_table(rows), made.clips)
    recipe: dict[str, Any] = {
        "task": "binary",
        "classes": {label: {"labels": [label]} for label in LABELS},
        "signals": ["raw"],
        "blocks": {"logmel": MEL},
        "split": {"folds": 5, "validation_folds": [3], "test_folds": [4]},
        "model": {"kind": "logistic"},
    }
    Path(made.recipe).write_text(yaml.safe_dump(recipe | changes, sort_keys=False), encoding="utf-8")
    write_features(made)
    return made


def write_features(of: Tones) -> None:
    """Compute what `extract --recipe` would, in this process."""
    works = resolve_blocks(ExtractSettings(clips=of.clips, store=of.store, recipe=of.recipe))
    blocks = [(work, work.spec.make()) for work in works]
    for clip in read_clips(of.clips).to_pylist():
        with open_source(clip["uri"]) as source:
            wave = prepare.decode_and_resample(source, None, None, clip["clip_id"], [RATE])[RATE]
        for work, block in blocks:
            for signal, waves in prepare.prepare(wave[np.newaxis], RATE, "fast", work.spec.signals).items():
                table = to_table(work.schemas[signal], [clip["clip_id"]], [signal], block.compute(waves))
                FeatureStore(of.store).write_part(table)
