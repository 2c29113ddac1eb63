"""What there is to do: the blocks of a run, and which (clip, block, signal) rows are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from acoustic_env.audio import prepare
from acoustic_env.audio.signals import SIGNALS, in_order, signal_order
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.features.block import METADATA_PREFIX, Engine, FeatureBlock, Json, table_schema
from acoustic_env.features.registry import make_block
from acoustic_env.io.documents import load_recipe
from acoustic_env.options import ExtractSettings

MAX_PAIRS: Final = 63  # one bit a (block, signal), in an int64
KEY_BYTES: Final = 32  # of a text in a row, about


@dataclass(frozen=True)
class BlockSpec:
    """One block of a run, as plain data that travels to every worker.

    Attributes:
        name: in the registry.
        engine: fast or reference.
        options: of the recipe.
        position: the block's place among the blocks of the run.
        signals: those of the run; the n-th has bit `position * len(signals) + n` of `need`.
    """

    name: str
    engine: Engine
    position: int
    signals: tuple[str, ...]
    options: Mapping[str, Json] = field(default_factory=dict)

    def make(self) -> FeatureBlock:
        """The block, not yet loaded."""
        return make_block(self.name, self.engine, self.options)

    def bit(self, signal: str) -> int:
        """The mask in `need` of one signal of this block."""
        return 1 << (self.position * len(self.signals) + self.signals.index(signal))

    @property
    def mask(self) -> int:
        """All bits of the block."""
        return sum(self.bit(signal) for signal in self.signals)


@dataclass(frozen=True)
class BlockWork:
    """A block of the run with its tables' schemas: what the plan shows and the sink writes.

    Attributes:
        spec: the block.
        schemas: of its table, for each wanted signal; they differ in their metadata alone.
        sample_rate: Hz its waveforms must have.
        architecture: the network it runs, None for one without.
        gpu_pool: the pool that takes it where there are GPUs, one for all blocks of a network; None for a block of
            processors only.
        bytes_per_s: memory that it needs for each second of a waveform.
    """

    spec: BlockSpec
    schemas: Mapping[str, pa.Schema]
    sample_rate: int
    architecture: str | None
    gpu_pool: str | None
    bytes_per_s: int = FeatureBlock.bytes_per_s

    def row_bytes(self, clip_s: float) -> float:
        """Return the bytes in memory of all rows of a clip that lasts so many seconds."""
        own = self.schema
        hop = float((own.metadata or {}).get(f"{METADATA_PREFIX}frame_hop_s".encode(), b"0"))
        frames = max(1.0, clip_s / hop) if "frame" in own.names and hop else 1.0
        return KEY_BYTES + frames * len(self.spec.signals) * sum(map(_type_bytes, own.types))

    @property
    def schema(self) -> pa.Schema:
        """Of the rows of all signals together, as they travel; the fingerprint it names is of one of them only."""
        return next(iter(self.schemas.values()))

    @property
    def fingerprints(self) -> dict[str, str]:
        """Signal -> fingerprint of its rows."""
        key = f"{METADATA_PREFIX}fingerprint".encode()
        return {signal: schema.metadata[key].decode() for signal, schema in self.schemas.items()}

    def versions(self) -> dict[str, tuple[str, ...]]:
        """Fingerprint -> the wanted signals whose rows have it."""
        found = self.fingerprints
        return {
            fingerprint: tuple(signal for signal in self.schemas if found[signal] == fingerprint)
            for fingerprint in dict.fromkeys(found.values())
        }


def resolve_blocks(settings: ExtractSettings, recipe: Recipe | None = None) -> list[BlockWork]:
    """The blocks of a run with their fingerprints: those named, else the recipe's, else indices and mps.

    Raises:
        UsageError: unknown block or signal, or options a block does not know.
    """
    if recipe is None:
        recipe = load_recipe(settings.recipe) if settings.recipe else Recipe(name="default")
    signals = in_order(settings.signals or (*recipe.signals, *recipe.variant_signals))
    chosen: dict[str, Mapping[str, Json]] = {}
    for name in settings.blocks or recipe.blocks:
        options = recipe.block_options(name)
        chosen[name] = options
        if options.get("frames") and not name.endswith("_frames"):
            chosen[f"{name}_frames"] = options
    if not 1 <= len(chosen) * len(signals) <= MAX_PAIRS:
        raise UsageError(
            f"--blocks, --signals: {len(chosen)} feature blocks (per-frame ones included) of {len(signals)} signals; "
            f"one run computes 1 to {MAX_PAIRS} pairs of a block and a signal"
        )
    return [
        block_work(BlockSpec(name, settings.engine, position, signals, options))
        for position, (name, options) in enumerate(chosen.items())
    ]


def block_work(spec: BlockSpec) -> BlockWork:
    """Schemas of a block under the audio settings of its rate, engine and signals."""
    block = spec.make()
    every = in_order((*SIGNALS, *spec.signals))
    audio = {signal: prepare.parameters(block.sample_rate, spec.engine, signal) for signal in every}
    alike = {signal: [other for other in every if audio[other] == audio[signal]] for signal in spec.signals}
    schemas = {signal: table_schema(block, audio[signal], alike[signal]) for signal in spec.signals}
    return BlockWork(spec, schemas, block.sample_rate, block.architecture, block.gpu_pool, block.bytes_per_s)


def _type_bytes(kind: pa.DataType) -> float:
    if pa.types.is_fixed_size_list(kind):
        return float(kind.list_size * _type_bytes(kind.value_type))
    return float(kind.bit_width / 8) if pa.types.is_primitive(kind) else KEY_BYTES


def lacking_pairs(need: int, specs: Sequence[BlockSpec]) -> list[tuple[BlockSpec, str]]:
    """Return the pairs of a block and a signal that one clip lacks."""
    return [(spec, signal) for spec in specs for signal in spec.signals if need & spec.bit(signal)]


def missing_signals(need: int, specs: Sequence[BlockSpec]) -> tuple[str, ...]:
    """Return the signals of one clip that any of the blocks lacks."""
    return tuple(sorted({signal for _, signal in lacking_pairs(need, specs)}, key=signal_order))
