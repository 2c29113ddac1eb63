"""The golden clip: numbers every node must compute before it may write any.

A sound made by integer arithmetic, the same to the bit on every machine, goes through normalization, separation and the
block; the result is compared with the numbers kept in `golden.json`. A node whose processor, libraries or compiler give
something else refuses, so that a fleet of different machines cannot write differing numbers into one table.

There are golden numbers for blocks whose numbers follow from code alone. A block with weights has none: its weights'
sha256 is in its fingerprint.
"""

from __future__ import annotations

import io
import json
import platform
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
import soundfile

from acoustic_env.audio import prepare as preparing
from acoustic_env.audio.prepare import prepare
from acoustic_env.errors import AcousticEnvError
from acoustic_env.features.block import FeatureBlock
from acoustic_env.features.registry import make_block, names_where
from acoustic_env.features.tolerances import within

GOLDEN_FILE: Final = Path(__file__).with_name("golden.json")
GOLDEN_SIGNALS: Final = ("raw", "fg", "bg")
SECONDS: Final = 2
_VECTOR_STRIDE: Final = 131  # of a vector column, every 131st value is kept


def golden_clip(sample_rate: int) -> npt.NDArray[np.float32]:
    """Return SECONDS of a falling tone, bursts of noise and a bed of it: float32 [1, samples] of 16-bit values.

    >>> golden_clip(16_000).shape
    (1, 32000)
    """
    n = np.arange(SECONDS * sample_rate, dtype=np.int64)
    noise = _scramble(n) % 65_536 - 32_768
    phase = n * (3_000 * 65_536 // sample_rate) - n * n * (1_000 * 65_536 // sample_rate**2 + 1) // SECONDS
    tone = np.abs(phase % 65_536 - 32_768) - 16_384  # a triangle
    beat = np.abs(n * 7 * 1_024 // sample_rate % 1_024 - 512)  # 7 swells a second, 0 to 512
    burst = np.where(n * 3 // sample_rate % 2 == 1, 512 - n * 3 * 512 // sample_rate % 512, 0)
    mixed = 8 * beat * tone + 5 * burst * noise + 60 * noise
    return np.asarray((mixed // 16_384).astype(np.float32)[None] / np.float32(32_768))


def golden_numbers(block: FeatureBlock) -> dict[str, dict[str, list[float | None]]]:
    """Return signal -> column -> numbers of the golden clip; null for undefined.

    >>> numbers = golden_numbers(make_block("indices", "fast"))
    >>> list(numbers), len(numbers["raw"]), round(numbers["raw"]["Ht"][0], 3)
    (['raw', 'fg', 'bg'], 60, 0.92)
    """
    numbers: dict[str, dict[str, list[float | None]]] = {}
    for signal, waveforms in prepare(
        golden_clip(block.sample_rate), block.sample_rate, block.engine, GOLDEN_SIGNALS
    ).items():
        computed = block.compute(waveforms)
        numbers[signal] = {
            column.name: [
                float(number) if np.isfinite(number) else None
                for number in np.atleast_1d(computed[column.name][0])[::_VECTOR_STRIDE]
            ]
            for column in block.columns
        }
    return numbers


def check_golden(block: FeatureBlock) -> None:
    """Compute the golden clip on this node and compare it with the golden numbers of the block's version.

    Of a block without golden numbers the clip is only computed.

    Raises:
        AcousticEnvError: a number lies further off than its column's tolerance, or the version has no golden numbers.
        Exception: whatever the block raises.
    """
    if not block.golden:
        block.compute(prepare(golden_clip(block.sample_rate), block.sample_rate, block.engine, ["raw"])["raw"])
        return
    kept = json.loads(GOLDEN_FILE.read_text(encoding="utf-8")).get(f"{block.name} {block.version}")
    if kept is None:
        raise AcousticEnvError(
            f"{GOLDEN_FILE.name} has no numbers for version {block.version} of block {block.name}; "
            "run python -m acoustic_env.features.golden"
        )
    for signal, columns in golden_numbers(block).items():
        for column, numbers in columns.items():
            expected, found = (np.array(values, np.float64) for values in (kept[signal][column], numbers))
            wrong = np.flatnonzero(~within(column, expected, found, own_separation=signal != "raw"))
            if wrong.size:
                here, there = float(found[wrong[0]]), float(expected[wrong[0]])
                place = f"{signal}.{column}" + (f" (number {wrong[0]} of those kept)" if expected.size > 1 else "")
                raise AcousticEnvError(
                    f"node {platform.node()} computes block {block.name} differently: {place} of the golden clip is "
                    f"{here!r} here and must be {there!r}; its rows would not fit the others'. Give it the library "
                    "versions and the kind of processor of the other nodes, or leave it out"
                )


def check_decoders(rates: Collection[int]) -> None:
    """Decode the golden clip as a file for each of the decoders, soundfile and PyAV, and resample it to `rates` (Hz).

    Raises:
        AcousticEnvError: the samples are not those of the clip.
        Exception: whatever a decoder raises.
    """
    rate = 16_000
    clip = golden_clip(rate)[0]
    samples = (clip * np.float32(32_768)).astype("<i2")
    for name, data in (("WAV", _wav(samples, rate)), ("Matroska", _matroska(samples, rate))):
        decoded = preparing.decode_and_resample(
            io.BytesIO(data), None, None, f"the golden clip as {name}", {rate, *rates}
        )
        if not np.array_equal(decoded[rate], clip):
            msg = f"node {platform.node()} decodes the golden clip as {name} to other samples than it holds"
            raise AcousticEnvError(msg)


def _wav(samples: npt.NDArray[np.int16], rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _matroska(samples: npt.NDArray[np.int16], rate: int) -> bytes:
    """Encode samples as PCM in a container that only PyAV reads."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def write_golden() -> None:
    """Write golden.json anew with the reference engine's numbers: after raising a block's version, and then only."""
    blocks = [make_block(name, "reference") for name in names_where("golden")]
    numbers = {f"{block.name} {block.version}": golden_numbers(block) for block in blocks}
    one_line_a_column = re.sub(r"\n {4}|\n {3}(?=\])", "", json.dumps(numbers, indent=1))
    GOLDEN_FILE.write_text(one_line_a_column + "\n", encoding="utf-8")


def _scramble(n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Compute numbers without pattern below 2^31 (the finalizer of MurmurHash3)."""
    h = n.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return (h >> np.uint32(1)).astype(np.int64)


if __name__ == "__main__":
    write_golden()
