"""The report: one self-contained page that shows everything given and escapes every text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow.csv as pa_csv
import pytest
from markupsafe import escape

from acoustic_env.cli import main
from acoustic_env.models.bundle import Bundle
from acoustic_env.report.page import Section, render_page
from acoustic_env.report.parts import Code, Table, Text
from tests.report.conftest import HOSTILE

VOID = {"img", "meta", "link", "br", "hr", "col"}


class Page(HTMLParser):
    """Tags with attributes, headings, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[tuple[int, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, {key: value or "" for key, value in attributes}))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch(r"h[1-6]", self.open[-1]):
            self.headings.append((int(self.open[-1][1]), data))

    def of(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag_, attributes in self.tags if tag_ == name]


def report(out: Path, given: Mapping[str, str], *names: str) -> Page:
    options = [text for name in names for text in (f"--{name}", given[name])]
    assert main(["report", "--out", str(out), *options]) == 0
    return Page(out.read_text(encoding="utf-8"))


def sections(page: Page) -> list[str]:
    return [text for level, text in page.headings if level == 2]


@pytest.fixture(scope="module")
def whole(given: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    out = tmp_path_factory.mktemp("page") / "report.html"
    return out, report(out, given, *given)


def test_hostile_text_stays_text_wherever_it_comes_from(whole: tuple[Path, Page]) -> None:
    path, page = whole
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "onerror=alert(1)&gt;" in text
    assert not page.of("script")
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert text.count(str(escape(HOSTILE))) > 10


def test_the_page_needs_nothing_from_anywhere(whole: tuple[Path, Page]) -> None:
    path, page = whole
    text = path.read_text(encoding="utf-8")
    for attributes in page.of("img"):
        assert attributes["src"].startswith("data:image/png;base64,")
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    assert not page.of("link")
    assert "@import" not in text
    assert not re.search(r"url\(", text)
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in page.of("meta"))


def test_every_figure_has_words_and_files_beside_the_page(whole: tuple[Path, Page]) -> None:
    path, page = whole
    images = page.of("img")
    assert len(images) >= 12
    assert all(len(attributes["alt"]) > 20 for attributes in images)
    assert len(page.of("figure")) == len(images)
    links = [a["href"] for a in page.of("a") if a["href"].startswith("report_files/")]
    assert len(links) == 3 * len(images)
    for link in links:
        assert (path.parent / link).stat().st_size > 0
    for name in ("curves", "confusion", "calibration"):
        for prefix in ("", "test-"):
            assert pa_csv.read_csv(path.parent / "report_files" / f"{prefix}{name}.csv").num_rows >= 4
    assert len(page.of("figcaption")) == len(images)


def test_the_page_can_be_walked_by_keyboard_and_by_headings(whole: tuple[Path, Page]) -> None:
    path, page = whole
    assert page.of("html")[0]["lang"] == "en"
    assert page.of("a")[0] == {"href": "#report", "class": "skip"}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(a["href"][1:] in ids for a in page.of("a") if a["href"].startswith("#"))
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") for attributes in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    text = path.read_text(encoding="utf-8")
    assert "width=device-width" in text
    assert "@media print" in text


def test_everything_given_is_told_in_a_readers_order(whole: tuple[Path, Page]) -> None:
    path, page = whole
    assert sections(page) == [
        "What was run",
        "Data",
        "Clips",
        "Feature tables",
        "Errors",
        "The classifier",
        "The classifier on test clips",
        "Misclassified test clips",
        "The comparison",
        "The search",
        "What differs between the classes",
        "The label audit",
        "Provenance",
    ]
    text = path.read_text(encoding="utf-8")
    ranking, evaluations = "A ranking is not a rate", "Evaluations on test clips"
    for expected in ("not_audio", "20261121T000000Z-1", ranking, "Brier score", evaluations):
        assert expected in text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["clips"], ["Data", "Clips", "Provenance"]),
        (["store"], ["What was run", "Feature tables", "Errors", "Provenance"]),
        (["explain"], ["What differs between the classes", "Provenance"]),
        (["compare", "tune"], ["The comparison", "The search", "Provenance"]),
        (["versions"], ["The label audit", "Provenance"]),
    ],
)
def test_sections_appear_only_for_what_is_given(
    given: Mapping[str, str], tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    assert sections(report(tmp_path / "r.html", given, *names)) == expected


def test_figures_of_the_truth_appear_only_where_it_is_known(given: Mapping[str, str], tmp_path: Path) -> None:
    without = report(tmp_path / "a.html", given, "ranked", "sample", "annotations")
    with_truth = report(tmp_path / "b.html", given, "ranked", "sample", "annotations", "truth")
    assert len(with_truth.of("img")) == len(without.of("img")) + 1
    assert "The truth, known here, is" in (tmp_path / "b.html").read_text()
    assert "truth" not in (tmp_path / "a.html").read_text().replace("_files", "")


def test_the_numbers_are_those_of_the_bundle(whole: tuple[Path, Page], given: Mapping[str, str]) -> None:
    bundle = Bundle.load(given["bundle"])
    auc = bundle.held_out["metrics"]["auc"]
    text = whole[0].read_text(encoding="utf-8")
    assert f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})" in text
    tested = bundle.test_evaluations[0].found["metrics"]["auc"]
    assert f"{tested['value']:.3f} ({tested['low']:.3f}–{tested['high']:.3f})" in text
    assert bundle.training_hash in text
    assert bundle.fingerprints["indices"]["raw"] in text


def test_a_bundle_is_told_without_a_test_and_with_evaluations_of_earlier_weights_only(
    given: Mapping[str, str], tmp_path: Path
) -> None:
    for evaluated, said, expected in (
        (False, "was not evaluated on test clips yet", ["The classifier", "Provenance"]),
        (True, "of earlier weights", ["The classifier", "The classifier on test clips", "Provenance"]),
    ):
        copied = shutil.copytree(given["bundle"], tmp_path / f"bundle{evaluated}")
        record = copied / "evaluations.json"
        earlier = [{**one, "weights": "0" * 64} for one in json.loads(record.read_text(encoding="utf-8"))]
        record.write_text(json.dumps(earlier if evaluated else []), encoding="utf-8")
        out = tmp_path / f"{evaluated}.html"
        assert sections(report(out, {"bundle": str(copied)}, "bundle")) == expected
        assert said in out.read_text(encoding="utf-8")


def test_an_explanation_of_another_bundle_is_told_on_the_page_and_in_the_log(
    given: Mapping[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Bundle.load(given["bundle"]).training_hash
    explained = shutil.copytree(given["explain"], tmp_path / "explain")
    index = json.loads((explained / "explain.json").read_text(encoding="utf-8"))
    for learned, is_told in ((own, False), ("f" * 64, True)):
        (explained / "explain.json").write_text(json.dumps({**index, "training_hash": learned}), encoding="utf-8")
        out = tmp_path / "r.html"
        report(out, {**given, "explain": str(explained)}, "bundle", "explain")
        for said in (out.read_text(encoding="utf-8"), capsys.readouterr().err):
            assert ("explains another bundle" in said) == is_told
            assert ("f" * 64 in said) == is_told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to report on"),
        (["--annotations", "v.parquet"], "belong together"),
        (["--explain", "nowhere"], "acoustic-env explain"),
        (["--bundle", "nowhere"], "acoustic-env train"),
        (["--compare", "nowhere"], "compare.csv"),
        (["--ranked", "nowhere.parquet"], "nowhere.parquet"),
        (["--store", "nowhere"], "there is no store"),
        (["--versions", "nowhere"], "audit relabel"),
    ],
)
def test_what_is_not_there_is_named_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["report", "--out", str(tmp_path / "r.html"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_table_escapes_its_cells_and_aligns_numbers_to_the_right() -> None:
    table = Table("<b>", ("name", "n"), [(HOSTILE, 1234), (Code("<i>x</i>"), None)])
    page = render_page("title", "lead", [Section("section", [table])])
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert '<td class="number">1,234</td>' in page
    assert "<code>&lt;i&gt;x&lt;/i&gt;</code>" in page


def test_attributes_titles_and_leads_are_escaped_too() -> None:
    page = render_page(HOSTILE, HOSTILE, [Section(HOSTILE, [Text("x", "note", lead=HOSTILE), Table(HOSTILE, (), [])])])
    assert "<script" not in page
    assert "<img" not in page
    assert (
        'aria-label="&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#34;&lt;img src=x onerror=alert(1)&gt;"'
        in page
    )
