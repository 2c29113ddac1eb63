"""Weights: fetched once, known by their checksum, never half there."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from acoustic_env.cli import main
from acoustic_env.errors import UsageError
from acoustic_env.features.block import fingerprint
from acoustic_env.features.embedders import weights_cache
from acoustic_env.features.embedders.weights import (
    class_names,
    converted,
    fit_state,
    local_weights,
    read_arrays,
    read_checkpoint,
    weights_sha256,
)
from acoustic_env.features.embedders.weights_cache import ENVIRONMENT, WeightsCache
from acoustic_env.features.embedders.weights_fetch import fetch
from acoustic_env.features.embedders.weights_registry import WEIGHTS, weights_source
from acoustic_env.features.registry import make_block
from acoustic_env.io import retry

VGGISH = weights_source("vggish-tfhub")  # no published checksum
TFLITE = weights_source("yamnet-tflite")  # a published one


@pytest.fixture
def tflite(test_data: Path) -> Path:
    return test_data / "weights" / "yamnet.tflite"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "vggish_1.tar.gz"
    path.write_bytes(b"seeded weights" * 1000)
    return path


def test_what_is_fetched_lies_whole_in_the_cache_with_its_record(cache: Path, tflite: Path) -> None:
    fetch(TFLITE, WeightsCache(), str(tflite))
    assert local_weights("yamnet-tflite").read_bytes() == tflite.read_bytes()
    record = json.loads((cache / "yamnet.tflite.json").read_text())
    assert (record["sha256"], record["trust"], record["origin"]) == (TFLITE.sha256, "published", str(tflite))
    assert not list(cache.glob(".partial-*"))
    assert weights_sha256("yamnet-tflite") == TFLITE.sha256


def test_a_truncated_file_is_refused_and_nothing_is_placed(cache: Path, tflite: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(tflite.read_bytes()[:1_000_000])
    with pytest.raises(UsageError, match=r"truncated \(1,000,000 of 3,959,752 bytes\)"):
        fetch(TFLITE, WeightsCache(), str(cut))
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".lock")] == []


def test_a_tampered_file_is_refused(cache: Path, tflite: Path, tmp_path: Path) -> None:
    data = bytearray(tflite.read_bytes())
    data[1_000_000] ^= 1
    (tmp_path / "bent.tflite").write_bytes(data)
    with pytest.raises(UsageError, match=f"not the published file: sha256 is .*, expected {TFLITE.sha256}"):
        fetch(TFLITE, WeightsCache(), str(tmp_path / "bent.tflite"))


def test_a_checksum_that_nobody_published_is_trusted_once_and_then_held_to(cache: Path, archive: Path) -> None:
    record = fetch(VGGISH, WeightsCache(), str(archive))
    assert record.trust == "first fetch"
    assert record.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    (cache / VGGISH.file_name).write_bytes(b"other bytes")
    with pytest.raises(UsageError, match=r"damaged since it was fetched.*weights fetch vggish-tfhub --force"):
        local_weights("vggish-tfhub")


def test_a_given_checksum_rules(cache: Path, archive: Path) -> None:
    with pytest.raises(UsageError, match="expected 00"):
        fetch(VGGISH, WeightsCache(), str(archive), "00" * 32)
    assert (
        fetch(VGGISH, WeightsCache(), str(archive), hashlib.sha256(archive.read_bytes()).hexdigest()).trust == "given"
    )


def test_absent_weights_name_the_command_and_the_file_to_place(cache: Path) -> None:
    for ask in (weights_sha256, local_weights):
        with pytest.raises(UsageError) as caught:
            ask("yamnet-tfhub")
        assert "acoustic-env weights fetch yamnet-tfhub" in str(caught.value)
        assert f"place it as {cache}/yamnet_1.tar.gz" in str(caught.value)


def test_a_file_placed_by_hand_is_checked_and_taken(cache: Path, tflite: Path) -> None:
    cache.mkdir()
    (cache / TFLITE.file_name).write_bytes(tflite.read_bytes())
    assert weights_sha256("yamnet-tflite") == TFLITE.sha256
    assert json.loads((cache / "yamnet.tflite.json").read_text())["origin"] == "placed by hand"


def test_a_wrong_file_placed_by_hand_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / TFLITE.file_name).write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="truncated or not the published file"):
        local_weights("yamnet-tflite")


def test_without_a_network_one_line_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setitem(WEIGHTS, "vggish-tfhub", replace(VGGISH, url="http://127.0.0.1:9/vggish_1.tar.gz"))
    assert main(["weights", "fetch", "vggish-tfhub"]) == 2
    message = capsys.readouterr().err
    assert "http://127.0.0.1:9/vggish_1.tar.gz: cannot be read: ClientConnectorError" in message
    assert "weights fetch vggish-tfhub --from vggish_1.tar.gz" in message
    assert "Traceback" not in message


class _Published(http.server.BaseHTTPRequestHandler):
    """An origin that breaks off the first `broken` downloads."""

    broken = 0

    def do_GET(self) -> None:
        type(self).broken -= 1
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"x" * (1200 if type(self).broken >= 0 else 5000))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Published)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/vggish_1.tar.gz"
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_is_tried_again(cache: Path, origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Published, "broken", 2)
    assert fetch(replace(VGGISH, url=origin), WeightsCache()).size == 5000


def test_a_download_that_always_breaks_off_is_an_error(
    cache: Path, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Published, "broken", 1000)
    with pytest.raises(UsageError, match=r"vggish_1.tar.gz: cannot be read: ClientPayloadError.*after 7 tries"):
        fetch(replace(VGGISH, url=origin), WeightsCache())
    assert WeightsCache().holds(VGGISH) is None


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(
    cache: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weights_cache.shutil, "copyfile", full)
    with pytest.raises(UsageError, match=f"no space left.*{ENVIRONMENT}"):
        fetch(VGGISH, WeightsCache(), str(archive))
    assert WeightsCache().holds(VGGISH) is None
    assert not list(cache.glob(".partial-*"))


def test_too_little_space_is_noticed_before_writing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(weights_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match="no space left for 327 MB"):
        fetch(weights_source("panns-cnn14"), WeightsCache(), "anything")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"memory://weights-{tmp_path.name}"
    monkeypatch.setenv(ENVIRONMENT, url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return url


def test_a_remote_cache_is_copied_once_per_node(bucket: str, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(VGGISH, WeightsCache(), str(archive))
    memory = fsspec.filesystem("memory")
    downloads = []
    get_file = memory.get_file

    def counted(*arguments: object, **options: object) -> object:
        downloads.append(arguments)
        time.sleep(0.05)  # long enough for the others to come by
        return get_file(*arguments, **options)

    monkeypatch.setattr(type(memory), "get_file", lambda self, *a, **o: counted(*a, **o))
    workers = [threading.Thread(target=local_weights, args=("vggish-tfhub",)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(downloads) == 1
    assert local_weights("vggish-tfhub").read_bytes() == archive.read_bytes()


def test_a_remote_file_that_was_changed_is_refused(bucket: str, archive: Path) -> None:
    fetch(VGGISH, WeightsCache(), str(archive))
    fsspec.filesystem("memory").pipe_file(f"{bucket}/{VGGISH.file_name}", b"changed")
    with pytest.raises(UsageError, match="its record says"):
        local_weights("vggish-tfhub")
    assert main(["weights", "verify"]) == 2


def test_a_damaged_copy_of_a_remote_file_is_made_again(bucket: str, archive: Path) -> None:
    fetch(VGGISH, WeightsCache(), str(archive))
    local_weights("vggish-tfhub").write_bytes(b"damaged")
    assert local_weights("vggish-tfhub").read_bytes() == archive.read_bytes()


def test_conversion_happens_once_and_is_checked(bucket: str, archive: Path) -> None:
    fetch(VGGISH, WeightsCache(), str(archive))
    sources = []

    def convert(source: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        sources.append(source)
        return {"weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}, {"classes": ["a", "b"]}

    for _ in range(2):
        path, details = converted("vggish-tfhub", convert)
    assert len(sources) == 1
    assert details == {"classes": ["a", "b"]}
    np.testing.assert_array_equal(read_arrays(path)["weight"], [[0, 3], [1, 4], [2, 5]])
    assert weights_sha256("vggish-tfhub") in path.name
    path.write_bytes(b"damaged")
    assert read_arrays(converted("vggish-tfhub", convert)[0])["weight"].shape == (3, 2)
    assert len(sources) == 1


def test_processes_that_convert_at_once_convert_once(cache: Path, archive: Path, tmp_path: Path) -> None:
    fetch(VGGISH, WeightsCache(), str(archive))
    program = f"""
import time, numpy, pathlib
from acoustic_env.features.embedders.weights import converted
def convert(path):
    with open({str(tmp_path / "log")!r}, "a") as log:
        log.write("converted\\n")
    time.sleep(0.5)
    return {{"a": numpy.zeros(3)}}, {{}}
converted("vggish-tfhub", convert)
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "converted\n"


def test_a_checkpoint_that_would_run_code_is_refused(cache: Path, tmp_path: Path) -> None:
    torch.save({"model": _Evil()}, tmp_path / "evil.pth")
    source = weights_source("mn04")
    fetch(source, WeightsCache(), str(tmp_path / "evil.pth"), _sha256(tmp_path / "evil.pth"))
    with pytest.raises(UsageError, match="not a checkpoint that PyTorch can read safely"):
        read_checkpoint("mn04")


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("code from a checkpoint",)


def test_tensors_of_another_network_are_refused_by_name() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    state = {
        "0.weight": torch.zeros(2, 4),
        "0.bias": torch.zeros(2),
        "1.weight": torch.zeros(1, 2),
        "9.x": torch.zeros(1),
    }
    with pytest.raises(UsageError) as caught:
        fit_state(network, state, "mn04")
    for part in ("1.bias missing", "9.x not of this network", "0.weight of shape (2, 4), expected (2, 3)"):
        assert part in str(caught.value)


def test_class_names_come_from_the_published_lists(cache: Path, test_data: Path) -> None:
    fetch(weights_source("audioset-classes"), WeightsCache(), str(test_data / "audioset"))
    names = class_names("mn04")
    assert (len(names), names[0], names[526]) == (527, "Speech", "Field recording")
    assert class_names("vggish-tfhub") == ()


def test_a_folder_fills_the_cache_with_what_it_has(
    cache: Path, test_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights", "fetch", "--from", str(test_data / "weights")]) == 0
    assert capsys.readouterr().out.split() == [
        f"{cache}/{name}" for name in ("yamnet.tflite", "mn04_as_mAP_432.pt", "yamnet_class_map.csv")
    ]
    assert main(["weights", "verify"]) == 0
    assert capsys.readouterr().out.split() == ["yamnet-tflite:", "right", "mn04:", "right", "yamnet-classes:", "right"]
    assert main(["weights", "verify", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["weights"].values()) == {"right"}
    assert main(["weights", "ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["weights"]}
    assert rows["mn04"]["in_cache"]
    assert rows["mn04"]["sha256"] == rows["mn04"]["published_sha256"]
    assert not rows["panns-cnn14"]["in_cache"]


def test_a_second_fetch_does_not_fetch(cache: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "vggish-tfhub", "--from", str(archive)]) == 0
    archive.unlink()
    assert main(["weights", "fetch", "vggish-tfhub", "--from", str(archive)]) == 0
    assert "in the cache already" in capsys.readouterr().err


@pytest.mark.slow
def test_fetched_weights_that_cannot_be_converted_say_why(
    cache: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorflow_hub")
    assert main(["weights", "fetch", "vggish-tfhub", "--from", str(archive)]) == 0
    assert "not converted yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["fetch", "no-such-weights"],
        ["fetch", "--from", "/no/such/file"],
        ["fetch", "mn04", "--from", "/no/such/file"],
        ["fetch", "--sha256", "00"],
        ["verify", "mn04"],
    ],
)
def test_wrong_use_ends_with_exit_code_2(cache: Path, arguments: list[str]) -> None:
    assert main(["weights", *arguments]) == 2


def test_a_bucket_that_cannot_be_reached_is_a_clear_error(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        msg = "Forbidden"
        raise PermissionError(msg)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", denied)
    with pytest.raises(UsageError, match=r"cannot be read.*Forbidden.*credentials"):
        weights_sha256("vggish-tfhub")


def test_weights_fetched_anew_change_the_fingerprint(cache: Path, archive: Path) -> None:
    block = make_block("vggish", "fast")
    prints = []
    for content in (b"one edition", b"another"):
        archive.write_bytes(content)
        fetch(VGGISH, WeightsCache(), str(archive))
        prints.append(fingerprint(block, {}))
    assert len(set(prints)) == 2


def test_a_cache_of_an_unknown_kind_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "nosuch://bucket")
    with pytest.raises(UsageError, match=f"{ENVIRONMENT}=nosuch://bucket"):
        WeightsCache()


def test_every_entry_says_where_it_is_from_and_under_which_licence() -> None:
    for source in WEIGHTS.values():
        assert source.url.startswith("https://")
        assert source.license
        assert source.sha256 is None or len(source.sha256) == 64
        assert source.class_list is None or source.class_list in WEIGHTS


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
