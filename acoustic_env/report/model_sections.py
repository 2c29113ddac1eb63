"""The page's sections on the classifier: how good it is, the study, the search, and what it relies on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.explain.plot import read_index
from acoustic_env.explain.style import class_name
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import PROTOCOL
from acoustic_env.report.markup import Html, facts, paragraph, table, tag
from acoustic_env.report.page import FigureFolder, Section
from acoustic_env.report.plots import (
    HELD_OUT,
    TEST,
    Judged,
    interval_text,
    performance_plots,
    spoken,
    study_plot,
    trials_plot,
)

CLASSES: Final = 30
ROWS: Final = 40
TRIALS: Final = 10
HELD_OUT_BY: Final = {
    PROTOCOL: "Every held-out clip was judged by an ensemble that was reduced, trained and stopped without it, with a "
    "calibration and thresholds that were chosen without it. The shipped ensemble has seen more clips."
}
HELD_OUT_EARLIER: Final = (
    "These figures were recorded by an earlier version: they are of single members, on clips that stopping, thresholds "
    "and calibration were chosen on, so they flatter the model. Train the bundle again."
)


def classifier_section(bundle: Bundle, folder: FigureFolder) -> Section:
    """Settings, figures on held-out clips, thresholds, calibration, confusion, curves, reduction."""
    section = Section("The classifier")
    metrics, model = bundle.metrics, bundle.recipe.model
    section.add(
        facts(
            [
                ("model", f"{model.kind}, {model.ensemble} averaged" if model.ensemble > 1 else model.kind),
                ("task", f"{bundle.recipe.task}, {len(bundle.classes):,} classes"),
                ("features", f"{len(bundle.reducer.columns):,}, reduced to {len(bundle.reducer.names):,}"),
                ("scaled before PCA", bundle.recipe.reduction.scale_first),
                ("held-out clips", f"{metrics['clips']:,} in {metrics['groups']:,} recordings"),
            ]
        ),
        table(
            "Figures with 95 % intervals",
            ("figure", "held-out clips of training and validation", "interval by"),
            [
                (spoken(name), interval_text(estimate), estimate.get("method", ""))
                for name, estimate in metrics["figures"].items()
            ],
        ),
        paragraph(HELD_OUT_BY.get(metrics.get("protocol", ""), HELD_OUT_EARLIER), "quiet"),
    )
    if not bundle.own_looks:
        text = "The bundle was not judged on test clips yet: acoustic-env evaluate."
        section.add(paragraph(text, "note"))
    section.add(*_decisions(bundle, metrics, HELD_OUT))
    section.add(*(folder.draw(plot) for plot in performance_plots(metrics)))
    section.add(
        table(
            "Reduction: original columns to components",
            ("block", "signal", "columns", "components", "variance kept", "left out"),
            [
                (
                    part.block,
                    part.signal,
                    len(part.columns),
                    part.size,
                    f"{part.explained.sum():.1%}" if part.components is not None else "all, no PCA",
                    ", ".join((*part.empty, *part.constant)) or None,
                )
                for part in bundle.reducer.parts_
            ],
        )
    )
    return section


def test_section(bundle: Bundle, folder: FigureFolder) -> Section | None:
    """Every look at test clips, those of earlier weights too, and the last one's tables; None before the first."""
    if not bundle.looks:
        return None
    section = Section(TEST.section)
    names = list(bundle.looks[-1].figures)
    rows = [
        (
            number,
            look.time,
            "these" if look.weights == bundle.weights_sha256 else "earlier weights at this path",
            f"{look.clips:,}",
            tag("code", look.clips_hash),
            *(_look(look.figures.get(name)) for name in names),
        )
        for number, look in enumerate(bundle.looks, start=1)
    ]
    section.add(table("Looks at test clips", ("look", "time", "weights", "clips", "list", *map(spoken, names)), rows))
    if len(bundle.looks) > 1:
        text = (
            f"The test clips were looked at {len(bundle.looks)} times. Only the first look is honest if anything was "
            "chosen by the figures since."
        )
        section.add(paragraph(text, "note"))
    if not bundle.own_looks:
        text = "The bundle was not evaluated on test clips since it was trained: the looks are of earlier weights."
        section.add(paragraph(text, "note"))
        return section
    if bundle.test is None:
        text = "The looks were recorded by a version that kept no curves; acoustic-env evaluate records them."
        section.add(paragraph(text, "note"))
        return section
    last = max(number for number, look in enumerate(bundle.looks, start=1) if look in bundle.own_looks)
    which = f" of look {last}" if len(bundle.looks) > 1 else ""
    text = f"The figures{which}; threshold and calibration are those chosen on {TEST.chosen_on}."
    section.add(paragraph(text, "quiet"), *_decisions(bundle, bundle.test, TEST))
    section.add(*(folder.draw(plot) for plot in performance_plots(bundle.test, TEST)))
    return section


def _look(figure: Sequence[float] | None) -> str | None:
    if figure is None:
        return None
    return interval_text(dict(zip(("value", "low", "high"), figure, strict=True)))


def _decisions(bundle: Bundle, metrics: Mapping[str, Any], judged: Judged) -> list[Html]:
    """Tables of each class, of the confusion and of the calibration."""
    found = []
    shown = metrics["per_class"][:CLASSES]
    more = f", the first {len(shown)} of {len(metrics['per_class'])}" if len(shown) < len(metrics["per_class"]) else ""
    thresholds: Mapping[str, float] = (
        {} if bundle.recipe.task == "multiclass" else dict(zip(bundle.classes, bundle.thresholds.tolist(), strict=True))
    )
    found.append(
        table(
            f"Each class on {judged.clips}{more}",
            ("class", "clips", "called", "precision", "recall", "F1", "AUC", "average precision", "threshold"),
            [
                (
                    class_name(row["name"]),
                    row["support"],
                    row["predicted"],
                    *(None if row[key] is None else f"{row[key]:.3f}" for key in CLASS_FIGURES),
                    f"{thresholds[row['name']]:.3f}" if row["name"] in thresholds else "highest",
                )
                for row in shown
            ],
        )
    )
    if metrics["undefined"]:
        names = ", ".join(map(class_name, metrics["undefined"][:10]))
        found.append(paragraph(f"Without a ranking, since no clip here is of the class (or all are): {names}.", "note"))
    if metrics.get("confusion") and len(bundle.classes) <= CLASSES:
        found.append(
            table(
                f"Confusion on {judged.clips}: rows are given labels, columns what the classifier calls them",
                ("given", *map(class_name, bundle.classes)),
                [
                    (class_name(name), *(int(count) for count in row))
                    for name, row in zip(bundle.classes, metrics["confusion"], strict=True)
                ],
            )
        )
    found.append(
        table(
            f"Calibration ({bundle.calibration.kind}), {judged.clips}",
            ("figure", "before", "after"),
            [
                (spoken(name), *(_error(metrics["calibration"][f"{name}_{when}"]) for when in ("before", "after")))
                for name in ("ece", "class_ece", "brier")
                if f"{name}_before" in metrics["calibration"]
            ],
        )
    )
    return found


def _error(value: float | None) -> str:
    return "no class with enough clips" if value is None else f"{value:.4f}"


CLASS_FIGURES: Final = ("precision", "recall", "f1", "auc", "average_precision")


def study_section(rows: pa.Table, folder: FigureFolder) -> Section:
    """The study's table and figure."""
    section = Section("The study")
    listed = rows.to_pylist()
    section.add(
        paragraph(
            "Every block alone, every embedder beside the indices and the modulation spectrum, and all blocks, each "
            "clip judged by a model of the other folds. Differences are paired: the same clips, the same folds. Their "
            "intervals hold for all variants together and allow for the best having been chosen by its score; that "
            "score itself is a little too good for the same reason."
        ),
        folder.draw(study_plot(listed)),
        table(
            "Variants, best first",
            ("features", "signals", "model", "inputs", "score", "accuracy", "behind the best", "within noise"),
            [
                (
                    row["features"],
                    row["signals"],
                    row["model"],
                    row["inputs"],
                    _of(row, "score"),
                    _of(row, "accuracy") if row["accuracy"] is not None else None,
                    _of(row, "behind") if row["behind"] is not None else "best",
                    row["within_noise"],
                )
                for row in listed[:ROWS]
            ],
        ),
    )
    return section


def _of(row: Mapping[str, Any], name: str) -> str:
    return interval_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})


def search_section(rows: pa.Table, folder: FigureFolder) -> Section:
    """The search's figure and its best trials."""
    section = Section("The search")
    listed = sorted(rows.to_pylist(), key=lambda row: -(row["score"] if row["score"] is not None else -1.0))
    section.add(
        folder.draw(trials_plot(listed)),
        table(
            f"The best {min(TRIALS, len(listed))} of {len(listed)} trials",
            ("trial", "score", "layers", "activation", "dropout", "learning rate", "epochs"),
            [
                (
                    row["trial"],
                    "failed" if row["score"] is None else f"{row['score']:.4f}",
                    str(row["layers"]),
                    row["activation"],
                    f"{row['dropout']:.2f}",
                    f"{row['learning_rate']:.1e}",
                    row["epochs"],
                )
                for row in listed[:TRIALS]
            ],
        ),
    )
    return section


def explanation_sections(source: str, folder: FigureFolder) -> list[Section]:
    """The figures of `acoustic-env explain`, under their headings.

    Raises:
        UsageError: no such figures.
    """
    entries, about = read_index(source)
    sections: dict[str, Section] = {}
    for entry in entries:
        if entry.section not in sections:
            sections[entry.section] = Section(entry.section)
            if "which_clips" in about and len(sections) == 1:
                known = about.get("test_clips", "whether test clips are among them is not on record")
                text = f"Drawn from {about['which_clips']}; {known}."
                sections[entry.section].add(paragraph(text, "quiet"))
        sections[entry.section].add(folder.copy(entry, source))
    return list(sections.values())
