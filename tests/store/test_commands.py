"""store ls, verify, errors, export: what a person and a program see, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest

from acoustic_env import open_store
from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.errors import StoreInconsistentError
from acoustic_env.store import export as export_module
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_blocks
from tests.store.tables import SIGNALS, FakeBlock, fake_errors, fake_fingerprint, fake_table

FP = fake_fingerprint()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Four clips of five with rows or an error, one pending; a second version of the block with one clip."""
    url = str(tmp_path / "store")
    store = FeatureStore(url)
    store.write_part(fake_table(["b", "a"]))
    store.write_part(fake_table(["silent"]))
    store.write_errors(
        fake_errors(
            ("broken", "source", "not_audio", True, 1),
            ("slow", "source", "download_failed", False, 1),
            ("a", "source", "download_failed", False, 1),
            ("a", "source", "resolved", False, 2),
        )
    )
    counts = {"finished": 5, "failed": 2, "left": 1, "clips_per_second": 2.5}
    store.write_run("run-1", {"run_id": "run-1", "fingerprints": {"fake": dict.fromkeys(SIGNALS, FP)}, **counts})
    return url


@pytest.fixture
def listed(tmp_path: Path) -> str:
    out = str(tmp_path / "clips.csv")
    write_clips(clip_table([{"clip_id": c, "uri": "x"} for c in ("a", "b", "silent", "broken", "slow")]), out)
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["store", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"", "it: Invalid JSON"),
        (b"[1]", "it: Input should be an object"),
        (b'{"settings": null}', "settings: Input should be an object"),
        (b'{"fingerprints": {"fake": [1]}}', "fingerprints.fake: Input should be an object"),
        (b'{"finished": "x"}', "finished: Input should be a valid integer"),
    ],
)
def test_a_damaged_run_record_is_named_and_left_out(
    damage: bytes,
    said: str,
    url: str,
    listed: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    FeatureStore(url).filesystem.write("runs/run-2/record.json", damage)
    assert "run run-1: 5 finished" in run(capsys, "ls", url)[1]
    assert run(capsys, "verify", url, "--clips", listed)[0] == 0
    assert f"runs/run-2/record.json: a damaged run record, left out: {said}" in caplog.text


def test_ls_shows_versions_and_where_they_differ(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore(url).write_part(fake_table(["a"], block=FakeBlock(scale=2.0)))
    with acquire_blocks(url, ["fake"], "extract run-2"):
        code, out, _ = run(capsys, "ls", url)
    assert code == 0
    assert f"fake/{FP} has parameters.scale = 1.0" in out
    assert "made with library 1.2.3" in out
    assert "run run-1: 5 finished, 2 failed, 1 left at 2.50 clips/s" in out
    assert "lease of fake: 'extract run-2'" in out
    _, out, _ = run(capsys, "ls", url, "--json")
    found = {block["fingerprint"]: block for block in json.loads(out)["blocks"]}
    assert (found[FP]["rows"], found[FP]["parts"], sorted(found[FP]["signals"])) == (6, 2, ["fg", "raw"])
    assert json.loads(out)["leases"] == {}


def test_verify_accounts_for_every_clip_of_the_list(url: str, listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", url, "--clips", listed)
    assert code == 0
    assert "raw  5 listed = 3 with rows + 1 permanent errors + 1 pending (1 failed before)" in out
    assert "every clip is accounted for" in out
    code, _, err = run(capsys, "verify", url, "--clips", listed, "--strict")
    assert code == 5
    assert "1 clips pending, such as slow" in err
    code, out, _ = run(capsys, "verify", url, "--clips", listed, "--signals", "raw,bg", "--json")
    (block,) = json.loads(out)["blocks"]
    assert [(b["signal"], b["rows"], b["pending"]) for b in block["counts"]] == [("raw", 3, 1), ("bg", 0, 4)]


def test_verify_ends_with_5_when_a_part_is_damaged(url: str, listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    part = FeatureStore(url).parts("fake", FP)[0]
    file = Path(url) / part.path
    file.write_bytes(file.read_bytes()[:-20])
    code, _, err = run(capsys, "verify", url, "--clips", listed)
    assert code == 5
    assert part.path in err


def test_no_command_passes_over_a_damaged_part(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = FeatureStore(url).parts("fake", FP)[1]
    (Path(url) / part.path).unlink()
    code, _, err = run(capsys, "export", url, "--block", "fake", "--out", str(tmp_path / "out.csv"))
    assert code == 5
    assert part.path in err
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(StoreInconsistentError, match=part.path):
        open_store(url).table("fake")
    assert run(capsys, "compact", url)[0] == 5


def test_a_block_of_which_every_clip_failed_is_accounted_for(
    tmp_path: Path, listed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore(str(tmp_path / "failed"))
    store.write_errors(fake_errors(*((c, "source", "not_audio", True, 1) for c in ("a", "b", "silent", "broken"))))
    store.write_run("run-1", {"run_id": "run-1", "fingerprints": {"fake": dict.fromkeys(SIGNALS, FP)}})
    code, out, _ = run(capsys, "verify", store.url, "--clips", listed)
    assert code == 0
    assert "raw  5 listed = 0 with rows + 4 permanent errors + 1 pending" in out
    assert run(capsys, "ls", store.url)[0] == 0


def test_rows_of_clips_not_on_the_list_are_noted(url: str, listed: str, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore(url).write_part(fake_table(["stranger"]))
    code, out, _ = run(capsys, "verify", url, "--clips", listed)
    assert code == 0
    assert "1 clips with rows are not on the list" in out


def test_errors_counts_by_block_and_code_and_leaves_out_the_cured(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "errors", url)
    assert code == 0
    assert out.split()[:5] == ["source", "download_failed", "1", "clips", "0"]
    assert "slow  source  download_failed  attempt 1: what happened" in out
    assert "\na  " not in out
    _, out, _ = run(capsys, "errors", url, "--all", "--json", "--code", "download_failed")
    assert [row["clip_id"] for row in json.loads(out)["errors"]] == ["a", "slow"]
    assert json.loads(out)["counts"] == [{"block": None, "code": "download_failed", "clips": 2, "permanent": 0}]


@pytest.mark.parametrize("wide", [False, True])
def test_export_writes_the_same_rows_in_every_format(
    url: str, tmp_path: Path, wide: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("parquet", "csv", "npz"):
        options = ["--wide"] if wide else []
        code, out, _ = run(capsys, "export", url, "--block", "fake", "--out", str(tmp_path / f"o.{suffix}"), *options)
        assert (code, out.split(": ")[1]) == (0, "3 rows\n" if wide else "6 rows\n")
    parquet = pq.read_table(tmp_path / "o.parquet")
    csv = pcsv.read_csv(tmp_path / "o.csv")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as npz:
        arrays = dict(npz)
    x, v = ("raw.x", "raw.v") if wide else ("x", "v")
    assert parquet["clip_id"].to_pylist() == csv["clip_id"].to_pylist() == arrays["clip_id"].tolist()
    assert parquet[x].to_pylist() == csv[x].to_pylist()
    np.testing.assert_array_equal(arrays[x], parquet[x].to_numpy())
    assert parquet[v].to_pylist() == arrays[v].tolist()
    assert csv[f"{v}_2"].to_pylist() == [row[2] for row in parquet[v].to_pylist()]
    if not wide:
        assert parquet.drop_columns(["uri", "start_s", "end_s"]).equals(FeatureStore(url).read("fake"))


def test_an_export_in_many_ranges_is_the_same_file_however_the_parts_were_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "RANGE_BYTES", 500)
    ids = [f"clip {i * 37 % 101:03d}" for i in range(101)]
    files = []
    for cut in (101, 7):
        store = FeatureStore(str(tmp_path / f"store-{cut}"))
        for start in range(0, len(ids), cut):
            store.write_part(fake_table(ids[start : start + cut]))
        store.write_part(fake_table(ids[:3]))  # keys that stand twice
        for suffix in ("csv", "npz"):
            out = tmp_path / f"{cut}.{suffix}"
            assert export_module.export(store, "fake", str(out)).rows == 202
        files.append([(tmp_path / f"{cut}.{suffix}").read_bytes() for suffix in ("csv", "npz")])
    assert files[0] == files[1]
    assert [line.split(",")[0] for line in files[0][0].decode().split("\n")[1:-1]] == sorted(f'"{i}"' for i in ids * 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--block", "fake", "--out", "x.xlsx"], "give a name that ends in .parquet or .csv or .npz"),
        (["--block", "none", "--out", "x.csv"], "holds no block 'none' (there: fake)"),
        (["--block", "fake", "--signals", "bg", "--out", "x.csv"], "holds no signal 'bg'; expected one of: raw, fg"),
        (["--block", "fake", "--columns", "q", "--out", "x.csv"], "no column 'q'"),
        (["--block", "fake", "--fingerprint", "fake=zz", "--out", "x.csv"], "has no fingerprint 'zz'"),
    ],
)
def test_wrong_options_of_export_say_what_there_is(
    url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, _, err = run(capsys, "export", url, *arguments)
    assert code == 2
    assert said in err


def test_a_path_beside_the_store_is_said_to_be_one(
    url: str, listed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    FeatureStore(url).filesystem.write(f"clips/part-{'0' * 32}.parquet", b"")
    study.mkdir()
    Path(url).rename(study / "features")
    inside = f"{study}/features"
    for place, said in (
        (str(study), f"holds a store; give {inside}"),
        (f"{inside}/features", f"is a part of a store; give {inside}"),
        (f"{inside}/features/fake/", f"is a part of a store; give {inside}"),
        (listed, "is a file, not a feature store"),
    ):
        for command in ("ls", "verify", "errors", "export", "compact", "gc"):
            options = ["--block", "fake", "--out", str(tmp_path / "o.csv")] if command == "export" else []
            code, _, err = run(capsys, command, place, *options)
            assert (code, said in err) == (2, True), (command, err)
    assert run(capsys, "ls", inside)[0] == 0


def test_the_only_block_needs_no_name(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "export", url, "--out", str(tmp_path / "fake.csv"))[0] == 0
    FeatureStore(url).write_part(fake_table(["a"], block=FakeBlock(name="other")))
    code, _, err = run(capsys, "export", url, "--out", str(tmp_path / "fake.csv"))
    assert code == 2
    assert "name one block with --block; there: fake, other" in err


def test_errors_that_are_not_there_are_said_with_what_was_asked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no open errors --code nope" in run(capsys, "errors", url, "--code", "nope")[1]


def test_a_column_named_twice_is_written_once(url: str, tmp_path: Path) -> None:
    out = tmp_path / "fake.csv"
    assert main(["store", "export", url, "--block", "fake", "--columns", "x,x", "--out", str(out)]) == 0
    assert out.read_text().splitlines()[0] == '"clip_id","signal","x"'


def test_a_folder_of_somebody_else_among_the_runs_is_passed_over(url: str) -> None:
    (Path(url) / "runs" / "my run").mkdir(parents=True)
    assert main(["store", "ls", url]) == 0


def test_a_store_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "verify", "errors"):
        code, out, err = run(capsys, command, str(tmp_path / "nothing"))
        assert (code, out) == (2, "")
        assert "there is no store" in err
