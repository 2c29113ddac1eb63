"""Synthetic outdoor scenes with known truth: the input of the demo and the ground truth of the audit's tests.

A recording (the `group`) has one place, urban or natural: a few sources of its class, often one of the other, a bed of
noise, a room and a microphone. Its clips are moments of it. Classes overlap on purpose: far sources drown in the bed,
birds sing in towns and aeroplanes pass over woods.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import fft, signal

from acoustic_env.clips.sounds import NATURAL, URBAN, Source, Wave, colored_noise, unit
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.io.files import new_file, write_bytes
from acoustic_env.io.location import join, local_path

CLASSES: Final = ("natural", "urban")
SOURCES: Final[dict[str, dict[str, Source]]] = {"natural": NATURAL, "urban": URBAN}
CLIPS_PER_RECORDING: Final = 4
CLIP_LIST: Final = "clips.parquet"
TRUTH: Final = "truth.parquet"
TRUTH_SCHEMA: Final = pa.schema(
    [pa.field("clip_id", pa.string()), pa.field("label", pa.string()), pa.field("sounds", pa.list_(pa.string()))]
)

RATES_HZ: Final = {16_000: 0.82, 22_050: 0.06, 32_000: 0.06, 44_100: 0.06}
SHORT_SHARE: Final = 0.06
# Level of a source over the bed of noise, in dB. The overlap of the two ranges sets how hard the task is.
OWN_LEVEL_DB: Final = (-1.0, 15.0)
OTHER_LEVEL_DB: Final = (-18.0, -3.0)
OTHER_SHARE: Final = 0.5


@dataclass(frozen=True)
class Recording:
    """What the clips of one recording share."""

    label: str  # natural or urban
    rate: int  # Hz
    sources: tuple[tuple[str, float], ...]  # name and level in dB over the bed
    bed_slope: float  # the bed's amplitude falls as frequency ** -bed_slope
    echo_s: float  # reverberation time (60 dB)
    echo_level: float  # of the reverberant part over the direct one
    color_db: npt.NDArray[np.float64]  # gains of the microphone at eight frequencies
    hiss_db: float  # the microphone's own noise under the scene
    peak: float  # of the written samples, full scale 1
    seed: tuple[int, ...]  # of the sources' characters


def write_scenes(folder: Path | str, clips: int, seed: int, flip: float = 0.0, seconds: float = 10.0) -> pa.Table:
    """Write synthetic scenes as FLAC files with their clip list and their truth.

    The same arguments give the same samples; a longer list begins with the scenes of a shorter one, though which labels
    are flipped differs.

    Args:
        folder: a path or fsspec URL; gets `audio/*.flac`, `clips.parquet` and `truth.parquet` (clip_id, label, sounds).
        clips: how many, four to a recording; half of the recordings are of each class.
        seed: of everything.
        flip: share of the given labels turned into the other class, 0 to 1; the truth keeps the right one.
        seconds: length of most clips; about 6 % are 40 to 99 % as long.

    Returns:
        The clip list, labels as given (flips included), `group` the recording.

    Raises:
        UsageError: an impossible number, or a folder that cannot be written.
    """
    if clips < 1 or not 0.0 <= flip <= 1.0 or seconds < 1.0:
        raise UsageError(f"scenes: clips={clips} (at least 1), flip={flip} (0 to 1), seconds={seconds} (at least 1)")
    local = local_path(str(folder))
    root = str(folder) if local is None else str(local.absolute())
    rows, truth = [], []
    flipped = _flipped(clips, seed, flip)
    for index in range(clips):
        place = recording(seed, index // CLIPS_PER_RECORDING)
        clip_id = f"scene-{index:05d}"
        uri = join(root, "audio", f"{clip_id}.flac")
        write_bytes(uri, _flac(scene(place, seed, index, seconds), place.rate))
        given = CLASSES[1 - CLASSES.index(place.label)] if flipped[index] else place.label
        rows.append({"clip_id": clip_id, "uri": uri, "labels": [given], "source": "scenes"})
        rows[-1]["group"] = f"recording-{index // CLIPS_PER_RECORDING:04d}"
        truth.append({"clip_id": clip_id, "label": place.label, "sounds": [name for name, _ in place.sources]})
    import pyarrow.parquet as pq

    table = clip_table(rows)
    write_clips(table, join(root, CLIP_LIST))
    with new_file(join(root, TRUTH)) as file:
        pq.write_table(pa.Table.from_pylist(truth, schema=TRUTH_SCHEMA), file)
    return table


def recording(seed: int, index: int) -> Recording:
    """Draw the recording of this number; of each successive two one is urban."""
    pair = np.random.default_rng([seed, 1, index // 2])
    label = CLASSES[(index + int(pair.integers(2))) % 2]
    rng = np.random.default_rng([seed, 2, index])
    other = CLASSES[1 - CLASSES.index(label)]
    own = rng.choice(sorted(SOURCES[label]), size=int(rng.integers(1, 4)), replace=False)
    sources = [(str(name), rng.uniform(*OWN_LEVEL_DB)) for name in own]
    if rng.random() < OTHER_SHARE:
        sources.append((str(rng.choice(sorted(SOURCES[other]))), rng.uniform(*OTHER_LEVEL_DB)))
    return Recording(
        label=label,
        rate=int(rng.choice(list(RATES_HZ), p=list(RATES_HZ.values()))),
        sources=tuple(sources),
        bed_slope=rng.uniform(0.4, 1.1),
        echo_s=rng.uniform(0.15, 1.6),
        echo_level=rng.uniform(0.0, 0.5),
        color_db=rng.normal(0.0, 4.0, 8),
        hiss_db=rng.uniform(-55.0, -30.0),
        peak=10 ** rng.uniform(-1.3, -0.05),
        seed=(seed, 3, index),
    )


def scene(place: Recording, seed: int, index: int, seconds: float = 10.0) -> npt.NDArray[np.float32]:
    """Synthesize clip `index` of the study, a moment of a recording.

    Returns:
        float32 [samples] at the recording's rate, peak at most 1.
    """
    rng = np.random.default_rng([seed, 4, index])
    length_s = seconds * (rng.uniform(0.4, 0.99) if rng.random() < SHORT_SHARE else 1.0)
    samples = round(length_s * place.rate)
    bed = colored_noise(samples, place.rate, rng, lambda f: (f + 40.0) ** -place.bed_slope)
    mix = unit(bed)
    for number, (name, level_db) in enumerate(place.sources):
        character = np.random.default_rng([*place.seed, number])
        source = (URBAN | NATURAL)[name](samples, place.rate, character, rng)
        loud = level_db + rng.normal(0.0, 3.0)
        mix = mix + unit(source) * 10 ** (loud / 20)
    mix = _microphone(_room(mix, place), place)
    mix = mix + mix.std() * 10 ** (place.hiss_db / 20) * rng.standard_normal(samples)
    return np.asarray(mix * (place.peak / np.abs(mix).max()), dtype=np.float32)


def _room(wave: Wave, place: Recording) -> Wave:
    rng = np.random.default_rng([*place.seed, 100])
    times = np.arange(int(place.echo_s * place.rate)) / place.rate
    tail = rng.standard_normal(len(times)) * np.exp(-6.9 * times / place.echo_s)
    tail *= place.echo_level / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    return np.asarray(signal.fftconvolve(wave, tail)[: len(wave)])


def _microphone(wave: Wave, place: Recording) -> Wave:
    padded = fft.next_fast_len(len(wave), real=True)
    frequencies = np.maximum(fft.rfftfreq(padded, 1 / place.rate), 1.0)
    gain_db = np.interp(np.log(frequencies), np.linspace(np.log(50), np.log(8000), 8), place.color_db)
    low_cut = (frequencies / 30.0) ** 2 / (1 + (frequencies / 30.0) ** 2)
    return np.asarray(fft.irfft(fft.rfft(wave, padded) * low_cut * 10 ** (gain_db / 20), padded)[: len(wave)])


def _flipped(clips: int, seed: int, share: float) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(clips, dtype=np.bool_)
    chosen[np.random.default_rng([seed, 5]).permutation(clips)[: round(share * clips)]] = True
    return chosen


def _flac(wave: npt.NDArray[np.float32], rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
