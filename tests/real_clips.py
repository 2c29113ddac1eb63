"""A sample of the real clips, for tests that hold two engines side by side."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from acoustic_env.audio.prepare import decode_and_resample
from tests.sounds import Sound

FOLDERS = ("esc10", "urbansound8k_sample", "urbansound8k_originals", "maad_soundscape", "blanket")


def real_clips(
    test_data: Path, per_folder: int, seconds: float = 3.0, rate: int = 16_000
) -> Iterator[tuple[str, Sound]]:
    """Name and samples of clips spread over every folder; from the start, so that the padding of some is heard, too."""
    for folder in FOLDERS:
        files = sorted(
            path for path in (test_data / "clips" / folder).rglob("*") if path.suffix in (".wav", ".ogg", ".flac")
        )
        for path in files[:: max(1, len(files) // per_folder)][:per_folder]:
            samples = decode_and_resample(io.BytesIO(path.read_bytes()), 0.0, seconds, path.name, [rate])[rate]
            yield f"{folder}/{path.name}", samples
