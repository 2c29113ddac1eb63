"""The page's sections on the classifier: its metrics, the comparison, the search, and the explanations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from acoustic_env.explain.plot import read_index
from acoustic_env.explain.style import class_name
from acoustic_env.io.location import join
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.compare import TIMES
from acoustic_env.models.learn import Log
from acoustic_env.report import plots
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Code, Part, Table, Terms, Text, digits

CLASSES: Final = 30
ROWS: Final = 40
TRIALS: Final = 10
CLASS_METRICS: Final = ("precision", "recall", "f1", "auc", "average_precision")
CLASS_CALIBRATION: Final = ("share", "mean_posterior", "calibration_error")
HELD_OUT_BY: Final = (
    "Every held-out clip was predicted by an ensemble that was preprocessed, trained and stopped without it, "
    "with a calibration and thresholds that were chosen without it. The shipped ensemble has seen more clips."
)
FEW: Final = "no class with enough clips"
CALLED: Final = {
    "binary": "A clip is called a class whose probability reaches its threshold.",
    "multilabel": "A clip is called each class whose probability reaches its threshold.",
    "multiclass": "A clip is called the class whose probability is the largest multiple of its threshold: classes that "
    "training balanced are called as balanced, and their probabilities are those of the clips as they are.",
}
COMPARISON: Final = (
    "Every block alone, every embedder with the indices and the modulation spectrum, and all blocks; each clip is "
    "predicted by a model of the other folds. Differences are paired: the same clips, the same folds. Their intervals "
    "hold for all variants together and account for choosing the best by its score; the best score itself is slightly "
    "optimistic for the same reason."
)


def classifier_section(bundle: Bundle) -> Section:
    """Describe settings, metrics on held-out clips, thresholds, calibration, confusion, curves and preprocessing."""
    metrics, model, counted = bundle.held_out, bundle.recipe.model, plots.HELD_OUT.counting(bundle.recipe.level)
    columns, preprocessor = bundle.preprocessor.feature_columns, bundle.preprocessor
    inputs: list[tuple[str, object]] = [
        ("features", f"{len(columns):,}, reduced to {len(preprocessor.names):,}"),
        ("scaled before PCA", bundle.recipe.reduction.scale_first),
    ]
    if model.reads_sequences:
        inputs = [("frames", ", ".join(f"{column.block} {column.signal}" for column in columns))]
    terms = [
        ("model", f"{model.kind}, {model.ensemble} averaged" if model.ensemble > 1 else model.kind),
        ("task", f"{bundle.recipe.task}, {len(bundle.classes):,} classes"),
        *inputs,
        (counted.name, f"{metrics['clips']:,} in {metrics['groups']:,} recordings"),
    ]
    estimates = [
        (plots.metric_name(name), plots.interval_text(estimate), estimate.get("method", ""))
        for name, estimate in metrics["metrics"].items()
    ]
    header = ("metric", f"{counted.name} of training and validation", "interval by")
    section = Section("The classifier", [Terms(terms), Table("Metrics with 95 % intervals", header, estimates)])
    section.add(Text(HELD_OUT_BY, "quiet"))
    if not bundle.own_evaluations:
        section.add(Text("The bundle was not evaluated on test clips yet: acoustic-env evaluate.", "note"))
    section.add(*_judged(bundle, metrics, counted), *_training(bundle))
    parts = []
    for part in preprocessor.parts:
        kept = f"{part.explained.sum():.1%}" if part.components is not None else "all, no PCA"
        dropped = ", ".join(name for names in part.left_out.values() for name in names) or None
        parts.append((part.block, part.signal, len(part.columns), part.size, kept, dropped))
    if parts:
        named = ("block", "signal", "columns", "components", "variance kept", "dropped")
        section.add(Table("Reduction: original columns to components", named, parts))
    return section


def _training(bundle: Bundle) -> list[Part]:
    """Draw the history of networks, and list the layers of one that reads frames."""
    members = bundle.classifier.members
    histories = [history for member in members if (history := getattr(member, "history_", None))]
    found: list[Part] = [plots.history_plot(histories)] if histories else []
    if bundle.recipe.model.reads_sequences:
        modules = list(members[0].network().named_modules())
        layers = [
            (name, type(module).__name__, f"{count:,}")
            for name, module in modules
            if (count := sum(weights.numel() for weights in module.parameters(recurse=False)))
        ]
        total = sum(weights.numel() for weights in modules[0][1].parameters())
        found.append(Table(f"Layers, {total:,} parameters", ("layer", "kind", "parameters"), layers))
    return found


def test_section(bundle: Bundle) -> Section | None:
    """List every evaluation on test clips, and describe the last one; None before the first."""
    evaluations = list(enumerate(bundle.test_evaluations, start=1))
    if not evaluations:
        return None
    level, names = bundle.recipe.level, list(evaluations[-1][1].found["metrics"])
    rows = []
    for number, one in evaluations:
        weights = "these" if one.weights == bundle.weights_sha256 else "earlier weights at this path"
        estimates = (one.found["metrics"].get(name) for name in names)
        shown = (plots.interval_text(estimate) if estimate else None for estimate in estimates)
        rows.append((number, one.time, weights, f"{one.found['clips']:,}", Code(one.clips_hash), *shown))
    header = ("evaluation", "time", "weights", f"{level}s", "list", *map(plots.metric_name, names))
    section = Section(plots.TEST.section, [Table("Evaluations on test clips", header, rows)])
    if len(rows) > 1:
        text = f"The bundle was evaluated on test clips {len(rows)} times. Only the first result is unbiased if "
        section.add(Text(f"{text}anything was chosen by the results since.", "note"))
    if bundle.test is None:
        text = (
            "The bundle was not evaluated on test clips since it was trained: the evaluations are of earlier weights."
        )
        section.add(Text(text, "note"))
    else:
        own = [number for number, one in evaluations if one in bundle.own_evaluations]
        which = f" of evaluation {own[-1]}" if len(rows) > 1 else ""
        text = f"The metrics{which}; threshold and calibration are those chosen on {plots.TEST.chosen_on}."
        section.add(Text(text, "quiet"), *_judged(bundle, bundle.test, plots.TEST.counting(level)))
    return section


def _judged(bundle: Bundle, metrics: Mapping[str, Any], clips: plots.EvaluatedClips) -> list[Part]:
    """Return the tables of the classes, of the confusion and of the calibration, and the plots."""
    shown = metrics["per_class"][:CLASSES]
    more = f", the first {len(shown)} of {len(metrics['per_class'])}" if len(shown) < len(metrics["per_class"]) else ""
    thresholds = dict(zip(bundle.classes, bundle.calibrator.thresholds_.tolist(), strict=True))
    rows: list[tuple[object, ...]] = []
    for row in shown:
        counts = row["support"], row["predicted"]
        scores = (digits(row[key]) for key in CLASS_METRICS)
        rows.append((class_name(row["name"]), *counts, *scores, digits(thresholds[row["name"]])))
    header = ("class", f"{bundle.recipe.level}s", "predicted", *map(plots.metric_name, CLASS_METRICS), "threshold")
    found: list[Part] = [Table(f"Each class on {clips.name}{more}", header, rows)]
    found.append(Text(CALLED[bundle.recipe.task], "quiet"))
    if metrics["undefined"]:
        names = ", ".join(map(class_name, metrics["undefined"][:10]))
        text = f"No AUC or average precision, since no clip here is of the class (or all are): {names}."
        found.append(Text(text, "note"))
    if metrics.get("confusion") and len(bundle.classes) <= CLASSES:
        given = list(map(class_name, bundle.classes))
        rows = [(name, *map(int, row)) for name, row in zip(given, metrics["confusion"], strict=True)]
        title = f"Confusion on {clips.name}: rows are given labels, columns are predicted classes"
        found.append(Table(title, ("given", *given), rows))
    errors = metrics["calibration"]
    rows = [
        (plots.metric_name(name), *(digits(errors[f"{name}_{when}"], 4) or FEW for when in ("before", "after")))
        for name in ("ece", "class_ece", "brier")
        if f"{name}_before" in errors
    ]
    title = f"Calibration ({bundle.calibrator.kind_.replace('_', ' ')}), {clips.name}"
    found.append(Table(title, ("metric", "before", "after"), rows))
    rows = [(class_name(row["name"]), *(digits(row[key]) for key in CLASS_CALIBRATION)) for row in shown]
    header = ("class", f"share of the {bundle.recipe.level}s", "mean posterior", "calibration error")
    found.append(Table(f"Probabilities of each class on {clips.name}{more}", header, rows))
    return [*found, *plots.performance_plots(metrics, clips)]


def comparison_section(table: pa.Table) -> Section:
    """Show the comparison's plots and table."""
    listed = table.to_pylist()
    timed = [name for name in TIMES if name in table.column_names]  # those of earlier versions have none
    rows = []
    for row in listed[:ROWS]:
        accuracy = None if row["accuracy"] is None else plots.comparison_score(row, "accuracy")
        behind = "best" if row["behind"] is None else plots.comparison_score(row, "behind")
        named = (row[name] for name in ("features", "signals", "model", "inputs"))
        times = (f"{row[name]:.3g}" for name in timed)
        rows.append((*named, plots.comparison_score(row), accuracy, behind, row["within_noise"], *times))
    header = ("features", "signals", "model", "inputs", "score", "accuracy", "behind the best", "within noise")
    units = dict(zip(TIMES, ("training, s", "1,000 clips, s"), strict=True))
    drawn = [plots.comparison_plot(listed), *([plots.comparison_times_plot(listed)] if timed else [])]
    shown = Table("Variants, best first", (*header, *(units[name] for name in timed)), rows)
    return Section("The comparison", [Text(COMPARISON), *drawn, shown])


def search_section(table: pa.Table) -> Section:
    """Show the search's plot and its best trials."""
    listed = sorted(table.to_pylist(), key=lambda row: -(row["score"] if row["score"] is not None else -1.0))
    searched = plots.searched_settings(table.column_names)
    best = listed[:TRIALS]
    rows = [(row["trial"], digits(row["score"], 4) or "failed", *(row[name] for name in searched)) for row in best]
    header = ("trial", "score", *(name.replace("_", " ") for name in searched))
    shown = Table(f"The best {len(best)} of {len(listed)} trials", header, rows)
    return Section("The search", [plots.trials_plot(listed), shown])


def explanation_sections(source: str, bundle: Bundle | None, log: Log) -> list[Section]:
    """Show the plots of `acoustic-env explain` under their headings; say and log that they are of another bundle.

    Raises:
        UsageError: the folder holds no such plots.
    """
    entries, about = read_index(source)
    sections = {entry.section: Section(entry.section) for entry in entries}
    learned = about.get("training_hash")
    if sections and bundle is not None and learned not in (None, bundle.training_hash):
        text = (
            f"{source} explains another bundle than the one of this page: it learned from other clips (hash {learned}, "
            f"here {bundle.training_hash}). Run acoustic-env explain with this bundle."
        )
        log(text)
        sections[entries[0].section].add(Text(text, "note", lead="Another bundle"))
    if sections and "which_clips" in about:
        known = about.get("test_clips", "whether test clips are among them is not on record")
        sections[entries[0].section].add(Text(f"Drawn from {about['which_clips']}; {known}.", "quiet"))
    for entry in entries:
        files = {kind: join(source, Path(name).name) for kind, name in entry.files.items()}
        sections[entry.section].add(replace(entry, files=files))
    return list(sections.values())
