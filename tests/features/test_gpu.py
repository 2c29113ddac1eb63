"""On a GPU the kernels give the processor's numbers; without one these tests skip and say so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from acoustic_env.audio.separate_fast import separate_fast
from acoustic_env.features.embedders.placeholder import PlaceholderBlock
from acoustic_env.features.modulation_fast import modulation_spectrum

RATE = 16_000
MODULATION_TOLERANCE = 1e-4  # relative, per cell, as for the engines
SEPARATION_TOLERANCE = 1e-6  # of the largest sample; float32 in and out

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def clips() -> npt.NDArray[np.float32]:
    """Noise whose level swells twice a second, a tone on top: float32[20, 3 s]."""
    rng = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    noise = rng.normal(0, 0.05, (20, len(time))) * (1 + np.sin(4 * np.pi * time))
    signal: npt.NDArray[np.float32] = (noise + 0.1 * np.sin(2 * np.pi * 700 * time)).astype(np.float32)
    return signal


def test_separation_on_a_gpu_is_separation_on_a_processor(clips: npt.NDArray[np.float32]) -> None:
    there, here = separate_fast(clips, RATE, "cuda"), separate_fast(clips, RATE)
    assert np.abs(there - here).max() <= SEPARATION_TOLERANCE * np.abs(here).max()


def test_the_modulation_spectrum_on_a_gpu_is_that_on_a_processor(clips: npt.NDArray[np.float32]) -> None:
    there, here = modulation_spectrum(clips, RATE, "cuda"), modulation_spectrum(clips, RATE)
    np.testing.assert_allclose(there, here, rtol=MODULATION_TOLERANCE)


def test_an_embedder_on_a_gpu_gives_the_numbers_of_a_processor(clips: npt.NDArray[np.float32]) -> None:
    outputs = []
    for device in ("cpu", "cuda"):
        embedder = PlaceholderBlock("fast")
        embedder.load(device)
        outputs.append(embedder.embed(clips).embeddings)
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
