"""The page's sections on what was run, on the clips, and on what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.select import Selection, select
from acoustic_env.clips.splits import split
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.explain.style import class_name
from acoustic_env.report.markup import facts, paragraph, table, tag
from acoustic_env.report.page import Section
from acoustic_env.store.failures import Failures, count_failures
from acoustic_env.store.feature_store import FeatureStore

RUNS: Final = 20
EXAMPLES: Final = 15
LABELS: Final = 20


def runs_section(store: FeatureStore) -> Section | None:
    """Every run of the extraction with its counts, and how fast each stage was; None without runs."""
    runs = store.runs()
    if not runs:
        return None
    section = Section("What was run")
    shown = runs[-RUNS:]
    earlier = f" The {len(runs) - len(shown):,} earlier runs are left out." if len(runs) > len(shown) else ""
    section.add(
        paragraph(
            f"{len(runs):,} run{'s' if len(runs) > 1 else ''} wrote to this store. A run computes only what is "
            f"missing, so a later one may have little to do.{earlier}"
        ),
        table(
            "Runs, oldest first",
            ("run", "engine", "clips on the list", "to do", "finished", "failed", "minutes", "clips/s"),
            [_run_row(run) for run in shown],
        ),
    )
    measured = [run for run in runs if run.get("throughput")]
    if measured:
        last = measured[-1]
        stages = [
            (stage, float(rate), float(last.get("seconds", {}).get(stage, 0.0)))
            for stage, rate in last["throughput"].items()
        ]
        section.add(
            table(
                f"Throughput of each stage, run {last.get('run_id', '')}",
                ("stage", "clips per worker-second", "worker-seconds"),
                stages,
            ),
            paragraph("A worker-second is a second of one worker of that stage, waiting not counted.", "quiet"),
        )
    return section


def _run_row(run: Mapping[str, Any]) -> tuple[object, ...]:
    minutes = float(run.get("seconds", {}).get("wall", 0.0)) / 60
    counts = [run.get(key) for key in ("clips", "pending", "finished", "failed")]
    engine = run.get("settings", {}).get("engine", "")
    return (tag("code", str(run.get("run_id", ""))), engine, *counts, round(minutes, 2), run.get("clips_per_second"))


def store_section(store: FeatureStore) -> Section | None:
    """The blocks of the store and how many clips each holds; None for an empty store."""
    rows: list[tuple[object, ...]] = []
    for block in store.blocks():
        for version in store.fingerprints(block):
            keys = store.committed_keys(block, version.fingerprint)
            counts = Counter(keys["signal"].to_pylist())
            said = ", ".join(f"{signal} {count:,}" for signal, count in sorted(counts.items()))
            rows.append((block, version.version, version.engine, tag("code", version.fingerprint), said))
    if not rows:
        return None
    section = Section("Feature tables")
    section.add(
        table("Blocks in the store, clips by signal", ("block", "version", "engine", "fingerprint", "clips"), rows),
        paragraph(
            "A fingerprint covers everything that can change a number; tables of different ones never mix.", "quiet"
        ),
    )
    return section


def clips_section(clips: pa.Table, recipe: Recipe | None) -> Section:
    """What the list holds, what the recipe makes of it, what it leaves out and why."""
    section = Section("Data")
    groups = pc.count_distinct(clips["group"]).as_py()
    sources = Counter(clips["source"].to_pylist())
    named = ", ".join(f"{source} {count:,}" for source, count in sources.most_common(5) if source)
    section.add(
        facts(
            [
                ("clips on the list", clips.num_rows),
                ("recordings (groups)", groups),
                *([("sources", named)] if named else []),
                *([("recipe", f"{recipe.name}, {recipe.task}")] if recipe else []),
            ]
        )
    )
    if recipe is None:
        counts = Counter(pc.list_flatten(clips["labels"]).to_pylist())
        section.add(
            table(
                "Labels, most frequent first",
                ("label", "clips"),
                [(class_name(name), count) for name, count in counts.most_common(LABELS)],
            )
        )
        return section
    selection = select(clips, recipe)
    section.add(_classes(selection, recipe))
    if selection.left_out:
        rows = [(reason, len(ids), ", ".join(ids[:3])) for reason, ids in selection.left_out.items()]
        section.add(table("Clips left out by the recipe", ("because they", "clips", "for example"), rows))
    else:
        section.add(paragraph("The recipe leaves no clip out."))
    return section


def _classes(selection: Selection, recipe: Recipe) -> Any:
    """Clips of each class by role in the split, where the split can be had."""
    clips = selection.clips
    roles: list[tuple[str, Any]] = [("clips", None)]
    try:
        parts = split(clips, recipe.split)
        roles += [("training", parts.train), ("validation", parts.validation), ("test", parts.test)]
    except UsageError:
        pass
    counted = []
    for _, rows in roles:
        own = clips if rows is None else clips.take(pa.array(rows))
        counted.append(Counter(pc.list_flatten(own["class"]).to_pylist()))
    order = sorted(selection.classes, key=lambda name: -counted[0][name])[:LABELS]
    more = f", the {len(order)} largest of {len(selection.classes)}" if len(order) < len(selection.classes) else ""
    return table(
        f"Clips of each class{more}",
        ("class", *(role for role, _ in roles)),
        [(class_name(name), *(count[name] for count in counted)) for name in order],
    )


def errors_section(store: FeatureStore) -> Section:
    """Clips that could not be used, by stage and code, with the messages of some."""
    section = Section("Errors")
    errors = Failures(store).open()
    if not errors.num_rows:
        section.add(paragraph("Every clip that was tried has its features; no error is open."))
        return section
    counts = count_failures(errors)
    clips = pc.count_distinct(errors["clip_id"]).as_py()
    section.add(
        paragraph(
            f"{clips:,} clip{'s' if clips > 1 else ''} could not be used. A bad clip is a row here and never stops a "
            "run; errors that may pass (a network, a busy server) are tried again by the next run."
        ),
        table(
            "Errors by stage and code",
            ("stage", "code", "clips", "of them permanent"),
            [(row.stage, row.code, row.clips, row.permanent) for row in counts],
        ),
        table("Examples", ("clip", "stage", "code", "message"), _examples(errors)),
    )
    return section


def _examples(errors: pa.Table) -> Sequence[Sequence[object]]:
    """Some errors, every code at least once."""
    rows = errors.select(["clip_id", "stage", "code", "message"]).to_pylist()
    seen: Counter[str] = Counter()
    ranked = []
    for row in rows:
        ranked.append((seen[row["code"]], row))
        seen[row["code"]] += 1
    ranked.sort(key=lambda pair: pair[0])
    return [tuple(row.values()) for _, row in ranked[:EXAMPLES]]
