"""How well and how fast duplicates are found: `python -m tests.clips.bench_duplicates [edits|scale]`.

edits: real clips and edits of them in one list, precision and recall with Wilson intervals by edit and threshold.
scale: generated signatures of 10 s clips, 1 % planted duplicates, 5 % hum: seconds, memory and recall.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import soundfile

from acoustic_env.audio.decode import decode, resample
from acoustic_env.audit.intervals import wilson
from acoustic_env.clips.duplicates import matching
from acoustic_env.clips.duplicates.matching import GAP, Pairs, Signatures
from acoustic_env.clips.duplicates.search import collect
from acoustic_env.clips.duplicates.signature import LEVELS, PROBES, RATE, Signature, compute_signature
from tests.sounds import Sound

Edit = Callable[[Sound, np.random.Generator], Sound]
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
FRAMES = 301  # of a 10 s clip


def gained(decibels: float) -> Edit:
    """Louder or quieter, stored with 16 bits."""

    def edit(sound: Sound, _rng: np.random.Generator) -> Sound:
        return (np.round(np.clip(sound * 10 ** (decibels / 20), -1, 1) * 32767) / 32767).astype(np.float32)

    return edit


def shifted(least_s: float, most_s: float) -> Edit:
    """The start cut off: what is left starts later by so much, and is not aligned to any frame."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        return sound[int(rng.uniform(least_s, most_s) * RATE) :]

    return edit


def trimmed(share: float) -> Edit:
    """A stretch of so much of the clip, from anywhere."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        length = int(share * len(sound))
        start = int(rng.integers(0, len(sound) - length + 1))
        return sound[start : start + length]

    return edit


def noisy(snr_db: float) -> Edit:
    """White noise over all frequencies, so many dB below the clip's level."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        noise = rng.standard_normal(len(sound)).astype(np.float32)
        return sound + noise * np.float32(sound.std() * 10 ** (-snr_db / 20))

    return edit


def coded(codec: str, container: str, bit_rate: int) -> Edit:
    """Encoded and decoded at 16 kHz, some milliseconds off through the codec's frames."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as file:
            stream = file.add_stream(codec, rate=RATE, layout="mono")
            stream.bit_rate = bit_rate
            samples = np.clip(sound[int(rng.integers(0, 2_000)) :], -1, 1)
            frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            resampler = av.AudioResampler(
                stream.format, "mono", RATE, frame_size=stream.codec_context.frame_size or None
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(stream.encode(piece))
            file.mux(stream.encode(None))
        buffer.seek(0)
        waveform, rate = decode(buffer, None, None, codec)
        return resample(waveform, rate, RATE)

    return edit


def vorbis(quality: float) -> Edit:
    """Through libsndfile at its compression level 1 - quality."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        buffer = io.BytesIO()
        samples = np.clip(sound[int(rng.integers(0, 2_000)) :], -1, 1)
        soundfile.write(buffer, samples, RATE, format="OGG", subtype="VORBIS", compression_level=1.0 - quality)
        return decode(buffer, None, None, "vorbis")[0]

    return edit


def in_turn(*edits: Edit) -> Edit:
    """One after the other."""

    def edit(sound: Sound, rng: np.random.Generator) -> Sound:
        for one in edits:
            sound = one(sound, rng)
        return sound

    return edit


EDITS: dict[str, Edit] = {
    "gain -20 dB, 16 bits": gained(-20),
    "gain +6 dB, clipped": gained(6),
    "shift 0 to 1 s": shifted(0, 1),
    "shift 1 to 3 s": shifted(1, 3),
    "shift 3 to 5 s": shifted(3, 5),
    "trim to half": trimmed(0.5),
    "MP3 64 kbit/s": coded("mp3", "mp3", 64_000),
    "MP3 32 kbit/s": coded("mp3", "mp3", 32_000),
    "Vorbis, quality 0.2": vorbis(0.2),
    "Opus 24 kbit/s": coded("libopus", "ogg", 24_000),
    "AAC 48 kbit/s": coded("aac", "mp4", 48_000),
    "noise, SNR 30 dB": noisy(30),
    "noise, SNR 20 dB": noisy(20),
    "noise, SNR 10 dB": noisy(10),
    "noise, SNR 5 dB": noisy(5),
    "shift 1 to 3 s, -10 dB, MP3 64": in_turn(shifted(1, 3), gained(-10), coded("mp3", "mp3", 64_000)),
}


def real_clips(folder: Path, count: int, seconds: float = 10.0) -> dict[str, Sound]:
    """Clips of at least 4 s that are not mostly silence, one a recording, spread over the folders."""
    found: dict[str, Sound] = {}
    for name in ("esc10", "urbansound8k_sample", "maad_soundscape", "blanket"):
        recordings = {}
        for path in sorted((folder / name).rglob("*")):
            if path.suffix in (".wav", ".ogg"):
                key = path.name.split("-")[1 if name == "esc10" else 0]
                recordings.setdefault(key, path)
        chosen = list(recordings.values())
        for path in chosen[:: max(1, len(chosen) * 4 // count)]:
            with path.open("rb") as file:
                waveform, rate = decode(file, 0.0, seconds, path.name)
            sound = resample(waveform, rate, RATE)
            if len(sound) >= 3.9 * RATE and compute_signature(sound).audible.mean() > 0.5:
                found[str(path.relative_to(folder))] = sound
    return found


def edits(folder: Path, count: int) -> None:
    """Precision and recall by edit and threshold."""
    rng = np.random.default_rng(23)
    clips = real_clips(folder, count)
    owner: list[int] = []
    made_by: list[str] = []
    signed: list[Signature] = []
    with tempfile.TemporaryFile() as levels:
        for number, sound in enumerate(clips.values()):
            for name, edit in {"": lambda one, _rng: one, **EDITS}.items():
                edited = edit(sound, rng)
                if len(edited) < 2 * RATE and name:
                    continue
                signed.append(compute_signature(np.ascontiguousarray(edited, np.float32)))
                owner.append(number)
                made_by.append(name)
        signatures = collect(signed, levels)
        candidates = matching.candidates(signatures)
        pairs = matching.confirm(signatures, candidates, threshold=0.0)
    total = Counter(made_by)
    originals = {n: row for row, (n, name) in enumerate(zip(owner, made_by, strict=True)) if not name}
    recalled = {name: np.zeros(len(THRESHOLDS), int) for name in EDITS}
    right = np.zeros(len(THRESHOLDS), int)
    wrong: list[Counter[tuple[int, int]]] = [Counter() for _ in THRESHOLDS]
    for first, second, value in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.value.tolist(), strict=True):
        passed = value >= np.array(THRESHOLDS)
        if owner[first] == owner[second]:
            right += passed
            if first == originals[owner[first]]:
                recalled[made_by[second]] += passed
        else:
            for index in np.flatnonzero(passed):
                wrong[index][owner[first], owner[second]] += 1
    print(f"{len(clips)} recordings, {len(owner):,} clips with their edits, {len(candidates):,} candidate pairs")
    print(f"{'recall by correlation of':<34} " + "  ".join(f"{threshold:^19}" for threshold in THRESHOLDS))
    for name in EDITS:
        cells = [f"{k / total[name]:.3f} {_interval(int(k), total[name])}" for k in recalled[name]]
        print(f"{name:<28} n={total[name]:<4} " + "  ".join(cells))
    cells = [
        f"{r / (r + sum(w.values())):.3f} {_interval(int(r), int(r + sum(w.values())))}"
        for r, w in zip(right, wrong, strict=True)
    ]
    print(f"{'precision of pairs':<34} " + "  ".join(cells))
    names = list(clips)
    for (one, other), n in wrong[THRESHOLDS.index(0.4)].most_common(8):
        print(f"  linked at 0.4 by {n} pairs of edits: {names[one]} and {names[other]}")


def _interval(k: int, n: int) -> str:
    interval = wilson(k, n)
    return f"({interval.low:.3f}-{interval.high:.3f})"


def generated(count: int, folder: str, seed: int = 23) -> tuple[Signatures, list[tuple[int, int]]]:
    """Signatures like those of 10 s clips, bits that last some frames; planted duplicates, and one hum in 5 %."""
    rng = np.random.default_rng(seed)
    width = FRAMES + GAP
    bits = np.zeros(count * width, np.uint32)
    audible = np.zeros(count * width, np.bool_)
    levels = np.memmap(f"{folder}/levels", np.uint8, "w+", shape=(count * width, LEVELS))
    landmarks, weakest, planted = [], [], []
    weights = np.uint32(1) << np.arange(matching.BITS, dtype=np.uint32)
    hum = rng.integers(0, 1 << matching.BITS, 8, dtype=np.uint32)
    for clip in range(count):
        at = clip * width
        if clip >= 100 and clip % 100 == 0:
            source = int(rng.integers(0, clip - 1))
            lag = int(rng.integers(0, 156))
            planted.append((source, clip))
            kept = FRAMES - lag
            own = rng.integers(0, 1 << matching.BITS, FRAMES, dtype=np.uint32)
            errors = ((rng.random((kept, matching.BITS)) < 0.15) * weights).sum(axis=1, dtype=np.uint32)
            own[:kept] = bits[source * width + lag : source * width + FRAMES] ^ errors
            level = rng.integers(0, 256, (FRAMES, LEVELS), dtype=np.uint8)
            level[:kept] = levels[source * width + lag : source * width + FRAMES]
        elif clip % 20 == 7:
            errors = ((rng.random((FRAMES, matching.BITS)) < 0.02) * weights).sum(axis=1, dtype=np.uint32)
            own = hum[np.arange(FRAMES) // 40 % 8] ^ errors
            level = rng.integers(0, 256, (FRAMES, LEVELS), dtype=np.uint8)
        else:
            noise = rng.standard_normal((FRAMES + 7, matching.BITS), np.float32).cumsum(axis=0)
            own = (((noise[7:] - noise[:-7]) > 0) * weights).sum(axis=1, dtype=np.uint32)
            level = rng.integers(0, 256, (FRAMES, LEVELS), dtype=np.uint8)
        bits[at : at + FRAMES] = own
        audible[at : at + FRAMES] = True
        levels[at : at + FRAMES] = level
        landmarks.append(at + np.arange(2, FRAMES, 5))
        weakest.append(rng.permuted(np.tile(np.arange(matching.BITS, dtype=np.uint8), (60, 1)), axis=1)[:, :PROBES])
    starts = np.arange(count, dtype=np.int64) * width
    lengths = np.full(count, FRAMES, np.int64)
    marks = np.concatenate(landmarks)
    return Signatures(starts, lengths, bits, audible, levels, marks, np.concatenate(weakest)), planted


def scale(counts: list[int]) -> None:
    """Seconds, memory and recall by number of signatures."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            signatures, planted = generated(count, folder)
            base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            began, cpu = time.perf_counter(), time.process_time()
            candidates = matching.candidates(signatures)
            looked_up = time.perf_counter() - began
            confirmed: Pairs = matching.confirm(signatures, candidates)
            wall, used = time.perf_counter() - began, time.process_time() - cpu
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pairs = set(zip(confirmed.first.tolist(), confirmed.second.tolist(), strict=True))
        found = sum(pair in pairs for pair in planted)
        print(
            f"{count:>8,} signatures: {wall:7.1f} s ({used:.1f} s of CPU; candidates {looked_up:.1f} s), "
            f"{len(candidates):,} candidates, {len(pairs):,} pairs, {found:,} of {len(planted):,} planted found, "
            f"{len(pairs - set(planted)):,} others; peak {peak / 1024:,.0f} MiB, {base / 1024:,.0f} MiB of it before",
            flush=True,
        )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("edits", "scale"))
    parser.add_argument("--clips", type=int, default=160, help="recordings to edit, about")
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    arguments = parser.parse_args()
    if arguments.part != "scale":
        edits(Path(os.environ["ACOUSTIC_ENV_TEST_DATA"]) / "clips", arguments.clips)
    if arguments.part != "edits":
        scale(arguments.counts)


if __name__ == "__main__":
    main()
