"""The page's section on the label audit: the ranking, the estimates, rejected corrections, versions of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from acoustic_env.audit.annotations import check_annotations
from acoustic_env.audit.estimate import estimate
from acoustic_env.audit.intervals import Interval, wilson
from acoustic_env.audit.labels import read_manifest, read_version, versions
from acoustic_env.audit.rank import NOT_A_RATE
from acoustic_env.audit.ranking import check_ranked, quality_of, scorer_names
from acoustic_env.audit.relabel import applies
from acoustic_env.audit.table import read_table
from acoustic_env.errors import UsageError
from acoustic_env.models.bundle import Bundle
from acoustic_env.report.audit_plots import SECTION, estimate_plot, found_plot, quality_plot
from acoustic_env.report.inputs import Inputs
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Code, Heading, Part, Table, Text, digits
from acoustic_env.stats.intervals import of_metric
from acoustic_env.stats.ranking import Ranking

SUSPECTS: Final = 15
REASONS: Final = 12
AGREEMENT: Final = {"krippendorff_alpha": "Krippendorff's alpha", "gwet_ac1": "Gwet's AC1"}

Labels = Mapping[str, frozenset[str]]


def read_truth(url: str) -> dict[str, frozenset[str]]:
    """Return clip_id -> true labels, from a table with `clip_id` and `label` (one per row, or a list).

    Raises:
        UsageError: a column is missing.
    """
    table = read_table(url)
    missing = [name for name in ("clip_id", "label") if name not in table.column_names]
    if missing:
        raise UsageError(f"{url}: no column {missing[0]!r}; a table of true labels has clip_id and label")
    labels = table.select(["clip_id", "label"]).to_pandas().explode("label").groupby("clip_id")["label"]
    return {str(clip_id): frozenset(own.dropna()) for clip_id, own in labels}


def audit_section(inputs: Inputs, clips: pa.Table | None, bundle: Bundle | None) -> Section | None:
    """Describe what is given of an audit; None without any of it."""
    section = Section(SECTION)
    truth = read_truth(inputs.truth) if inputs.truth else None
    groups = {} if clips is None else dict(zip(clips["clip_id"].to_pylist(), clips["group"].to_pylist(), strict=True))
    accuracy: dict[str | None, float] = {}
    if inputs.ranked is not None:
        ranked = check_ranked(read_table(inputs.ranked), inputs.ranked)
        given = ranked.filter(ranked["given"]).sort_by("quality")
        wrong = _wrong(given, truth or {})
        section.add(*_ranking(given, wrong, groups))
        if len(wrong):
            names = np.array(given["label"].take(wrong.index.to_numpy()).to_pylist())
            accuracy = {str(name): float(1 - wrong[names == name].mean()) for name in np.unique(names)}
            accuracy[None] = float(1 - wrong.mean())
    if inputs.sample is not None and inputs.annotations is not None:
        annotations = check_annotations(read_table(inputs.annotations), inputs.annotations)
        found = estimate(read_table(inputs.sample), annotations, inputs.sample, groups or None)
        section.add(*_estimates(found, accuracy, bundle))
    if inputs.versions is not None:
        section.add(*_versions(inputs.versions, truth))
    return section if section.parts else None


def _wrong(rows: pa.Table, truth: Labels) -> pd.Series[Any]:
    """Return row number -> whether a clip-label row contradicts the truth, for rows whose truth is known."""
    pairs = enumerate(zip(rows["clip_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    known = {row: label not in truth[clip_id] for row, (clip_id, label) in pairs if clip_id in truth}
    return pd.Series(known, dtype=bool)


def _ranking(given: pa.Table, wrong: pd.Series[Any], groups: Mapping[str, str]) -> list[Part]:
    quality, scorers = quality_of(given), scorer_names(given)
    rows = [
        (row["clip_id"], row["label"], digits(row["quality"]), row["flagged"], *(digits(row[name]) for name in scorers))
        for row in given.slice(0, SUSPECTS).to_pylist()
    ]
    title = f"The {len(rows)} most suspect of {given.num_rows:,} given labels"
    found: list[Part] = [
        Heading("The ranking"),
        Text(f"{NOT_A_RATE.replace('`', '')}.", "note", "A ranking is not a rate"),
        quality_plot(given["label"].to_pylist(), quality, np.asarray(given["flagged"])),
        Table(title, ("clip", "label", "quality", "flagged", *scorers), rows),
    ]
    if 0 < wrong.sum() < len(wrong):
        recordings = [
            groups.get(clip_id, clip_id) for clip_id in given["clip_id"].take(wrong.index.to_numpy()).to_pylist()
        ]
        truth, known = wrong.to_numpy(), quality[wrong.index]
        precision = of_metric(Ranking(truth, -known).average_precision, recordings, truth[:, None])
        found.append(found_plot(truth, known, precision))
    return found


def _estimates(found: Mapping[str, Any], truth: Mapping[str | None, float], bundle: Bundle | None) -> list[Part]:
    chosen = found["preferred"]
    labels = {name: estimators[chosen] for name, estimators in found["labels"].items() if chosen in estimators}
    rows = [("all labels", name, *_cells(interval)) for name, interval in found["overall"].items()]
    rows += [(name, interval.method, *_cells(interval)) for name, interval in labels.items()]
    title = f"Label accuracy from {found['answered']:,} answers to {found['drawn']:,} rows, {found['design']} design"
    annotators = found["annotators"]
    agreement = [(name, *_cells(annotators["agreement"][key])) for key, name in AGREEMENT.items()]
    agreement.append(("same answer when asked again", *_cells(annotators["self_agreement"])))
    parts: list[Part] = [
        Heading("Accuracy of the labels, from annotations"),
        estimate_plot(found["overall"][chosen], labels, truth),
        Table(title, ("labels", "estimator", "estimate", "95 % interval", "answers"), rows),
        Table("Annotators", ("agreement", "estimate", "95 % interval", "answers"), agreement),
    ]
    ranking = [(rows, _text(of["precision"]), _text(of["recall"])) for rows, of in found["ranking"].items()]
    if ranking:
        header = ("rows", "precision: share wrong", "recall: share of all wrong")
        parts.append(Table("How good the ranking is, from annotations", header, ranking))
    return parts


def _cells(interval: Interval) -> tuple[str | None, str, int]:
    return digits(interval.estimate), f"{interval.low:.3f}–{interval.high:.3f}", interval.n


def _text(interval: Interval) -> str:
    estimate = digits(interval.estimate, 2)
    return "no answers" if estimate is None else f"{estimate} ({interval.low:.2f}–{interval.high:.2f})"


def _versions(url: str, truth: Labels | None) -> list[Part]:
    manifests = [read_manifest(url, name) for name in versions(url)]
    actions = list(dict.fromkeys(action for manifest in manifests for action in manifest["actions"]))
    rows = []
    for one in manifests:
        counts = (int(one["actions"].get(action, 0)) for action in actions)
        rows.append((one["version"], one.get("written_utc", ""), one["rows"], *counts, Code(one["sha256"][:16])))
    title = "Versions, oldest first; the original labels can always be recovered"
    header = ("version", "written", "rows", *actions, "SHA-256")
    parts: list[Part] = [Heading("Versions of the labels"), Table(title, header, rows)]
    latest, name = read_version(url), manifests[-1]["version"]
    changed = latest.select(["action", "reason"]).to_pandas().query("action in ('drop', 'add')")
    reasons = changed.value_counts().head(REASONS)
    if len(reasons):
        listed = [(*why, int(count)) for why, count in reasons.items()]
        parts.append(Table(f"Why {name} drops or adds labels", ("action", "reason", "rows"), listed))
    return parts if truth is None else [*parts, _against_truth(latest, name, truth)]


def _against_truth(latest: pa.Table, name: str, truth: Labels) -> Table:
    """Return the share of right clip-label rows, before and after."""
    wrong, rows = _wrong(latest, truth), []
    for title, applied in (("as given", np.asarray(latest["given"])), (name, np.asarray(applies(latest)))):
        agree = applied[wrong.index] != wrong.to_numpy()
        rows.append((title, *_cells(wilson(float(agree.sum()), len(agree)))))
    header = ("labels", "share right", "95 % interval", "rows")
    return Table("Compared with the true labels, known here", header, rows)
