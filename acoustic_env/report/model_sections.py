"""The page's sections on the classifier: its metrics, the study, the search, and the explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.explain.plot import read_index
from acoustic_env.explain.style import class_name
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.compare import TIMES
from acoustic_env.report import plots
from acoustic_env.report.page import PlotFolder, Section
from acoustic_env.report.parts import Code, Part, Table, Terms, Text

CLASSES: Final = 30
ROWS: Final = 40
TRIALS: Final = 10
CLASS_METRICS: Final = ("precision", "recall", "f1", "auc", "average_precision")
CLASS_CALIBRATION: Final = ("share", "mean_posterior", "calibration_error")
HELD_OUT_BY: Final = (
    "Every held-out clip was predicted by an ensemble that was preprocessed, trained and stopped without it, "
    "with a calibration and thresholds that were chosen without it. The shipped ensemble has seen more clips."
)
CALLED: Final = {
    "binary": "A clip is called a class whose probability reaches its threshold.",
    "multilabel": "A clip is called each class whose probability reaches its threshold.",
    "multiclass": "A clip is called the class whose probability is the largest multiple of its threshold: classes that "
    "training balanced are called as balanced, and their probabilities are those of the clips as they are.",
}
STUDY: Final = (
    "Every block alone, every embedder with the indices and the modulation spectrum, and all blocks; each clip is "
    "predicted by a model of the other folds. Differences are paired: the same clips, the same folds. Their intervals "
    "hold for all variants together and account for choosing the best by its score; the best score itself is slightly "
    "optimistic for the same reason."
)


def classifier_section(bundle: Bundle, folder: PlotFolder) -> Section:
    """Describe settings, metrics on held-out clips, thresholds, calibration, confusion, curves and preprocessing."""
    section = Section("The classifier")
    metrics, model, counted = bundle.held_out, bundle.recipe.model, plots.HELD_OUT.counting(bundle.recipe.level)
    terms = [
        ("model", f"{model.kind}, {model.ensemble} averaged" if model.ensemble > 1 else model.kind),
        ("task", f"{bundle.recipe.task}, {len(bundle.classes):,} classes"),
        *_inputs(bundle),
        (counted.name, f"{metrics['clips']:,} in {metrics['groups']:,} recordings"),
    ]
    estimates = [
        (plots.metric_name(name), plots.interval_text(estimate), estimate.get("method", ""))
        for name, estimate in metrics["metrics"].items()
    ]
    header = ("metric", f"{counted.name} of training and validation", "interval by")
    section.add(Terms(terms), Table("Metrics with 95 % intervals", header, estimates), Text(HELD_OUT_BY, "quiet"))
    if not bundle.own_evaluations:
        section.add(Text("The bundle was not evaluated on test clips yet: acoustic-env evaluate.", "note"))
    section.add(*_decisions(bundle, metrics, counted))
    section.add(*(folder.draw(plot) for plot in plots.performance_plots(metrics, counted)))
    section.add(*_training(bundle, folder))
    if model.reads_sequences:
        return section
    parts = [
        (
            part.block,
            part.signal,
            len(part.columns),
            part.size,
            f"{part.explained.sum():.1%}" if part.components is not None else "all, no PCA",
            ", ".join(name for names in part.left_out.values() for name in names) or None,
        )
        for part in bundle.preprocessor.parts
    ]
    columns = ("block", "signal", "columns", "components", "variance kept", "dropped")
    section.add(Table("Reduction: original columns to components", columns, parts))
    return section


def _inputs(bundle: Bundle) -> list[tuple[str, Any]]:
    """Describe what the classifier reads."""
    columns = bundle.preprocessor.feature_columns
    if bundle.recipe.model.reads_sequences:
        return [("frames", ", ".join(f"{column.block} {column.signal}" for column in columns))]
    return [
        ("features", f"{len(columns):,}, reduced to {len(bundle.preprocessor.names):,}"),
        ("scaled before PCA", bundle.recipe.reduction.scale_first),
    ]


def _training(bundle: Bundle, folder: PlotFolder) -> list[Part]:
    """Draw the history of networks, and list the layers of one that reads frames."""
    members = bundle.classifier.members
    histories = [history for member in members if (history := getattr(member, "history_", None))]
    found: list[Part] = [folder.draw(plots.history_plot(histories))] if histories else []
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


def test_section(bundle: Bundle, folder: PlotFolder) -> Section | None:
    """List every evaluation on test clips, and describe the last one; None before the first."""
    if not bundle.test_evaluations:
        return None
    section, counted = Section(plots.TEST.section), plots.TEST.counting(bundle.recipe.level)
    names = list(bundle.test_evaluations[-1].metrics)
    rows = [
        (
            number,
            one.time,
            "these" if one.weights == bundle.weights_sha256 else "earlier weights at this path",
            f"{one.clips:,}",
            Code(one.clips_hash),
            *(_metric(one.metrics.get(name)) for name in names),
        )
        for number, one in enumerate(bundle.test_evaluations, start=1)
    ]
    header = ("evaluation", "time", "weights", f"{bundle.recipe.level}s", "list", *map(plots.metric_name, names))
    section.add(Table("Evaluations on test clips", header, rows))
    if len(bundle.test_evaluations) > 1:
        text = f"The bundle was evaluated on test clips {len(bundle.test_evaluations)} times. Only the first result is "
        section.add(Text(f"{text}unbiased if anything was chosen by the results since.", "note"))
    if not bundle.own_evaluations or bundle.test is None:
        text = "An earlier version recorded the evaluations without curves; acoustic-env evaluate records them."
        if not bundle.own_evaluations:
            text = "The bundle was not evaluated on test clips since it was trained: the evaluations are of earlier "
            text += "weights."
        section.add(Text(text, "note"))
        return section
    last = max(number for number, one in enumerate(bundle.test_evaluations, start=1) if one in bundle.own_evaluations)
    which = f" of evaluation {last}" if len(bundle.test_evaluations) > 1 else ""
    text = f"The metrics{which}; threshold and calibration are those chosen on {plots.TEST.chosen_on}."
    section.add(Text(text, "quiet"), *_decisions(bundle, bundle.test, counted))
    section.add(*(folder.draw(plot) for plot in plots.performance_plots(bundle.test, counted)))
    return section


def _metric(values: Sequence[float | None] | None) -> str | None:
    return None if values is None else plots.interval_text(dict(zip(("value", "low", "high"), values, strict=True)))


def _decisions(bundle: Bundle, metrics: Mapping[str, Any], clips: plots.EvaluatedClips) -> list[Part]:
    """Return the tables of the classes, of the confusion and of the calibration."""
    found: list[Part] = []
    shown = metrics["per_class"][:CLASSES]
    more = f", the first {len(shown)} of {len(metrics['per_class'])}" if len(shown) < len(metrics["per_class"]) else ""
    thresholds = dict(zip(bundle.classes, bundle.calibrator.thresholds_.tolist(), strict=True))
    rows: list[tuple[object, ...]] = [
        (
            class_name(row["name"]),
            row["support"],
            row["predicted"],
            *(None if row[key] is None else f"{row[key]:.3f}" for key in CLASS_METRICS),
            f"{thresholds[row['name']]:.3f}",
        )
        for row in shown
    ]
    header = ("class", f"{bundle.recipe.level}s", "predicted", *map(plots.metric_name, CLASS_METRICS), "threshold")
    found.append(Table(f"Each class on {clips.name}{more}", header, rows))
    found.append(Text(CALLED[bundle.recipe.task], "quiet"))
    if metrics["undefined"]:
        names = ", ".join(map(class_name, metrics["undefined"][:10]))
        found.append(
            Text(f"No AUC or average precision, since no clip here is of the class (or all are): {names}.", "note")
        )
    if metrics.get("confusion") and len(bundle.classes) <= CLASSES:
        rows = [
            (class_name(name), *map(int, row)) for name, row in zip(bundle.classes, metrics["confusion"], strict=True)
        ]
        title = f"Confusion on {clips.name}: rows are given labels, columns are predicted classes"
        found.append(Table(title, ("given", *map(class_name, bundle.classes)), rows))
    errors = metrics["calibration"]
    rows = [
        (plots.metric_name(name), *(_error(errors[f"{name}_{when}"]) for when in ("before", "after")))
        for name in ("ece", "class_ece", "brier")
        if f"{name}_before" in errors
    ]
    title = f"Calibration ({bundle.calibrator.kind_.replace('_', ' ')}), {clips.name}"
    found.append(Table(title, ("metric", "before", "after"), rows))
    rows = [
        (class_name(row["name"]), *(None if row[key] is None else f"{row[key]:.3f}" for key in CLASS_CALIBRATION))
        for row in shown
    ]
    header = ("class", f"share of the {bundle.recipe.level}s", "mean posterior", "calibration error")
    return [*found, Table(f"Probabilities of each class on {clips.name}{more}", header, rows)]


def _error(value: float | None) -> str:
    return "no class with enough clips" if value is None else f"{value:.4f}"


def study_section(table: pa.Table, folder: PlotFolder) -> Section:
    """Show the study's plot and table."""
    listed = table.to_pylist()
    timed = [name for name in TIMES if name in table.column_names]  # those of earlier versions have none
    rows = [
        (
            row["features"],
            row["signals"],
            row["model"],
            row["inputs"],
            plots.study_score(row),
            plots.study_score(row, "accuracy") if row["accuracy"] is not None else None,
            plots.study_score(row, "behind") if row["behind"] is not None else "best",
            row["within_noise"],
            *(f"{row[name]:.3g}" for name in timed),
        )
        for row in listed[:ROWS]
    ]
    header = ("features", "signals", "model", "inputs", "score", "accuracy", "behind the best", "within noise")
    times = [("training, s", "1,000 clips, s")[TIMES.index(name)] for name in timed]
    drawn = [folder.draw(plots.study_plot(listed)), *([folder.draw(plots.study_times_plot(listed))] if timed else [])]
    return Section("The study", [Text(STUDY), *drawn, Table("Variants, best first", (*header, *times), rows)])


def search_section(table: pa.Table, folder: PlotFolder) -> Section:
    """Show the search's plot and its best trials."""
    listed = sorted(table.to_pylist(), key=lambda row: -(row["score"] if row["score"] is not None else -1.0))
    searched = plots.searched_settings(table.column_names)
    rows = [
        (
            row["trial"],
            "failed" if row["score"] is None else f"{row['score']:.4f}",
            *(f"{row[name]:.3g}" if isinstance(row[name], float) else row[name] for name in searched),
        )
        for row in listed[:TRIALS]
    ]
    header = ("trial", "score", *(name.replace("_", " ") for name in searched))
    best = Table(f"The best {min(TRIALS, len(listed))} of {len(listed)} trials", header, rows)
    return Section("The search", [folder.draw(plots.trials_plot(listed)), best])


def explanation_sections(source: str, folder: PlotFolder) -> list[Section]:
    """Show the plots of `acoustic-env explain` under their headings.

    Raises:
        UsageError: the folder holds no such plots.
    """
    entries, about = read_index(source)
    sections: dict[str, Section] = {}
    for entry in entries:
        if not sections and "which_clips" in about:
            known = about.get("test_clips", "whether test clips are among them is not on record")
            sections[entry.section] = Section(
                entry.section, [Text(f"Drawn from {about['which_clips']}; {known}.", "quiet")]
            )
        sections.setdefault(entry.section, Section(entry.section)).add(folder.copy(entry, source))
    return list(sections.values())
