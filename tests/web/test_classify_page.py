"""The classification page as a person meets it, in headless Chromium with a microphone that plays a file."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

import acoustic_env
from acoustic_env import Predictor
from acoustic_env.audio.prepare import decode_and_resample, prepare
from acoustic_env.cli import main
from acoustic_env.clips.table import clip_table, write_clips
from acoustic_env.features.block import to_table
from acoustic_env.features.registry import make_block
from acoustic_env.pipeline.work import BlockSpec, block_work
from acoustic_env.store.feature_store import FeatureStore
from tests.audit.chromium import Chromium
from tests.sounds import silence, tone
from tests.web.fake import HIGH, LOW, Client, form, serving, wav

pytestmark = pytest.mark.slow

RATE = 16_000
SOUND = np.concatenate([tone(3.0, RATE, 300.0), tone(1.5, RATE, 3_000.0)])
DONE = "document.getElementById('status').textContent.startsWith('Done')"
CLASSES = {"Dog": "001 - Dog bark", "Rain": "002 - Rain"}
WEIGHTS = {"mn04": "weights/mn04_as_mAP_432.pt", "audioset-classes": "audioset/class_labels_indices.csv"}
HELD_OUT = "5"  # fold
RECIPE = """
task: multiclass
signals: [raw]
blocks: {mn04: {}}
split: {folds: 5, validation_folds: [3], test_folds: [4]}
model: {kind: logistic}
"""
READY = "document.getElementById('known-count').textContent.match(/\\d/)"


def text(browser: Chromium, name: str) -> str:
    return str(browser.value(f"document.getElementById('{name}').innerText"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(per_minute=10_000, max_megabytes=2.0) as made:
        yield made


@contextmanager
def opened(client: Client, folder: Path, *options: str) -> Iterator[Chromium]:
    with Chromium(folder / "profile", *options) as browser:
        browser.go(client.server.access.url)
        browser.wait(READY)
        yield browser
        assert not [line for line in browser.log if "Security Policy" in line]


def drop(browser: Chromium, file: bytes, name: str = "a.wav") -> None:
    browser.value(
        f"""(() => {{
          const bytes = Uint8Array.from(atob("{base64.b64encode(file).decode()}"), (c) => c.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "{name}"));
          document.body.dispatchEvent(new DragEvent("drop", {{dataTransfer, bubbles: true, cancelable: true}}));
        }})()"""
    )


def microphone(folder: Path, sound: np.ndarray, rate: int = RATE) -> tuple[str, ...]:
    """Options of a browser whose microphone plays a sound again and again."""
    (folder / "microphone.wav").write_bytes(wav(sound, rate))
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    return (*fake, f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}")


def test_a_dropped_file_is_classified_window_by_window_and_downloaded(client: Client, tmp_path: Path) -> None:
    with opened(client, tmp_path) as browser:
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        drop(browser, wav(SOUND), "<img src=x onerror=alert(1)>.wav")
        browser.wait(DONE)
        assert text(browser, "top") == f"{LOW}, 60 %"  # as text, tags and all
        browser.wait("document.activeElement.id === 'top'")
        assert (
            browser.value("[...document.querySelectorAll('#windows tr')].map((r) => r.className).join()")
            == "matters,,,,"
        )
        assert "0.0 to 1.0 s" in text(browser, "mattered")
        browser.value("document.getElementById('download').click()")
        for _ in range(100):
            if (tmp_path / "classes.csv").exists():
                break
            browser.value("new Promise((done) => setTimeout(done, 50))")
        lines = (tmp_path / "classes.csv").read_text().splitlines()
        assert lines[0] == f'start_s,end_s,of,unlike,"{LOW}","{HIGH}"'
        assert len(lines) == 1 + 5 + 1
        drop(browser, wav(silence(2.0)))
        browser.wait("!document.getElementById('unlike').hidden && !document.getElementById('record').disabled")
        drop(browser, b"no sound")
        browser.wait("!document.getElementById('notice').hidden")
        assert "not recognised" in text(browser, "notice")
        drop(browser, bytes(3_000_000))
        browser.wait("document.getElementById('notice').textContent.includes('at most 2 MB')")


def test_the_microphone_is_answered_while_it_is_open_and_as_a_whole(client: Client, tmp_path: Path) -> None:
    with opened(client, tmp_path, *microphone(tmp_path, tone(5.0, RATE, 3_000.0))) as browser:
        for _ in range(2):  # by keyboard: the class list, then the button
            browser.press("Tab")
        assert browser.value("document.activeElement.id") == "record"
        browser.press("Enter")
        browser.wait("document.querySelectorAll('#windows tr').length >= 2")
        assert text(browser, "top").startswith(f"Now: {HIGH}")
        assert browser.value("document.getElementById('level').value") > -50
        assert browser.value("document.activeElement.id") == "stop"
        browser.press("Enter")
        browser.wait(DONE)
        assert text(browser, "top").startswith(f"{HIGH}, ")
        assert browser.value("document.getElementById('live').hidden")


@pytest.fixture(scope="module")
def esc10_bundle(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A logistic regression on mn04 embeddings of clips of two classes, fold 5 left out."""
    folder = tmp_path_factory.mktemp("esc10")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ACOUSTIC_ENV_WEIGHTS", str(folder / "weights"))
        for weights, place in WEIGHTS.items():
            assert main(["weights", "fetch", weights, "--from", str(test_data / place)]) == 0
        rows = [
            {"clip_id": path.stem, "uri": str(path), "labels": [label], "group": path.stem, "fold": int(path.name[0])}
            for label, name in CLASSES.items()
            for path in sorted((test_data / "clips" / "esc10" / name).glob("*.ogg"))
            if path.name[0] != HELD_OUT
        ]
        write_clips(clip_table([row | {"start_s": 0.0, "end_s": 5.0} for row in rows]), f"{folder}/clips.parquet")
        work = block_work(BlockSpec("mn04", "fast", 0, ("raw",)))
        block = make_block("mn04", "fast")
        block.load("cpu")
        for row in rows:
            with Path(row["uri"]).open("rb") as source:
                samples = decode_and_resample(source, 0.0, 5.0, "clip", [block.sample_rate])
            raw = prepare(samples[block.sample_rate][None], block.sample_rate, "fast", ["raw"])["raw"]
            table = to_table(work.schemas["raw"], [row["clip_id"]], ["raw"], block.compute(raw))
            FeatureStore(f"{folder}/store").write_part(table)
        (folder / "esc.yaml").write_text(RECIPE)
        acoustic_env.train(f"{folder}/clips.parquet", f"{folder}/store", folder / "esc.yaml").save(folder / "bundle")
        yield folder / "bundle"


def test_a_dogs_bark_is_called_one(test_data: Path, esc10_bundle: Path, tmp_path: Path) -> None:
    bark = next((test_data / "clips" / "esc10" / CLASSES["Dog"]).glob(f"{HELD_OUT}-*.ogg"))
    sound, rate = soundfile.read(bark, dtype="float32")
    with (
        serving(Predictor.load(esc10_bundle)) as client,
        opened(client, tmp_path, *microphone(tmp_path, sound, rate)) as browser,
    ):
        browser.value("document.getElementById('record').click()")
        browser.wait("document.querySelectorAll('#windows tr').length >= 1", 60)
        assert text(browser, "top").startswith("Now: Dog")
        browser.value("document.getElementById('stop').click()")
        browser.wait(DONE, 60)
        assert text(browser, "top").startswith("Dog, ")


def test_the_command_serves_the_api_until_it_is_interrupted(test_data: Path, esc10_bundle: Path) -> None:
    bark = next((test_data / "clips" / "esc10" / CLASSES["Dog"]).glob(f"{HELD_OUT}-*.ogg"))
    command = [sys.executable, "-m", "acoustic_env.cli", "serve", "--bundle", str(esc10_bundle), "--window", "2.5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(found[1] for line in process.stderr if (found := re.search(r"page: http://(\S+)/", line)))
        body, kind = form(bark.read_bytes())
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/api/v1/predict", body, {"Content-Type": kind})
        answer = json.loads(connection.getresponse().read())
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 0
    predictor = Predictor.load(esc10_bundle, window_s=2.5)
    expected = predictor.pool(predictor.predict_windows(bark))
    assert answer["recording"]["posterior"] == pytest.approx(expected.posterior, abs=1e-9)


def test_without_a_microphone_the_page_says_so(client: Client, tmp_path: Path) -> None:
    with opened(client, tmp_path, "--deny-permission-prompts") as browser:
        browser.value("document.getElementById('record').click()")
        browser.wait("!document.getElementById('notice').hidden")
        assert not browser.value("document.getElementById('record').disabled")


@pytest.mark.parametrize("width", [375, 1100])
def test_nothing_sticks_out_in_light_and_dark(client: Client, tmp_path: Path, width: int) -> None:
    with opened(client, tmp_path) as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        drop(browser, wav(SOUND))
        browser.wait(DONE)
        assert browser.value("document.documentElement.scrollWidth") <= width
        grounds = set()
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            grounds.add(browser.value("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
        small = "[...document.querySelectorAll('button')].filter((b) => b.offsetParent && b.offsetHeight < 40).length"
        assert browser.value(small) == 0


def test_axe_finds_no_violation(client: Client, tmp_path: Path) -> None:
    source = Path(os.environ.get("ACOUSTIC_ENV_AXE", ""))  # axe.min.js of axe-core
    if not source.is_file():
        pytest.skip("ACOUSTIC_ENV_AXE names no axe.min.js (npm install axe-core)")
    with opened(client, tmp_path) as browser:
        drop(browser, wav(SOUND))
        browser.wait(DONE)
        browser.value(source.read_text(encoding="utf-8"))
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            found = "axe.run().then((r) => r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html).join(' ')))"
            assert browser.value(found) == []
