"""The report: each input becomes a section, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from acoustic_env.audit.labels import versions
from acoustic_env.audit.table import read_table
from acoustic_env.clips.table import read_clips
from acoustic_env.errors import UsageError
from acoustic_env.explain.style import drawn
from acoustic_env.io.documents import load_recipe
from acoustic_env.io.files import is_folder, read_bytes, write_bytes
from acoustic_env.io.location import join
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import Log
from acoustic_env.report import model_sections
from acoustic_env.report.audit_section import audit_section
from acoustic_env.report.clip_section import clip_section
from acoustic_env.report.data_sections import clips_section, errors_section, runs_section, store_section
from acoustic_env.report.error_section import error_section
from acoustic_env.report.inputs import Inputs
from acoustic_env.report.page import Section, place, render_page
from acoustic_env.report.provenance import provenance_section
from acoustic_env.store.feature_store import FeatureStore

HASHED: Final[tuple[str, ...]] = ("clips", "ranked", "sample", "annotations", "truth")
COMPARED: Final = "compare.csv"
TRIALS: Final = "trials.csv"


@drawn
def write_report(path: Path, inputs: Inputs, title: str, log: Log) -> list[str]:
    """Write the page at `path` and the files of its plots beside it; return the titles of its sections.

    Inputs that do not belong together are said on the page and to `log`.

    Raises:
        UsageError: nothing is given, or an input does not exist or is of the wrong kind.
    """
    if not inputs.given():
        options = ", ".join(f"--{name}" for name in vars(inputs))
        raise UsageError(f"nothing to report on: give some of {options}")
    if (inputs.sample is None) != (inputs.annotations is None):
        raise UsageError("--sample and --annotations belong together: give the annotations with the sample they answer")
    if inputs.versions and not versions(inputs.versions):
        raise UsageError(f"{inputs.versions}: no version of a labels table; make one with acoustic-env audit relabel")
    bundle = Bundle.load(inputs.bundle) if inputs.bundle else None
    folder, sections = path.with_name(f"{path.stem}_files"), []
    for section in filter(None, _sections(inputs, bundle, log)):
        sections.append(Section(section.title, [place(part, folder) for part in section.parts]))
    classes = f" of {' and '.join(bundle.classes)}" if bundle is not None and len(bundle.classes) <= 3 else ""
    lead = f"Clips, features, a classifier{classes}, its explanations and the audit of its labels, as far as given."
    write_bytes(str(path), render_page(title, lead, sections).encode())
    return [section.title for section in sections]


def _sections(inputs: Inputs, bundle: Bundle | None, log: Log) -> Iterator[Section | None]:
    store = FeatureStore.existing(inputs.store) if inputs.store else None
    clips = read_clips(inputs.clips) if inputs.clips else None
    recipe = load_recipe(inputs.recipe) if inputs.recipe else bundle.recipe if bundle is not None else None
    if store is not None:
        yield runs_section(store)
    if clips is not None:
        yield clips_section(clips, recipe)
        yield clip_section(clips, recipe)
    if store is not None:
        yield store_section(store)
        yield errors_section(store)
    if bundle is not None:
        yield model_sections.classifier_section(bundle)
        yield model_sections.test_section(bundle)
    if bundle is not None and store is not None and clips is not None:
        yield error_section(bundle, clips, store)
    if inputs.compare:
        yield model_sections.comparison_section(read_table(join(inputs.compare, COMPARED)))
    if inputs.tune:
        yield model_sections.search_section(read_table(join(inputs.tune, TRIALS)))
    if inputs.explain:
        yield from model_sections.explanation_sections(inputs.explain, bundle, log)
    yield audit_section(inputs, clips, bundle)
    given = inputs.given()
    files = {name: read_bytes(given[name]) for name in HASHED if name in given and not is_folder(given[name])}
    yield provenance_section(given, files, store, bundle)
