"""The page's sections on the runs, the features, the clips and the errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.clips.select import Selection, select
from acoustic_env.config import Recipe
from acoustic_env.explain.style import class_name
from acoustic_env.report.clip_section import split_rows
from acoustic_env.report.page import Section
from acoustic_env.report.parts import Code, Part, Table, Terms, Text, in_turn
from acoustic_env.store.failures import Failures, count_failures
from acoustic_env.store.feature_store import FeatureStore

RUNS: Final = 20
EXAMPLES: Final = 15
LABELS: Final = 20


def runs_section(store: FeatureStore) -> Section | None:
    """Describe every run of the extraction and the throughput of each stage; None without runs."""
    runs = store.runs()
    if not runs:
        return None
    shown = runs[-RUNS:]
    earlier = f" The {len(runs) - len(shown):,} earlier runs are not listed." if len(runs) > len(shown) else ""
    several = f"{len(runs):,} run{'s' if len(runs) > 1 else ''} wrote to this store."
    header = ("run", "engine", "clips on the list", "to do", "finished", "failed", "minutes", "clips/s")
    section = Section("What was run", [Text(f"{several} A run computes only what is missing.{earlier}")])
    section.add(Table("Runs, oldest first", header, [_run_row(run) for run in shown]))
    measured = [run for run in runs if run.get("throughput")]
    if measured:
        last = measured[-1]
        seconds = last.get("seconds", {})
        stages = [(stage, float(rate), float(seconds.get(stage, 0.0))) for stage, rate in last["throughput"].items()]
        title = f"Throughput of each stage, run {last.get('run_id', '')}"
        section.add(Table(title, ("stage", "clips per worker-second", "worker-seconds"), stages))
        section.add(Text("A worker-second is a second of one worker of that stage, without waiting.", "quiet"))
    return section


def _run_row(run: Mapping[str, Any]) -> tuple[object, ...]:
    minutes = float(run.get("seconds", {}).get("wall", 0.0)) / 60
    counts = [run.get(key) for key in ("clips", "pending", "finished", "failed")]
    engine = run.get("settings", {}).get("engine", "")
    return (Code(run.get("run_id", "")), engine, *counts, round(minutes, 2), run.get("clips_per_second"))


def store_section(store: FeatureStore) -> Section | None:
    """List the blocks of the store and how many clips each holds; None for an empty store."""
    rows: list[tuple[object, ...]] = []
    for block in store.blocks():
        for version in store.fingerprints(block):
            counts = Counter(store.committed_keys(block, version.fingerprint)["signal"].to_pylist())
            clips = ", ".join(f"{signal} {count:,}" for signal, count in sorted(counts.items()))
            rows.append((block, version.version, version.engine, Code(version.fingerprint), clips))
    if not rows:
        return None
    header = ("block", "version", "engine", "fingerprint", "clips")
    text = "A fingerprint covers all settings that can change a number; tables of different ones never mix."
    table = Table("Blocks in the store, clips by signal", header, rows)
    return Section("Feature tables", [table, Text(text, "quiet")])


def clips_section(clips: pa.Table, recipe: Recipe | None) -> Section:
    """Describe the clip list, the classes that the recipe makes of it, and the clips it excludes."""
    sources = Counter(clips["source"].to_pylist())
    named = ", ".join(f"{source} {count:,}" for source, count in sources.most_common(5) if source)
    terms: dict[str, object] = {"clips on the list": clips.num_rows}
    terms |= {"recordings (groups)": pc.count_distinct(clips["group"]).as_py()}
    terms |= {"sources": named} if named else {}
    terms |= {"recipe": f"{recipe.name}, {recipe.task}"} if recipe else {}
    section = Section("Data", [Terms(list(terms.items()))])
    if recipe is None:
        counts = Counter(pc.list_flatten(clips["labels"]).to_pylist())
        rows = [(class_name(name), count) for name, count in counts.most_common(LABELS)]
        section.add(Table("Labels, most frequent first", ("label", "clips"), rows))
        return section
    selection = select(clips, recipe)
    excluded = [(reason, len(ids), ", ".join(ids[:3])) for reason, ids in selection.left_out.items()]
    listed = Table("Clips excluded by the recipe", ("because they", "clips", "for example"), excluded)
    section.add(_classes(selection, recipe), listed if excluded else Text("The recipe excludes no clip."))
    return section


def _classes(selection: Selection, recipe: Recipe) -> Table:
    """Count the clips of each class by role in the split, where the list can be split."""
    clips = selection.clips
    roles = {"clips": range(clips.num_rows), **(split_rows(clips, recipe) or {})}
    of_role = [clips["class"].take(pa.array(rows, pa.int64())) for rows in roles.values()]
    counted = [Counter(pc.list_flatten(classes).to_pylist()) for classes in of_role]
    order = sorted(selection.classes, key=lambda name: -counted[0][name])[:LABELS]
    more = f", the {len(order)} largest of {len(selection.classes)}" if len(order) < len(selection.classes) else ""
    rows = [(class_name(name), *(count[name] for count in counted)) for name in order]
    return Table(f"Clips of each class{more}", ("class", *roles), rows)


def errors_section(store: FeatureStore) -> Section:
    """List the clips that failed, by block and code, with some of the messages."""
    errors = Failures(store.errors()).open(store)
    if not errors.num_rows:
        return Section("Errors", [Text("Every clip that was tried has its features; there are no errors.")])
    counts = [(row.block or "source", row.code, row.clips, row.permanent) for row in count_failures(errors)]
    clips = pc.count_distinct(errors["clip_id"]).as_py()
    text = "A failed clip never stops a run; the next run retries transient errors, such as those of a network."
    messages = errors.select(["clip_id", "block", "code", "message"]).to_pylist()
    examples = [tuple(row.values()) for row in in_turn(messages, lambda row: row["code"])[:EXAMPLES]]
    parts: list[Part] = [
        Text(f"{clips:,} clip{'s' if clips > 1 else ''} failed. {text}"),
        Table("Errors by block and code", ("block", "code", "clips", "of them permanent"), counts),
        Table("Examples", ("clip", "block", "code", "message"), examples),
    ]
    return Section("Errors", parts)
