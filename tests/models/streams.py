"""A store of generated frames, 10 x 128 a clip, in which the class of a clip can be heard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acoustic_env.features import vggish_released
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.spooled_frames import SpooledFrames
from acoustic_env.models.data.stored_frames import find_frames
from acoustic_env.store.feature_store import FeatureStore


def generate(url: str, clips: int, part: int, seed: int = 0) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Write `vggish_released` of clips of two classes, so many a part; return their ids and classes."""
    store, random = FeatureStore(url), np.random.default_rng(seed)
    ids = [f"clip-{seed}-{number:07}" for number in range(clips)]
    y = random.integers(2, size=clips)
    for start in range(0, clips, part):
        own = y[start : start + part]
        frames = random.integers(96, 160, size=(len(own), 10, 128), dtype=np.uint8)
        frames[np.arange(len(own)), :, own] += 40
        store.write_part(vggish_released.rows(ids[start : start + part], list(frames)))
    return ids, y


def examples(url: str, ids: list[str], y: npt.NDArray[np.int64]) -> Examples:
    """Return the clips to be put on the disk, however few they are."""
    store = FeatureStore(url)
    stored, _ = find_frames(store, ids, vggish_released.NAME, store.resolve(vggish_released.NAME))
    return Examples(Sequences(SpooledFrames(stored)), y, np.arange(len(y)))
