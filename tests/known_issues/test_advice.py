"""Advice that a command prints is run to the letter: the command is cut out of the message, run as it is, and cures."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips

EXTRACT = ("--blocks", "placeholder", "--signals", "raw", "--max-error-rate", "1")


class Place:
    """A folder with a list of two clips and their features."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.store, self.clips = folder / "store", folder / "clips.csv"
        self.write_list(folder / "audio")
        self.extract()

    def write_list(self, audio: Path, *more: str) -> None:
        audio.mkdir(exist_ok=True)
        names = ("a", "b", *more)
        for number, name in enumerate(names):
            soundfile.write(audio / f"{name}.wav", np.random.default_rng(number).normal(0, 0.1, 16_000), 16_000)
        rows = [{"clip_id": name, "uri": str(audio / f"{name}.wav")} for name in names]
        write_clips(clip_table(rows), str(self.clips))

    @property
    def block(self) -> Path:
        """The folder of the features."""
        (found,) = self.store.glob("features/placeholder/*")
        return found

    def parts(self) -> list[Path]:
        return sorted(self.block.glob("part-*"))

    def run(self, *command: str, ends: int = 0) -> str:
        """Run a command that is to end with a code, and return what it says."""
        self._capsys.readouterr()
        assert main(command) == ends
        said = self._capsys.readouterr()
        return said.out + said.err

    def extract(self, *options: str, ends: int = 0) -> str:
        given = ("--clips", str(self.clips), "--store", str(self.store), *EXTRACT, *options)
        return self.run("extract", *given, ends=ends)

    def export(self, ends: int = 0) -> str:
        out = str(self.folder / "out.csv")
        return self.run("store", "export", str(self.store), "--block", "placeholder", "--out", out, ends=ends)


def advised(said: str, command: str) -> list[str]:
    """Return the words of a command that a message advises to run."""
    found = re.search(rf"acoustic-env ({command}.*?)(?:[\n;)]|\.? names |\.? removes |\.? See|\.? *$)", said)
    assert found is not None, said
    return shlex.split(found[1])


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_cluster: object) -> Place:
    return Place(tmp_path, capsys)


@pytest.mark.parametrize("damage", [Path.unlink, lambda part: part.write_bytes(part.read_bytes()[:50])])
def test_a_lost_part_is_named_by_the_verify_that_export_advises_and_mended_by_its_extract(
    place: Place, damage: object
) -> None:
    (part,) = place.parts()
    assert callable(damage)
    damage(part)
    said = place.export(ends=5)
    assert part.name in place.run(*advised(said, "store verify"), ends=5)
    place.extract()
    place.run("store", "verify", str(place.store), "--clips", str(place.clips))
    place.export()


def test_compact_replaces_nothing_of_a_damaged_table_and_the_verify_it_advises_names_the_part(place: Place) -> None:
    place.write_list(place.folder / "audio", "c")
    place.extract()
    part, _ = place.parts()
    part.write_bytes(part.read_bytes()[:50])
    said = place.run("store", "compact", str(place.store), ends=5)
    assert part.name in place.run(*advised(said, "store verify"), ends=5)


@pytest.mark.parametrize("how", ["before there were manifests", "damaged", "gone"])
def test_a_table_without_its_manifest_is_taken_over_by_the_advised_compact(place: Place, how: str) -> None:
    for manifest in place.block.glob("manifest-*"):
        if how == "damaged":
            manifest.write_text("{")
        else:
            manifest.unlink()
    said = place.export(ends=2 if how != "damaged" else 5)
    place.run(*advised(said, "store compact"))
    place.export()
    place.run("store", "verify", str(place.store), "--clips", str(place.clips))


def test_parts_that_no_manifest_names_are_removed_by_the_advised_gc(place: Place) -> None:
    (part,) = place.parts()
    left = Path(shutil.copy(part, part.with_name(f"part-{'0' * 8}-left.parquet")))
    os.utime(left, (0, 0))
    said = place.run("store", "verify", str(place.store))
    assert "1 parts that no manifest names" in said
    place.run(*advised(said, "store gc"))
    assert place.parts() == [part]
    assert "no manifest names" not in place.run("store", "verify", str(place.store))


def test_the_errors_that_a_run_points_to_are_shown_and_the_list_without_what_is_gone_is_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    shutil.rmtree(place.store)
    (place.folder / "audio" / "b.wav").unlink()
    said = place.extract("--max-error-rate", "0.1", ends=3)
    assert "not_found" in place.run(*advised(said, "store errors"))
    place.run(*advised(said, "clips check"))
    place.clips = place.folder / "NEW.parquet"
    assert "1 on the list, 0 with something missing" in place.extract("--max-error-rate", "0")


def test_audio_that_moved_is_known_again_by_the_advised_option(place: Place) -> None:
    (place.folder / "audio").rename(place.folder / "moved")
    place.write_list(place.folder / "moved")
    said = place.extract(ends=2)
    option = re.search(r"--relocated \S+", said)
    assert option is not None
    place.extract(*shlex.split(option[0]))
    place.run("store", "verify", str(place.store), "--clips", str(place.clips))


def test_a_block_that_is_not_there_is_named_beside_those_that_are(place: Place) -> None:
    said = place.run("store", "export", str(place.store), "--block", "mps", "--out", "x.npz", ends=2)
    assert "(there: placeholder)" in said
    assert "compute it with acoustic-env extract" in said
