"""Estimate how long a run takes from the last run that computed the same: worker seconds a clip over the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from acoustic_env.pipeline.plan import Plan

ALIKE: Final = ("engine", "device")  # settings


def describe_estimate(
    records: Sequence[Mapping[str, Any]], planned: Mapping[str, Any], plan: Plan, clips: int, nodes: int
) -> str:
    """Return a line that says how long a run takes, or how to find out.

    Args:
        records: of the store's runs, oldest first.
        planned: the record of the planned run: `settings` and `fingerprints` count.
        plan: the pools.
        clips: pending.
        nodes: that work.
    """
    alike = [record for record in records if _alike(record, planned)]
    if not alike:
        return (
            "estimate  none: no run of these blocks and signals is recorded in this store; a run of 200 clips on these "
            "machines is: the same command with --limit 200 instead of --dry-run"
        )
    last = alike[-1]
    seconds = last["seconds"]["wall"] * last["pools"]["cpu"] / last["finished"]
    hours = clips * seconds / plan.compute[0].workers / 3600
    return (
        f"estimate  {clips:,} clips: {hours:.2f} h, {hours * nodes:.2f} node-hours: {seconds:.3f} worker seconds a "
        f"clip, as in run {last['run_id']} of {last['finished']:,} clips"
    )


def _alike(record: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    """Whether a run computed the same versions, and got through some clips with workers that are known."""
    same = record.get("fingerprints") == planned["fingerprints"]
    same = same and all(record.get("settings", {}).get(name) == planned["settings"].get(name) for name in ALIKE)
    known = record.get("pools", {}).get("cpu") and record.get("seconds", {}).get("wall")
    return bool(same and record.get("finished") and known)
