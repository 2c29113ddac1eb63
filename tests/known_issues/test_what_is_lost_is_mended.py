"""`store verify` said "acoustic-env extract computes again what is lost", and that stayed so for ever.

A part of clips that the list no longer has, or a part of the errors table, was never dropped: the list lacked nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips


@pytest.mark.usefixtures("ray_cluster")
def test_the_advice_of_verify_mends_what_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    lists = {"first": ["a", "bad"], "second": ["gone"]}
    for name in ("a", "gone"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(1).normal(0, 0.1, 16_000), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"no sound" * 99)
    for name, ids in lists.items():
        rows = [{"clip_id": clip, "uri": str(tmp_path / f"{clip}.wav")} for clip in ids]
        write_clips(clip_table(rows), str(tmp_path / f"{name}.csv"))

    def extract(name: str) -> str:
        options = ["--blocks", "placeholder", "--signals", "raw", "--max-error-rate", "1"]
        assert main(["extract", "--clips", str(tmp_path / f"{name}.csv"), "--store", str(store), *options]) == 0
        return capsys.readouterr().err

    extract("first")
    before = set(store.glob("features/*/*/part-*"))
    extract("second")
    (part,) = set(store.glob("features/*/*/part-*")) - before
    part.unlink()
    (errors,) = store.glob("errors/part-*")
    errors.write_bytes(errors.read_bytes()[:50])
    verify = ["store", "verify", str(store), "--clips", str(tmp_path / "first.csv")]
    assert main(verify) == 5
    assert main(["store", "errors", str(store)]) == 5
    capsys.readouterr()
    said = extract("first")
    assert part.name in said
    assert errors.name in said
    assert main(verify) == 0
    assert "1 permanent errors + 0 pending" in capsys.readouterr().out
    assert main(["store", "verify", str(store), "--clips", str(tmp_path / "second.csv")]) == 0
    assert "1 pending" in capsys.readouterr().out
