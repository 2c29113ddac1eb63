"""Synthetic outdoor scenes with known truth: the input of the demo and the ground truth of the audit's tests.

A recording (the `group`) has one place, urban or natural: a few sources of its class, often one of the other, a bed of
noise and a microphone. Its clips are moments of it. Classes overlap on purpose: far sources drown in the bed, birds
sing in towns and aeroplanes pass over woods.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.io.files import new_file, write_bytes
from acoustic_env.io.location import join, local_path

Wave = npt.NDArray[np.float64]  # [samples]


class Source(NamedTuple):
    """A sound that swells and fades: (0.5 + 0.5 * sine) ** sharpness times a tone or a band of noise."""

    pitch_hz: tuple[float, float]  # range of the fundamental, or of the band's center
    harmonics: int  # 0 for noise
    spread: float  # how far the tone sweeps, or the width of the band, relative to the pitch
    beats_hz: tuple[float, float]  # range of the rate of swells and sweeps
    sharpness: float  # 0 for a steady sound


SOURCES: Final[dict[str, dict[str, Source]]] = {
    "natural": {
        "wind": Source((80, 400), 0, 1.0, (0.15, 0.7), 1.0),
        "rain": Source((2500, 6000), 0, 0.7, (0.1, 0.5), 0.1),
        "surf": Source((1000, 3000), 0, 1.0, (0.09, 0.2), 1.5),
        "stream": Source((1800, 3500), 0, 0.5, (8, 20), 0.3),
        "birds": Source((2000, 5200), 2, 0.3, (1, 6), 4.0),
        "insects": Source((3200, 7000), 1, 0.01, (18, 55), 1.0),
    },
    "urban": {
        "engine": Source((28, 85), 40, 0.03, (0.2, 0.6), 0.2),
        "traffic": Source((250, 700), 0, 0.8, (0.1, 0.4), 2.0),
        "horn": Source((320, 480), 15, 0.0, (0.3, 0.9), 6.0),
        "siren": Source((700, 1000), 5, 0.4, (0.2, 2.8), 0.3),
        "jackhammer": Source((500, 1500), 0, 0.5, (16, 27), 20.0),
        "hum": Source((50, 50), 12, 0.0, (0.1, 0.3), 0.0),
        "babble": Source((95, 240), 30, 0.1, (3, 5), 1.5),
        "footsteps": Source((200, 700), 0, 0.8, (1.6, 2.2), 30.0),
    },
}
CLASSES: Final = tuple(SOURCES)
CLIPS_PER_RECORDING: Final = 4
TRUTH_SCHEMA: Final = pa.schema([("clip_id", pa.string()), ("label", pa.string()), ("sounds", pa.list_(pa.string()))])
RATES_HZ: Final = {16_000: 0.82, 22_050: 0.06, 32_000: 0.06, 44_100: 0.06}
SHORT_SHARE: Final = 0.06
# Level of a source over the bed of noise, in dB. The overlap of the two ranges sets how hard the task is.
OWN_LEVEL_DB: Final = (4.0, 22.0)
OTHER_LEVEL_DB: Final = (-18.0, -6.0)
OTHER_SHARE: Final = 0.4


class Scene(NamedTuple):
    """A clip with its truth."""

    label: str  # natural or urban
    sounds: tuple[str, ...]
    rate: int  # Hz
    wave: npt.NDArray[np.float32]  # [samples], peak at most 1


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
    flipped = set(np.random.default_rng([seed, 5]).permutation(clips)[: round(flip * clips)].tolist())
    rows, truth = [], []
    for index in range(clips):
        clip_id, made, file = f"scene-{index:05d}", scene(seed, index, seconds), io.BytesIO()
        soundfile.write(file, made.wave, made.rate, format="FLAC", subtype="PCM_16")
        uri = join(root, "audio", f"{clip_id}.flac")
        write_bytes(uri, file.getvalue())
        given = CLASSES[1 - CLASSES.index(made.label)] if index in flipped else made.label
        group = f"recording-{index // CLIPS_PER_RECORDING:04d}"
        rows.append({"clip_id": clip_id, "uri": uri, "labels": [given], "source": "scenes", "group": group})
        truth.append({"clip_id": clip_id, "label": made.label, "sounds": made.sounds})
    table = clip_table(rows)
    write_clips(table, join(root, "clips.parquet"))
    with new_file(join(root, "truth.parquet")) as place:
        pq.write_table(pa.Table.from_pylist(truth, schema=TRUTH_SCHEMA), place)
    return table


def scene(seed: int, index: int, seconds: float = 10.0) -> Scene:
    """Synthesize clip `index` of the study, a moment of its recording; of each successive two recordings one is urban.

    >>> made = scene(seed=23, index=0, seconds=1.0)
    >>> made.label, made.sounds, made.wave.shape
    ('urban', ('babble', 'rain'), (16000,))
    """
    recording = index // CLIPS_PER_RECORDING
    label = CLASSES[(recording + int(np.random.default_rng([seed, 1, recording // 2]).integers(2))) % 2]
    kept = np.random.default_rng([seed, 2, recording])  # what the clips of a recording share
    own = kept.choice(sorted(SOURCES[label]), size=int(kept.integers(1, 4)), replace=False)
    levels_db = {str(name): kept.uniform(*OWN_LEVEL_DB) for name in own}
    if kept.random() < OTHER_SHARE:
        other = str(kept.choice(sorted(SOURCES[CLASSES[1 - CLASSES.index(label)]])))
        levels_db[other] = kept.uniform(*OTHER_LEVEL_DB)
    rate = int(kept.choice(list(RATES_HZ), p=list(RATES_HZ.values())))
    color_db, peak, slope = kept.normal(0.0, 3.0, 8), 10 ** kept.uniform(-1.3, -0.05), kept.uniform(0.4, 1.1)
    rng = np.random.default_rng([seed, 4, index])
    samples = round(seconds * (rng.uniform(0.4, 0.99) if rng.random() < SHORT_SHARE else 1.0) * rate)
    frequencies = np.maximum(np.fft.rfftfreq(samples, 1 / rate), 1.0)
    mix = _noise(samples, (frequencies + 40.0) ** -slope, rng)
    for number, (name, level_db) in enumerate(levels_db.items()):
        source = (SOURCES["natural"] | SOURCES["urban"])[name]
        wave = _sound(source, samples, rate, np.random.default_rng([seed, 3, recording, number]), rng)
        mix = mix + wave * 10 ** ((level_db + rng.normal(0.0, 3.0)) / 20)
    gain_db = np.interp(np.log(frequencies), np.linspace(np.log(50), np.log(8000), 8), color_db)
    mix = np.fft.irfft(np.fft.rfft(mix) * 10 ** (gain_db / 20), samples)
    return Scene(label, tuple(levels_db), rate, np.asarray(mix * (peak / np.abs(mix).max()), np.float32))


def _sound(
    source: Source, samples: int, rate: int, character: np.random.Generator, timing: np.random.Generator
) -> Wave:
    """Synthesize a source, deviation 1: `character` draws what a recording keeps, `timing` what a clip has alone."""
    pitch, beat = character.uniform(*source.pitch_hz), character.uniform(*source.beats_hz)
    turns = beat * np.arange(samples) / rate + np.cumsum(timing.normal(0.0, 0.3 / rate**0.5, samples))
    swell = (0.5 + 0.5 * np.sin(2 * np.pi * (turns + timing.uniform()))) ** source.sharpness
    if source.harmonics:
        frequency = pitch * (1 + source.spread * np.sin(2 * np.pi * (turns + timing.uniform())))
        phase = 2 * np.pi * np.cumsum(frequency) / rate
        heights = character.lognormal(0.0, 0.5, source.harmonics) / np.arange(1, source.harmonics + 1)
        wave = sum(
            height * np.sin(k * phase) for k, height in enumerate(heights, 1) if k * frequency.max() < 0.5 * rate
        )
    else:
        frequencies = np.fft.rfftfreq(samples, 1 / rate)
        wave = _noise(samples, 1 / (1 + ((frequencies - pitch) / (source.spread * pitch)) ** 2), timing)
    return np.asarray(swell * wave / ((swell * wave).std() + 1e-9))


def _noise(samples: int, gain: Wave, rng: np.random.Generator) -> Wave:
    """Generate Gaussian noise of deviation 1 with these gains of its frequencies."""
    wave = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * gain, samples)
    return np.asarray(wave / wave.std())
