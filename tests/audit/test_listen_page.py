"""The annotation page as a person meets it, in headless Chromium."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.chromium import Chromium
from tests.audit.test_listen import ListenServer, server  # noqa: F401  a fixture

pytestmark = pytest.mark.slow

COUNT = "document.getElementById('count').textContent.startsWith('{} of 3')"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with Chromium(tmp_path / "profile") as made:
        yield made


def wait_until_ready(browser: Chromium) -> None:
    browser.wait("document.querySelector('#answers [data-answer=unsure]')?.disabled === false")
    time.sleep(0.3)  # an answer sooner than 0.25 s is taken for one meant for the clip before


def enter(browser: Chromium, name: str) -> None:
    browser.wait("document.activeElement.id === 'name'")
    browser.type(name)
    browser.press("Enter")
    wait_until_ready(browser)


def test_an_annotator_plays_answers_by_keyboard_and_finds_it_again_after_a_reload(
    server: ListenServer,  # noqa: F811
    browser: Chromium,
    tmp_path: Path,
) -> None:
    browser.go(server.url)
    browser.wait("!location.search")
    assert browser.value("document.cookie") == ""
    enter(browser, "Ada")
    browser.value("document.getElementById('autoplay').click()")
    while not browser.value("!document.getElementById('player').hidden"):  # two of the three clips cannot be played
        browser.press("s")
        wait_until_ready(browser)
    browser.press(" ")
    browser.wait("audio.currentTime > 0.2 && !audio.paused")
    browser.press(" ")
    browser.wait("audio.paused")
    browser.press("ArrowLeft")
    browser.wait("audio.currentTime === 0")
    label = browser.value("document.getElementById('label').textContent")
    assert label == "Dog"
    browser.press("n")
    browser.type("<img src=x onerror=alert(1)> 12")
    browser.press("Escape")
    browser.press("3")
    browser.wait(COUNT.format(1))
    (kept,) = server.session.annotations().to_pylist()
    assert (kept["clip_id"], kept["answer"], kept["annotator"]) == ("secret-dog/tone", "incomplete", "Ada")
    assert kept["note"] == "<img src=x onerror=alert(1)> 12"
    browser.call("Page.reload")
    browser.wait(COUNT.format(1))
    wait_until_ready(browser)
    browser.press("5")
    browser.wait(COUNT.format(2))
    browser.press("u")
    browser.wait(COUNT.format(1))
    assert [row["answer"] for row in rows_of(tmp_path / "v.csv")] == ["incomplete"]
    browser.value("document.getElementById('change-annotator').click()")
    enter(browser, "Grace")
    browser.wait(COUNT.format(0))
    for done in (1, 2, 3):
        wait_until_ready(browser)
        browser.press("5")
        browser.wait(COUNT.format(done))
    browser.wait("!document.getElementById('done').hidden")
    assert len(server.session.counted("Grace")) == 3
    assert not [line for line in browser.log if "Security Policy" in line]


def test_a_clip_without_audio_links_to_its_video_and_one_without_either_can_only_be_unsure(
    server: ListenServer,  # noqa: F811
    browser: Chromium,
) -> None:
    browser.go(server.url)
    enter(browser, "Ada")
    failed = "!document.getElementById('failed').hidden && {}document.getElementById('video-line').hidden"
    for has_video, enabled in (("!", 5), ("", 1)):
        while not browser.value(failed.format(has_video)):
            browser.press("s")
            wait_until_ready(browser)
        assert browser.value("document.querySelectorAll('#answers button:enabled').length") == enabled
    assert browser.value("document.getElementById('label').textContent") == "<b>Cat</b>"
    assert browser.value("document.getElementById('video').rel") == "noopener noreferrer"
    browser.press("1")
    browser.press("5")
    browser.wait(COUNT.format(1))
    assert [answer.answer for answer in server.session.counted().values()] == ["unsure"]


@pytest.mark.parametrize("width", [360, 390, 1100])
def test_nothing_sticks_out_at_any_width(server: ListenServer, browser: Chromium, width: int) -> None:  # noqa: F811
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=width < 500)
    browser.go(server.url)
    enter(browser, "Somebody with a rather long name, Esq.")
    assert browser.value("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('#work button')].filter((b) => b.offsetParent && b.offsetHeight < 40).length"
    assert browser.value(small) == 0


def test_another_sites_page_can_neither_read_nor_answer(server: ListenServer, browser: Chromium) -> None:  # noqa: F811
    browser.go(server.url)
    enter(browser, "Ada")  # the cookie is there
    browser.go(server.url.partition("/?")[0].replace("127.0.0.1", "localhost") + "/nothing")
    browser.wait("location.hostname === 'localhost'")
    address = f"http://127.0.0.1:{server.port}"
    for path, options in (
        ("/api/session", "{credentials: 'include'}"),
        ("/audio/0", "{credentials: 'include', mode: 'no-cors'}"),
        ("/api/answers", "{method: 'POST', credentials: 'include', mode: 'no-cors', body: '{}'}"),
    ):
        asked = f"fetch('{address}{path}', {options}).then((r) => r.type + r.status, () => 'refused')"
        assert browser.value(asked) == "refused"
    assert server.session.kept() == 0


def rows_of(path: Path) -> list[dict[str, object]]:
    from acoustic_env.audit.annotations import check_annotations
    from acoustic_env.audit.table import read_table

    rows: list[dict[str, object]] = check_annotations(read_table(str(path)), str(path)).to_pylist()
    return rows
