"""The classification page as a person meets it, in headless Chromium with a microphone that plays a file."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.audit.chromium import Chromium
from tests.sounds import tone
from tests.web.fake import HIGH, LOW, Client, serving, wav

pytestmark = pytest.mark.slow

RATE = 16_000
SOUND = np.concatenate([tone(3.0, RATE, 300.0), tone(1.5, RATE, 3_000.0)])
DONE = "document.getElementById('status').textContent.startsWith('Done')"
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
