"""The report: what is given becomes sections, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import pyarrow as pa

from acoustic_env.audit.annotations import check_verdicts
from acoustic_env.audit.labels import versions
from acoustic_env.audit.ranking import check_ranked
from acoustic_env.audit.table import read_table
from acoustic_env.clips.table import read_clips
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe
from acoustic_env.io.files import read_bytes
from acoustic_env.io.location import join
from acoustic_env.models.bundle import Bundle
from acoustic_env.report.audit_section import AuditTables, audit_section, truth_of
from acoustic_env.report.data_sections import clips_section, errors_section, runs_section, store_section
from acoustic_env.report.model_sections import (
    classifier_section,
    explanation_sections,
    search_section,
    study_section,
    test_section,
)
from acoustic_env.report.page import FigureFolder, Section, write_page
from acoustic_env.report.provenance import provenance_section
from acoustic_env.store.feature_store import FeatureStore

FILES: Final = ("clips", "ranked", "sample", "verdicts", "truth")
STUDY: Final = "study.csv"
TRIALS: Final = "trials.csv"


@dataclass(frozen=True)
class Inputs:
    """What to report on: URLs and folders, None for what there is not. Sections appear for what is given.

    Attributes:
        store: feature store.
        clips: clip list.
        recipe: of the study, where no bundle says it.
        bundle: folder of the classifier.
        explain, study, tune: folders of those commands.
        ranked, sample, verdicts: tables of the audit; verdicts need their sample.
        labels: folder of versions of the labels.
        truth: table with clip_id and label, where the truth is known.
    """

    store: str | None = None
    clips: str | None = None
    recipe: str | None = None
    bundle: str | None = None
    explain: str | None = None
    study: str | None = None
    tune: str | None = None
    ranked: str | None = None
    sample: str | None = None
    verdicts: str | None = None
    labels: str | None = None
    truth: str | None = None

    def given(self) -> dict[str, str]:
        """Option -> value of what is given."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def write_report(path: Path, inputs: Inputs, title: str) -> list[str]:
    """Write the page at `path` and its figures' files beside it; returns the titles of its sections.

    Raises:
        UsageError: nothing is given, something given is not there or not what it should be.
    """
    if not inputs.given():
        msg = "nothing to report on: give --store, --clips, --bundle, --explain, --study, --tune, --ranked or --labels"
        raise UsageError(msg)
    if (inputs.sample is None) != (inputs.verdicts is None):
        msg = "--sample and --verdicts belong together: verdicts say something only of the sample they were drawn for"
        raise UsageError(msg)
    if inputs.labels and not versions(inputs.labels):
        msg = f"{inputs.labels}: no version of a labels table; make one with acoustic-env audit relabel"
        raise UsageError(msg)
    bundle = Bundle.load(inputs.bundle) if inputs.bundle else None
    sections = list(_sections(inputs, bundle, FigureFolder(path)))
    names = f" of {' and '.join(bundle.classes)}" if bundle is not None and len(bundle.classes) <= 3 else ""
    lead = (
        f"From clips to features, a classifier{names}, its explanations and the audit of its labels, as far as given."
    )
    write_page(path, title, lead, sections)
    return [section.title for section in sections]


def _sections(inputs: Inputs, bundle: Bundle | None, folder: FigureFolder) -> Iterator[Section]:
    store = FeatureStore.existing(inputs.store) if inputs.store else None
    clips = read_clips(inputs.clips) if inputs.clips else None
    recipe: Recipe | None = bundle.recipe if bundle is not None else None
    recipe = load_recipe(inputs.recipe) if inputs.recipe else recipe
    found: list[Section | None] = []
    if store is not None:
        found.append(runs_section(store))
    if clips is not None:
        found.append(clips_section(clips, recipe))
    if store is not None:
        found += [store_section(store), errors_section(store)]
    yield from (section for section in found if section is not None)
    if bundle is not None:
        yield classifier_section(bundle, folder)
        tested = test_section(bundle, folder)
        if tested is not None:
            yield tested
    if inputs.study:
        yield study_section(read_table(join(inputs.study, STUDY)), folder)
    if inputs.tune:
        yield search_section(read_table(join(inputs.tune, TRIALS)), folder)
    if inputs.explain:
        yield from explanation_sections(inputs.explain, folder)
    audit = audit_section(_audit_tables(inputs, clips), bundle, folder)
    if audit is not None:
        yield audit
    given = inputs.given()
    yield provenance_section(given, {name: read_bytes(given[name]) for name in FILES if name in given}, store, bundle)


def _audit_tables(inputs: Inputs, clips: pa.Table | None) -> AuditTables:
    return AuditTables(
        ranked=check_ranked(read_table(inputs.ranked), inputs.ranked) if inputs.ranked else None,
        sample=read_table(inputs.sample) if inputs.sample else None,
        verdicts=check_verdicts(read_table(inputs.verdicts), inputs.verdicts) if inputs.verdicts else None,
        sample_name=inputs.sample or "",
        labels=inputs.labels,
        truth=truth_of(read_table(inputs.truth), inputs.truth) if inputs.truth else None,
        groups=None
        if clips is None
        else dict(zip(clips["clip_id"].to_pylist(), clips["group"].to_pylist(), strict=True)),
    )
