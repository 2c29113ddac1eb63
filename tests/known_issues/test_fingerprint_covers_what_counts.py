"""Fingerprints covered too much: a release of a library that was not called made millions of rows count as missing.

The fast engine's fingerprints named the releases of scikit-maad and soundsig, which it does not call, and one
fingerprint covered all signals, so that the rows of raw changed with the separator.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from acoustic_env.audio import decode, normalize, separate
from acoustic_env.audio.signals import Engine
from acoustic_env.cli import main
from acoustic_env.clips.listed import Listed
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.errors import UsageError
from acoustic_env.features import indices, modulation
from acoustic_env.features.embedders import placeholder
from acoustic_env.models.data.matrix import load_matrix
from acoustic_env.pipeline.books import find_missing
from acoustic_env.pipeline.compute import Compute, ComputeSettings
from acoustic_env.pipeline.sink import Write
from acoustic_env.pipeline.task import Task
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.store.export import export
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.pipeline.tasks import pending
from tests.store.tables import begin

Patch = pytest.MonkeyPatch
BLOCKS = ("indices", "mps", "placeholder")
ENGINES: tuple[Engine, ...] = ("fast", "reference")
SIGNALS = ("raw", "fg", "bg")


def fingerprints(engine: Engine, options: Mapping[str, Any] | None = None) -> dict[tuple[str, str], str]:
    """(block, signal) -> fingerprint."""
    works = [block_work(BlockSpec(name, engine, i, SIGNALS, options or {})) for i, name in enumerate(BLOCKS)]
    return {(work.spec.name, signal): found for work in works for signal, found in work.fingerprints.items()}


def changed(engine: Engine, change: Callable[[], None]) -> set[tuple[str, str]]:
    """The (block, signal) pairs whose fingerprints a change changes."""
    before = fingerprints(engine)
    change()
    after = fingerprints(engine)
    return {key for key in before if before[key] != after[key]}


def all_of(blocks: tuple[str, ...] = BLOCKS, signals: tuple[str, ...] = SIGNALS) -> set[tuple[str, str]]:
    return {(block, signal) for block in blocks for signal in signals}


def release(monkeypatch: Patch, library: str) -> Callable[[], None]:
    """A new release of one library."""
    known = importlib.metadata.version

    def version(name: str) -> str:
        return "999.0" if name == library else known(name)

    def install() -> None:
        monkeypatch.setattr(importlib.metadata, "version", version)
        for module in (separate, indices, modulation):
            monkeypatch.setattr(module, "version", version)

    return install


@pytest.mark.parametrize(
    ("library", "computes"),
    [
        ("scikit-maad", all_of(("indices",))),
        ("soundsig", all_of(("mps",))),
        ("noisereduce", all_of(BLOCKS, ("fg", "bg"))),
        ("librosa", set()),
        ("numpy", set()),
        ("torch", set()),
        ("soundfile", set()),
        ("soxr", set()),
    ],
)
def test_a_release_counts_where_the_library_computes_the_number(
    monkeypatch: Patch, library: str, computes: set[tuple[str, str]]
) -> None:
    reference = changed("reference", release(monkeypatch, library))
    monkeypatch.undo()
    assert reference == computes
    assert changed("fast", release(monkeypatch, library)) == set()


SEPARATION = [name for name in separate.GATE if name not in ("n_jobs", "use_tqdm")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SEPARATION)
def test_a_separation_parameter_changes_fg_and_bg_and_not_raw(monkeypatch: Patch, engine: Engine, name: str) -> None:
    value = separate.GATE[name]
    other = not value if isinstance(value, bool) else value * 2

    def change() -> None:
        monkeypatch.setitem(separate.GATE, name, other)

    assert changed(engine, change) == all_of(BLOCKS, ("fg", "bg"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("module", "name", "value", "expected"),
    [
        (decode, "VERSION", 99, all_of()),
        (decode, "RESAMPLER", "soxr VHQ", all_of()),
        (normalize.RawSignal, "version", 99, all_of()),
        (normalize, "RMS", 0.2, all_of()),
        (normalize, "SILENCE_RMS", 1e-6, all_of()),
        (separate, "ROUNDING", 1e-9, all_of(BLOCKS, ("fg", "bg"))),
        (separate, "SEPARATION_VERSION", {"fast": 99, "reference": 99}, all_of(BLOCKS, ("fg", "bg"))),
        (indices.IndicesBlock, "version", 99, all_of(("indices",))),
        (indices, "SAMPLE_RATE", 32_000, all_of(("indices",))),
        (modulation.ModulationBlock, "version", 99, all_of(("mps",))),
        (modulation, "WINDOW_S", 0.3, all_of(("mps",))),
        (modulation, "MAX_TEMPORAL_HZ", 9.0, all_of(("mps",))),
        (modulation, "MIN_SAMPLES", 9_999, all_of(("mps",))),
        (placeholder, "SEED", 99, all_of(("placeholder",))),
    ],
)
def test_what_can_change_a_number_changes_the_fingerprints_of_those_numbers(
    monkeypatch: Patch, engine: Engine, module: Any, name: str, value: Any, expected: set[tuple[str, str]]
) -> None:
    assert changed(engine, lambda: monkeypatch.setattr(module, name, value)) == expected


def test_a_resampler_of_another_minor_release_counts_and_a_patch_does_not(monkeypatch: Patch) -> None:
    import soxr

    monkeypatch.setattr(soxr, "__libsoxr_version__", "0.1.3")
    assert changed("fast", lambda: monkeypatch.setattr(soxr, "__libsoxr_version__", "0.1.4-2-gabc")) == set()
    assert changed("fast", lambda: monkeypatch.setattr(soxr, "__libsoxr_version__", "0.2.0")) == all_of()


def test_engines_differ_where_they_compute_differently() -> None:
    fast, reference = fingerprints("fast"), fingerprints("reference")
    assert all(fast[key] != reference[key] for key in fast)
    assert all(found[block, "fg"] == found[block, "bg"] for found in (fast, reference) for block in BLOCKS)


def compute_missing(clips: str, url: str) -> dict[str, int]:
    """What `extract` does, in this process, where the separator can be changed: what the sink says it wrote."""
    works = (block_work(BlockSpec("placeholder", "fast", 0, SIGNALS)),)
    table, store = read_clips(clips), FeatureStore(url)
    rows = pending(table, find_missing(Listed([table]), works, store, store.errors()).pending)
    with acquire_blocks(url, [work.spec.name for work in works], "this test") as leases:
        begin(url, works, leases)
        written = Write(url, leases.tokens, works, "run-1")(0, Compute(ComputeSettings(works))(Task(rows)).pack())
    return written.rows


def test_after_a_change_of_the_separator_fg_and_bg_are_computed_and_raw_is_found(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, url = str(tmp_path / "clips.csv"), str(tmp_path / "store")
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(1).normal(0, 0.1, 16_000), 16_000)
    write_clips(clip_table([{"clip_id": name, "uri": str(tmp_path / f"{name}.wav")} for name in ("a", "b")]), clips)

    assert compute_missing(clips, url)["placeholder"] == 6
    store = FeatureStore(url)
    before = store.resolve("placeholder")
    assert before["fg"] == before["bg"] != before["raw"]
    for entry in store.parts("placeholder", before["raw"]):
        assert set(pq.read_table(Path(url) / entry.path)["signal"].to_pylist()) == {"raw"}
    old = store.read("placeholder")
    assert old.num_rows == 6
    assert json.loads(old.schema.metadata[b"acoustic_env.fingerprints"]) == before
    assert export(store, "placeholder", str(tmp_path / "wide.csv"), shape="wide").rows == 2
    assert load_matrix(store, ["a"], ["placeholder"], SIGNALS).fingerprints == {"placeholder": before}

    monkeypatch.setitem(separate.GATE, "prop_decrease", 0.5)
    arguments = ["extract", "--clips", clips, "--store", url, "--blocks", "placeholder", "--dry-run", "--json"]
    assert main(arguments) == 0
    planned = capsys.readouterr()
    assert json.loads(planned.out)["fingerprints"]["placeholder"]["raw"] == before["raw"]
    assert f"{before['raw']} (fast) raw: 0 clips, 0 rows pending" in planned.err
    assert "(fast) fg,bg: 2 clips, 4 rows pending" in planned.err

    assert compute_missing(clips, url)["placeholder"] == 4
    with pytest.raises(UsageError, match="several versions for signal fg"):
        store.resolve("placeholder", ["raw", "fg"])
    assert store.resolve("placeholder", ["raw"]) == {"raw": before["raw"]}
    other = next(found for found in store.blocks()["placeholder"] if found not in before.values())
    chosen = store.resolve("placeholder", SIGNALS, [before["raw"], other])
    assert chosen == {"raw": before["raw"], "fg": other, "bg": other}
    assert store.read("placeholder", chosen).num_rows == 6
    assert main(["store", "verify", url, "--clips", clips, "--strict"]) == 0
    shown = capsys.readouterr().out
    assert (shown.count("2 with rows"), shown.count("raw  2 listed")) == (5, 1)
