"""From a folder of recordings as they come from the field, odd files among them, to a verified store and a table.

What a person wants in hand at the end: one row of features for each ten seconds of sound there is, a list of what could
not be used and why, and a store that says so itself when a disk has lost something.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.journeys.commands import Shell
from tests.known_issues.test_lengths import vbr, with_size, without_xing
from tests.sounds import encode

pytestmark = pytest.mark.slow
RATE = 16_000


def sound(seconds: float, level: float, seed: int) -> np.ndarray:
    """Noise around a tone."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * (np.sin(2 * np.pi * 700 * time) + rng.normal(0, 0.5, time.size))).astype(np.float32)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder `field` with one folder a site, and what recorders and copies leave in it."""
    field = tmp_path / "field"
    for site in ("river", "road"):
        (field / site).mkdir(parents=True)
    for number in range(4):
        soundfile.write(field / "river" / f"r{number}.wav", sound(20, 0.1, number), RATE)
        soundfile.write(field / "road" / f"d{number}.flac", sound(20, 0.3, 10 + number), RATE)
    loud_then_quiet = np.concatenate([sound(20, 0.3, 20), sound(20, 0.001, 21)])
    (field / "road" / "no-length.mp3").write_bytes(without_xing(vbr(loud_then_quiet, RATE)))
    (field / "river" / "power-lost.wav").write_bytes(with_size(encode(sound(20, 0.1, 22), RATE), 0))
    (field / "river" / "empty.wav").write_bytes(b"")
    (field / "river" / "page.wav").write_bytes(b"<html>404</html>" * 40)
    (field / "river" / "notes.txt").write_text("windy")
    soundfile.write(field / "road" / "old.sph", sound(10, 0.1, 23), RATE, format="NIST", subtype="PCM_16")
    with open(os.fsencode(field / "road") + b"/caf\xe9.wav", "wb") as file:  # noqa: PTH123  no text names it
        file.write(encode(sound(10, 0.1, 24), RATE))
    elsewhere = tmp_path / "disk2" / "bridge"
    elsewhere.mkdir(parents=True)
    soundfile.write(elsewhere / "b0.wav", sound(10, 0.2, 25), RATE)
    (field / "bridge").symlink_to(elsewhere)
    (field / "bridge" / "back").symlink_to(field)
    return Shell(tmp_path)


def test_from_a_folder_to_a_verified_store_and_a_table(shell: Shell) -> None:
    said = shell.run("acoustic-env clips from-folder field --window 10 --out clips.parquet")
    assert ".sph" in said.err, "files that are passed over are counted and named"
    options = said.advice("--glob")
    said = shell.run(f"acoustic-env clips from-folder field --window 10 {options} --out clips.parquet")
    clips = pq.read_table(shell.folder / "clips.parquet").to_pylist()
    windows = {
        name: sum(name in clip["uri"] for clip in clips) for name in ("no-length", "power-lost", "old.sph", "b0.wav")
    }
    assert windows == {"no-length": 4, "power-lost": 2, "old.sph": 1, "b0.wav": 1}

    shell.run("acoustic-env clips check clips.parquet")
    extract = "acoustic-env extract --clips clips.parquet --store features --blocks spectral --signals raw"
    said = shell.run(f"{extract} --max-error-rate 0.2")
    listed = shell.run("acoustic-env store errors features").out
    assert "empty" in listed
    assert "not_audio" in listed
    shell.run("acoustic-env store verify features --clips clips.parquet --read")

    # The disk of one site is away for a night: nothing of it is lost for good.
    away = shell.folder / "away"
    (shell.folder / "disk2").rename(away)
    shutil.rmtree(shell.folder / "features")
    said = shell.run(extract, code=3)
    away.rename(shell.folder / "disk2")
    shell.run(f"{extract} --max-error-rate 0.2")
    said = shell.run("acoustic-env store verify features --clips clips.parquet")
    assert "+ 0 pending" in said.out

    # A disk that loses a part is found, by verify and by whatever would read it, and the advice mends it.
    part = next((shell.folder / "features").glob("features/*/*/part-*.parquet"))
    part.unlink()
    said = shell.run("acoustic-env store verify features --clips clips.parquet", code=5)
    assert part.name in said.err
    shell.run("acoustic-env store export features --block spectral --out table.csv", code=5)
    said = shell.run(f"{extract} --max-error-rate 0.2")
    assert part.name in said.err
    shell.run("acoustic-env store verify features --clips clips.parquet --read")

    shell.run("acoustic-env store compact features")
    shell.run("acoustic-env store export features --block spectral --clips clips.parquet --out table.parquet")
    table = pq.read_table(shell.folder / "table.parquet").to_pylist()
    assert len(table) == len(clips) - 2, "all but the empty file and the page"
    assert sum(row["group"].endswith("power-lost.wav") for row in table) == 2
    assert sorted(row["start_s"] for row in table if "no-length" in row["uri"]) == [0.0, 10.0, 20.0, 30.0]


def test_a_list_with_a_stray_quote_is_refused_with_its_line_and_audio_that_is_gone_is_left_out(shell: Shell) -> None:
    river = shell.folder / "field" / "river"
    lines = ["clip_id, uri", f"a, {river}/r0.wav", f'b, {river}/r1.wav,"5 inch', f"c, {river}/gone.wav"]
    (shell.folder / "list.csv").write_text("\n".join(lines))
    said = shell.run("acoustic-env clips check list.csv", code=2)
    assert "line 3" in said.err
    lines[2] = f"b, {river}/r1.wav"
    (shell.folder / "list.csv").write_text("\n".join([*lines, "d, /not/mounted/d.wav"]))
    said = shell.run("acoustic-env clips check list.csv --drop-missing there.parquet", code=2)
    assert "is its disk mounted?" in said.err
    (shell.folder / "list.csv").write_text("\n".join(lines))
    said = shell.run("acoustic-env clips check list.csv --drop-missing there.parquet")
    kept = pq.read_table(shell.folder / "there.parquet")["clip_id"].to_pylist()
    assert kept == ["a", "b"]
    assert "gone.wav" in said.err + said.out
