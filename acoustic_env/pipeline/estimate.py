"""Estimate how long a run takes and where its time goes, from rates that earlier runs recorded or `bench` measured.

hours of a pool = sum over its stages (units x worker seconds per unit) / (workers x 3600). Pools work at the same time,
so the run takes as long as the busiest one. Clips are assumed to be as long as those the rates come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from acoustic_env.errors import UsageError
from acoustic_env.io.documents import read_mapping
from acoustic_env.pipeline.plan import Plan
from acoustic_env.pipeline.stages import REMOTE_READERS

RECENT_RUNS: Final = 5  # that the rates are taken from
BENCH_STAGES: Final = {"separation": "prepare", "modulation": "mps"}  # others have the same name
BENCH_SIGNALS: Final = 3  # of each clip in `bench`
READING, DSP, NETWORKS, WRITING = PARTS = "reading", "DSP", "networks", "writing"

Pools = Mapping[str, Mapping[str, Any]]  # pool -> its number of "workers" and its "stages"


def pools_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return pool -> its workers and the stages they do, for the run record."""
    found: dict[str, dict[str, Any]] = {}
    for position, pool in enumerate(plan.compute):
        stages = ["prepare"] if position == 0 else []
        stages += ["decode"] if position == 0 and plan.decode is None else []
        stages += [work.spec.name for work in pool.blocks]
        found[pool.name] = {"workers": pool.workers, "stages": stages}
    if plan.decode is not None:
        found[plan.decode.name] = {"workers": plan.decode.workers, "stages": ["decode"]}
    return found | {plan.write.name: {"workers": plan.write.workers, "stages": ["write"]}}


@dataclass(frozen=True)
class Rates:
    """What each stage costs.

    Attributes:
        seconds: stage -> worker seconds per unit: a pair of a clip and a signal for a block, else a clip.
        utilization: share of the time in which the workers of the busiest pool were busy, 0 to 1.
        source: where the rates come from.
    """

    seconds: Mapping[str, float]
    utilization: float
    source: str


def recorded_rates(records: Sequence[Mapping[str, Any]], pools: Pools, engine: str) -> Rates:
    """Return the mean rates of the last runs with this engine whose stages ran in pools of the same name.

    Args:
        records: run records as read back, oldest first.
        pools: of the planned run.
        engine: of the planned run.
    """
    seconds: dict[str, float] = {}
    units: dict[str, float] = {}
    busy = capacity = 0.0
    alike = [each for each in records if each.get("pools") and each.get("finished") and _engine(each) == engine]
    recent = alike[-RECENT_RUNS:]
    for record in recent:
        wall, spent = record["seconds"]["wall"], record["seconds"]
        totals = {
            name: sum(spent.get(stage, 0.0) for stage in pool["stages"]) for name, pool in record["pools"].items()
        }
        name = max(totals, key=lambda pool: totals[pool] / _capacity(record["pools"], pool))
        busy, capacity = busy + totals[name], capacity + wall * _capacity(record["pools"], name)
        share = record["finished"] / record["pending"]
        for pool, use in record["pools"].items():
            for stage in set(use["stages"]) & set(spent) & set(pools.get(pool, {}).get("stages", ())):
                done = record["pairs"][stage] * share if stage in record["pairs"] else record["finished"]
                seconds[stage] = seconds.get(stage, 0.0) + spent[stage]
                units[stage] = units.get(stage, 0.0) + done
    clips = sum(record["finished"] for record in recent)
    rates = {stage: spent / units[stage] for stage, spent in seconds.items() if units[stage]}
    return Rates(rates, min(1.0, busy / capacity) if capacity else 1.0, f"{clips:,} clips of earlier runs")


def bench_rates(url: str, engine: str) -> Rates:
    """Return the rates of one thread that `bench --json` printed into a file; it does not measure writing.

    Raises:
        UsageError: the file cannot be read or is something else.
    """
    result = read_mapping(url, "--rates")
    try:
        stages = {each["stage"]: float(each[f"{engine}_s_per_clip"]) for each in result["stages"]}
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{url}: not the output of acoustic-env bench --json ({error!r}); make it with: acoustic-env bench --json"
        raise UsageError(msg) from error
    names = {stage: BENCH_STAGES.get(stage, stage) for stage in stages}
    per_clip = ("decode", "prepare")
    seconds = {names[stage]: s if names[stage] in per_clip else s / BENCH_SIGNALS for stage, s in stages.items()}
    return Rates(seconds, 1.0, url)


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        hours: pool -> hours if its workers are always busy.
        parts: reading, DSP, networks and writing -> worker seconds per pending clip.
        bottleneck: pool that takes longest, and the part that takes most of its time.
        utilization: of earlier runs, 0 to 1.
        source: where the rates come from.
        unknown: stages without a rate; there is no estimate unless this is empty.
    """

    hours: Mapping[str, float]
    parts: Mapping[str, float]
    bottleneck: tuple[str, str]
    utilization: float
    source: str
    unknown: tuple[str, ...] = ()


def estimate(pools: Pools, clips: int, pairs: Mapping[str, int], networks: Sequence[str], rates: Rates) -> Estimate:
    """Estimate a planned run.

    >>> pools = {"cpu": {"workers": 2, "stages": ["decode", "mps"]}, "write": {"workers": 1, "stages": ["write"]}}
    >>> rates = Rates({"decode": 0.01, "mps": 0.05, "write": 0.002}, 0.8, "1 run")
    >>> found = estimate(pools, 36_000, {"mps": 108_000}, [], rates)
    >>> {pool: round(hours, 3) for pool, hours in found.hours.items()}, found.bottleneck
    ({'cpu': 0.8, 'write': 0.02}, ('cpu', 'DSP'))

    Args:
        pools: of the plan (`pools_of`).
        clips: pending clips, 1 or more.
        pairs: block -> pending pairs of a clip and a signal.
        networks: blocks that run a network.
        rates: of the stages.
    """

    def spent(stage: str) -> float:
        return rates.seconds.get(stage, 0.0) * pairs.get(stage, clips)

    stages = [stage for pool in pools.values() for stage in pool["stages"]]
    parts = dict.fromkeys(PARTS, 0.0)
    for stage in stages:
        parts[_part(stage, networks)] += spent(stage) / clips
    hours = {
        name: sum(spent(stage) for stage in pool["stages"]) / _capacity(pools, name) / 3600
        for name, pool in pools.items()
    }
    longest = max(hours, key=lambda name: hours[name])
    within = dict.fromkeys(PARTS, 0.0)
    for stage in pools[longest]["stages"]:
        within[_part(stage, networks)] += spent(stage)
    unknown = tuple(stage for stage in stages if stage not in rates.seconds and stage != "write")
    bottleneck = (longest, max(within, key=lambda part: within[part]))
    return Estimate(hours, parts, bottleneck, rates.utilization, rates.source, unknown)


def describe_estimate(found: Estimate, clips: int, nodes: int) -> list[str]:
    """Return the estimate as human-readable lines.

    Args:
        found: the estimate.
        clips: pending clips.
        nodes: that work.
    """
    if found.unknown:
        return [
            f"estimate  none: no rate of {', '.join(found.unknown)} ({found.source}); a run of 200 clips on these "
            "machines records it: the same command with --limit 200 instead of --dry-run"
        ]
    pool, part = found.bottleneck
    least = found.hours[pool]
    most = least / found.utilization
    busy = f", {most:.2f} h at their usual {found.utilization:.0%}" if found.utilization < 1 else ""
    cost = f"{least * nodes:.2f} to {most * nodes:.2f} node-hours" if busy else f"{least * nodes:.2f} node-hours"
    seconds = ", ".join(f"{name} {found.parts[name]:.4f}" for name in PARTS)
    hours = ", ".join(f"{name} {hours:.2f} h" for name, hours in found.hours.items())
    return [
        f"estimate  {clips:,} clips: {least:.2f} h with workers always busy{busy}; {cost} ({found.source})",
        f"estimate  worker seconds per clip: {seconds}",
        f"estimate  pools: {hours}; the bottleneck is pool {pool}, most of it {part}",
    ]


def _engine(record: Mapping[str, Any]) -> str:
    return str(record.get("settings", {}).get("engine"))


def _capacity(pools: Pools, name: str) -> float:
    """Worker seconds that a pool has in a second; readers of remote audio wait for several clips at once."""
    return float(pools[name]["workers"] * (REMOTE_READERS if name == "decode" else 1))


def _part(stage: str, networks: Sequence[str]) -> str:
    return {"decode": READING, "write": WRITING}.get(stage, NETWORKS if stage in networks else DSP)
