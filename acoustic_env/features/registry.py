"""The blocks there are: adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from acoustic_env.errors import UsageError
from acoustic_env.features.block import Engine, FeatureBlock, Json

# Named, not imported: a worker loads only the libraries of the blocks it computes.
BLOCKS: Final[dict[str, str]] = {
    "indices": "acoustic_env.features.indices:IndicesBlock",
    "mps": "acoustic_env.features.modulation:ModulationBlock",
    "vggish": "acoustic_env.features.embedders.vggish:VggishBlock",
    "yamnet": "acoustic_env.features.embedders.yamnet:YamnetBlock",
    "panns": "acoustic_env.features.embedders.panns:PannsBlock",
    "mn04": "acoustic_env.features.embedders.mn04:Mn04Block",
    "vggish_frames": "acoustic_env.features.embedders.vggish:VggishFramesBlock",
    "yamnet_frames": "acoustic_env.features.embedders.yamnet:YamnetFramesBlock",
    "mn04_frames": "acoustic_env.features.embedders.mn04:Mn04FramesBlock",
    "placeholder": "acoustic_env.features.embedders.placeholder:PlaceholderBlock",
    "placeholder_frames": "acoustic_env.features.embedders.placeholder:PlaceholderFramesBlock",
}

# Read from files others made, never from waveforms.
IMPORTED: Final[dict[str, str]] = {
    "vggish_released": "acoustic-env clips from-audioset-embeddings writes it to the store",
}


def make_block(name: str, engine: Engine, options: Mapping[str, Json] | None = None) -> FeatureBlock:
    """The named block, not yet loaded.

    Raises:
        UsageError: no such block, or an option it does not know.
    """
    if name in IMPORTED:
        msg = f"block {name} is not computed from audio: {IMPORTED[name]}"
        raise UsageError(msg)
    if name not in BLOCKS:
        msg = f"no feature block named {name!r}; there are {', '.join(BLOCKS)}"
        raise UsageError(msg)
    module, _, attribute = BLOCKS[name].partition(":")
    block = getattr(import_module(module), attribute)
    try:
        made: FeatureBlock = block(engine, **dict(options or {}))
    except TypeError as error:
        msg = f"block {name}: {error}; check the recipe's options for it"
        raise UsageError(msg) from error
    return made
