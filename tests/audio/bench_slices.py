"""Time of decoding 1 s and 5 s out of hour-long files, at their start and end, beside soundfile and PyAV alone.

    python -m tests.audio.bench_slices [--minutes 60] [--repeats 9]

Mono at 44.1 kHz; each cell is the median of the repeats after one that fills the page cache, each from opening the file
on. PyAV seeks to the packet before the slice, and need not be exact; soundfile cannot read an MP3 without a Xing header
to its end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import soundfile

from acoustic_env.audio.decode import decode, duration_s
from tests.sounds import noise, sweep

RATE = 44_100
Read = Callable[[Path, float, float], object]


def by_us(path: Path, start_s: float, end_s: float) -> object:
    """Decode with the package."""
    with path.open("rb") as file:
        waveform, _ = decode(file, start_s, end_s, path.name)
    assert waveform.size == round((end_s - start_s) * RATE), path
    return waveform


def by_soundfile(path: Path, start_s: float, end_s: float) -> object:
    """Seek and read."""
    with soundfile.SoundFile(path) as file:
        file.seek(round(start_s * RATE))
        return file.read(round((end_s - start_s) * RATE), dtype="float32")


def by_pyav(path: Path, start_s: float, end_s: float) -> object:
    """Seek to the packet before and decode."""
    with av.open(path) as container:
        stream = container.streams.audio[0]
        assert stream.time_base is not None
        container.seek(int(start_s / stream.time_base), stream=stream)
        kept = []
        for frame in container.decode(stream):
            kept.append(frame.to_ndarray())
            if frame.pts is not None and frame.pts * stream.time_base >= end_s:
                break
        return kept


def make_files(folder: Path, minutes: int) -> list[Path]:
    """Write the same sound as WAV, FLAC and MP3 of variable bit rate, the last with and without its Xing header."""
    paths = [folder / f"hour.{ending}" for ending in ("wav", "flac", "mp3")]
    subtypes = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III"}
    files = [soundfile.SoundFile(path, "w", RATE, 1, subtypes[path.suffix[1:]]) for path in paths]
    for minute in range(minutes):
        piece = sweep(60.0, RATE) + noise(60.0, RATE, seed=minute, amplitude=0.02 * (1 + minute % 3))
        for file in files:
            file.write(piece)
    for file in files:
        file.close()
    data = paths[2].read_bytes()
    bare = folder / "without Xing.mp3"
    bare.write_bytes(data[data.index(data[:2], 4) :])
    return [*paths, bare]


def median_ms(read: Read, path: Path, start_s: float, end_s: float, repeats: int) -> float:
    """Return the median time of a slice in ms; NaN where it cannot be read."""
    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        try:
            read(path, start_s, end_s)
        except soundfile.SoundFileError:
            return float("nan")
        taken.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(taken[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print("| file | slice | from | acoustic-env ms | soundfile ms | PyAV ms | of the faster |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in make_files(Path(folder), arguments.minutes):
            with path.open("rb") as file:
                end = duration_s(file, path.name)
            for length_s in (1.0, 5.0):
                for name, start_s in (("start", 1.0), ("end", end - length_s - 1.0)):
                    ways = (by_us, by_soundfile, by_pyav)
                    ours, *theirs = [
                        median_ms(way, path, start_s, start_s + length_s, arguments.repeats) for way in ways
                    ]
                    cells = [f"{ms:.2f}" if ms == ms else "–" for ms in (ours, *theirs)]
                    ratio = f"{ours / float(np.nanmin(theirs)):.1f}"
                    print(f"| {path.name} | {length_s:g} s | {name} | {' | '.join(cells)} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
