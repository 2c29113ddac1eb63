"""The page's section on the label audit: the ranking, the estimates, what is refused, the versions of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.adjusted import Adjusted, Heard, adjusted_auc
from acoustic_env.audit.estimate import estimate
from acoustic_env.audit.intervals import Interval, wilson, z_value
from acoustic_env.audit.labels import read_manifest, read_version, versions
from acoustic_env.audit.rank import NOT_A_RATE
from acoustic_env.audit.ranking import quality_of, scorer_names
from acoustic_env.audit.relabel import applies
from acoustic_env.errors import UsageError
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.evaluate import Ranking, bootstrap
from acoustic_env.report.audit_plots import estimate_plot, found_plot, quality_plot
from acoustic_env.report.markup import Html, paragraph, table, tag
from acoustic_env.report.page import FigureFolder, Section

SUSPECTS: Final = 15
REASONS: Final = 12
AGREEMENT: Final = {"krippendorff_alpha": "Krippendorff's alpha", "gwet_ac1": "Gwet's AC1"}


@dataclass(frozen=True)
class AuditTables:
    """What there is of an audit; None for what is not given.

    Attributes:
        ranked: checked table of `audit rank`.
        sample, verdicts: of `audit sample` and of the listeners, given together.
        sample_name: of the sample's file, for messages.
        labels: URL of the folder of versions.
        truth: clip_id -> labels that are right, where it is known (synthetic scenes).
        groups: clip_id -> recording.
    """

    ranked: pa.Table | None = None
    sample: pa.Table | None = None
    verdicts: pa.Table | None = None
    sample_name: str = ""
    labels: str | None = None
    truth: Mapping[str, frozenset[str]] | None = None
    groups: Mapping[str, str] | None = None


def truth_of(table: pa.Table, url: str) -> dict[str, frozenset[str]]:
    """clip_id -> right labels, from a table with `clip_id` and `label` (a row each, or a list).

    Raises:
        UsageError: a column is missing.
    """
    missing = [name for name in ("clip_id", "label") if name not in table.column_names]
    if missing:
        msg = f"{url}: no column {missing[0]!r}; a table of the truth has clip_id and label"
        raise UsageError(msg)
    found: dict[str, set[str]] = {}
    for clip_id, label in zip(table["clip_id"].to_pylist(), table["label"].to_pylist(), strict=True):
        found.setdefault(clip_id, set()).update([label] if isinstance(label, str) else label or [])
    return {clip_id: frozenset(labels) for clip_id, labels in found.items()}


def audit_section(tables: AuditTables, bundle: Bundle | None, folder: FigureFolder) -> Section | None:
    """Everything of the audit that is given; None without any of it."""
    section = Section("The label audit")
    if tables.ranked is not None:
        section.add(*_ranking(tables.ranked, tables, folder))
    if tables.sample is not None and tables.verdicts is not None:
        section.add(*_estimates(tables, bundle, folder))
    if tables.labels is not None:
        section.add(*_versions(tables.labels, tables.truth))
    return section if section.content else None


def _ranking(ranked: pa.Table, tables: AuditTables, folder: FigureFolder) -> list[Html]:
    given = ranked.filter(ranked["given"]).sort_by("quality")
    names, quality = given["label"].to_pylist(), quality_of(given)
    flagged = np.asarray(given["flagged"])
    scorers = scorer_names(ranked)
    found = [
        tag("h3", "The ranking"),
        tag("p", tag("strong", "A ranking is not a rate: "), f"{NOT_A_RATE.replace('`', '')}.", class_="note"),
        folder.draw(quality_plot(names, quality, flagged)),
        table(
            f"The {min(SUSPECTS, given.num_rows)} most suspect of {given.num_rows:,} given labels",
            ("clip", "label", "quality", "flagged", *scorers),
            [
                (
                    row["clip_id"],
                    row["label"],
                    f"{row['quality']:.3f}",
                    row["flagged"],
                    *(None if row[name] is None else f"{float(row[name]):.3f}" for name in scorers),
                )
                for row in given.slice(0, SUSPECTS).to_pylist()
            ],
        ),
    ]
    wrong = _wrong(given, tables.truth)
    if wrong is not None and 0 < wrong[1].sum() < len(wrong[1]):
        rows, errors = wrong
        ids = [given["clip_id"][int(row)].as_py() for row in rows]
        groups = [(tables.groups or {}).get(clip_id, clip_id) for clip_id in ids]
        precision = bootstrap(Ranking(errors, -quality[rows]).average_precision, groups)
        found.append(folder.draw(found_plot(errors, quality[rows], precision)))
    return found


def _wrong(given: pa.Table, truth: Mapping[str, frozenset[str]] | None) -> tuple[Any, Any] | None:
    """Rows of given labels whose truth is known, and which of them are wrong."""
    if truth is None:
        return None
    pairs = list(zip(given["clip_id"].to_pylist(), given["label"].to_pylist(), strict=True))
    rows = [row for row, (clip_id, _) in enumerate(pairs) if clip_id in truth]
    return np.array(rows, np.int64), np.array([pairs[row][1] not in truth[pairs[row][0]] for row in rows], bool)


def _estimates(tables: AuditTables, bundle: Bundle | None, folder: FigureFolder) -> list[Html]:
    assert tables.sample is not None
    assert tables.verdicts is not None
    found = estimate(tables.sample, tables.verdicts, tables.sample_name, tables.groups)
    chosen = found["preferred"]
    labels = {name: estimators[chosen] for name, estimators in found["labels"].items() if chosen in estimators}
    overall: Interval = found["overall"][chosen]
    rows = [("all labels", name, *_interval(interval)) for name, interval in found["overall"].items()]
    rows += [(name, interval.method, *_interval(interval)) for name, interval in labels.items()]
    parts = [
        tag("h3", "What listening says"),
        folder.draw(estimate_plot(overall, labels, _true_accuracy(tables))),
        table(
            f"Label accuracy by {found['answered']:,} answers to {found['drawn']:,} rows, {found['design']} design",
            ("labels", "estimator", "estimate", "95 % interval", "answers"),
            rows,
        ),
    ]
    agreement = found["listeners"]["agreement"]
    listeners = [(said, *_interval(agreement[name])) for name, said in AGREEMENT.items()]
    listeners.append(("same answer when asked again", *_interval(found["listeners"]["with_themselves"])))
    parts.append(table("Listeners", ("agreement", "estimate", "95 % interval", "answers"), listeners))
    ranking = [
        (part, f"{_text(quality['precision'])}", f"{_text(quality['recall'])}")
        for part, quality in found["ranking"].items()
    ]
    if ranking:
        parts.append(
            table(
                "How good the ranking is, by listening",
                ("rows", "precision: share wrong", "recall: share of all wrong"),
                ranking,
            )
        )
    adjusted = _adjusted(bundle, labels)
    if adjusted is not None:
        parts += _refusals(adjusted)
    return parts


def _interval(interval: Interval) -> tuple[str | None, str, int]:
    shown = None if not np.isfinite(interval.estimate) else f"{interval.estimate:.3f}"
    return shown, f"{interval.low:.3f}–{interval.high:.3f}", interval.n


def _text(interval: Interval) -> str:
    if not np.isfinite(interval.estimate):
        return "nothing heard"
    return f"{interval.estimate:.2f} ({interval.low:.2f}–{interval.high:.2f})"


def _true_accuracy(tables: AuditTables) -> dict[str | None, float]:
    """Share of given labels that are right in truth, by label and (None) overall."""
    if tables.ranked is None:
        return {}
    given = tables.ranked.filter(tables.ranked["given"])
    wrong = _wrong(given, tables.truth)
    if wrong is None or not len(wrong[0]):
        return {}
    names = np.array(given["label"].to_pylist(), object)[wrong[0]]
    found: dict[str | None, float] = {None: float(1 - wrong[1].mean())}
    return found | {str(name): float(1 - wrong[1][names == name].mean()) for name in np.unique(names.astype(str))}


def _adjusted(bundle: Bundle | None, labels: Mapping[str, Interval]) -> Adjusted | None:
    """The held-out AUC of a binary bundle, corrected for wrong labels if that can be had at all."""
    if bundle is None or bundle.recipe.task != "binary" or set(bundle.classes) - set(labels):
        return None
    auc = bundle.metrics["figures"]["auc"]["value"]
    negative, positive = (labels[name] for name in bundle.classes)
    if auc is None or not all(np.isfinite(one.estimate) and one.n for one in (positive, negative)):
        return None
    support = {row["name"]: row["support"] for row in bundle.metrics["per_class"]}
    return adjusted_auc(
        auc, (support[bundle.classes[1]], support[bundle.classes[0]]), _heard(positive), _heard(negative)
    )


def _heard(interval: Interval) -> Heard:
    """An estimate as so many right of so many heard in a simple sample, with an interval as wide."""
    spread = interval.estimate * (1 - interval.estimate)
    half = max(interval.half_width, 1e-6)
    heard = max(1, round(spread * (z_value(0.95) / half) ** 2)) if spread > 0 else interval.n
    return Heard(round(interval.estimate * heard), heard)


def _refusals(adjusted: Adjusted) -> list[Html]:
    refused = adjusted.status == "refused"
    word = "Refused" if refused else "Not refuted, which is not confirmed"
    value = (
        ""
        if refused
        else f" Corrected value: {adjusted.corrected:.3f} ({adjusted.interval[0]:.3f}–{adjusted.interval[1]:.3f})."
    )
    return [
        tag("h3", "AUC against true labels"),
        tag(
            "p",
            tag("strong", f"{word}: "),
            f"{adjusted.reason}.{value} Against the given labels it is {adjusted.observed:.3f}; the probability that "
            f"the correction is impossible is {adjusted.impossible:.2f}. Dividing by a label accuracy is never right.",
            class_="note",
        ),
    ]


def _versions(url: str, truth: Mapping[str, frozenset[str]] | None) -> list[Html]:
    names = versions(url)
    parts = [tag("h3", "Versions of the labels")]
    if not names:
        return [*parts, paragraph("No version was written yet: acoustic-env audit relabel.")]
    manifests = [read_manifest(url, name) for name in names]
    actions = list(dict.fromkeys(action for manifest in manifests for action in manifest["actions"]))
    parts.append(
        table(
            "Versions, oldest first; the labels as given can always be had back",
            ("version", "written", "rows", *actions, "SHA-256"),
            [
                (
                    manifest["version"],
                    manifest.get("written_utc", ""),
                    manifest["rows"],
                    *(int(manifest["actions"].get(action, 0)) for action in actions),
                    tag("code", manifest["sha256"][:16]),
                )
                for manifest in manifests
            ],
        )
    )
    latest = read_version(url)
    changed = latest.filter(pc.is_in(latest["action"], pa.array(["drop", "add"])))
    counts = (
        changed.group_by(["action", "reason"])
        .aggregate([("clip_id", "count")])
        .sort_by([("clip_id_count", "descending")])
    )
    rows = [(row["action"], row["reason"], row["clip_id_count"]) for row in counts.slice(0, REASONS).to_pylist()]
    if rows:
        parts.append(table(f"Why {names[-1]} drops or adds labels", ("action", "reason", "rows"), rows))
    if truth is not None:
        parts.append(_against_truth(latest, names[-1], truth))
    return parts


def _against_truth(latest: pa.Table, name: str, truth: Mapping[str, frozenset[str]]) -> Html:
    """Clip-label statements that are right, before and after."""
    pairs = list(zip(latest["clip_id"].to_pylist(), latest["label"].to_pylist(), strict=True))
    known = np.array([clip_id in truth for clip_id, _ in pairs], bool)
    right = np.array([label in truth.get(clip_id, ()) for clip_id, label in pairs], bool)
    rows = []
    for title, said in (("as given", np.asarray(latest["given"])), (name, np.asarray(applies(latest)))):
        agree = (said == right)[known]
        interval = wilson(float(agree.sum()), len(agree))
        rows.append((title, f"{interval.estimate:.3f}", f"{interval.low:.3f}–{interval.high:.3f}", len(agree)))
    return table("Against the truth, known here", ("labels", "share right", "95 % interval", "statements"), rows)
