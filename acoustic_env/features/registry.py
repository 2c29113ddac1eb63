"""Feature blocks by name: built in, or from an installed package by an entry point in `acoustic_env.blocks`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

from acoustic_env.errors import UsageError
from acoustic_env.features import vggish_released
from acoustic_env.features.block import Engine, FeatureBlock, Json
from acoustic_env.registry import Registry

BLOCKS: Final[Registry[Callable[..., FeatureBlock]]] = Registry(
    "blocks",
    "feature block",
    {
        "indices": "acoustic_env.features.indices:IndicesBlock",
        "mps": "acoustic_env.features.modulation:ModulationBlock",
        "logmel": "acoustic_env.features.mel:LogMelBlock",
        "mfcc": "acoustic_env.features.mel:MfccBlock",
        "spectral": "acoustic_env.features.spectral:SpectralBlock",
        "logmel_frames": "acoustic_env.features.mel:LogMelFramesBlock",
        "mfcc_frames": "acoustic_env.features.mel:MfccFramesBlock",
        "spectral_frames": "acoustic_env.features.spectral:SpectralFramesBlock",
        "vggish": "acoustic_env.features.embedders.vggish:VggishBlock",
        "yamnet": "acoustic_env.features.embedders.yamnet:YamnetBlock",
        "panns": "acoustic_env.features.embedders.panns:PannsBlock",
        "mn04": "acoustic_env.features.embedders.mn04:Mn04Block",
        "vggish_frames": "acoustic_env.features.embedders.vggish:VggishFramesBlock",
        "yamnet_frames": "acoustic_env.features.embedders.yamnet:YamnetFramesBlock",
        "mn04_frames": "acoustic_env.features.embedders.mn04:Mn04FramesBlock",
        "placeholder": "acoustic_env.features.embedders.placeholder:PlaceholderBlock",
        "placeholder_frames": "acoustic_env.features.embedders.placeholder:PlaceholderFramesBlock",
    },
)

REFERENCE: Final = ("maad", "noisereduce", "soundsig")  # modules of the extra `reference`

# Read from published files, never computed from waveforms: of a clip a list of frames.
IMPORTED: Final = {vggish_released.NAME: vggish_released}


def names_where(attribute: str, names: Iterable[str] = BLOCKS) -> list[str]:
    """Return the names of registered blocks for which an attribute of the class is true.

    >>> names_where("handmade")
    ['indices', 'mps']
    """
    return [name for name in names if name in BLOCKS and getattr(BLOCKS.load(name), attribute)]


def make_block(name: str, engine: Engine, options: Mapping[str, Json] | None = None) -> FeatureBlock:
    """Build the named block, not yet loaded.

    Raises:
        UsageError: no such block, an option it does not know, or libraries of the reference engine are missing.

    >>> make_block("indices", "fast").sample_rate
    16000
    """
    if name in IMPORTED:
        raise UsageError(f"block {name} is not computed from audio: {IMPORTED[name].WRITTEN_BY}")
    if engine == "reference" and (missing := [library for library in REFERENCE if find_spec(library) is None]):
        raise UsageError(
            f"the reference engine runs published libraries, of which {', '.join(missing)} are not installed: "
            "pip install 'acoustic-env[reference]'"
        )
    try:
        return BLOCKS.load(name)(engine, **dict(options or {}))
    except TypeError as error:
        raise UsageError(f"block {name}: {error}; check the recipe's options for it") from error


def networks_at_hand() -> dict[str, dict[str, Json]]:
    """Return the networks of whole clips whose weights are in the cache, with the options that name other weights."""
    from acoustic_env.features.embedders.weights_cache import WeightsCache
    from acoustic_env.features.embedders.weights_registry import WEIGHTS

    cache, held = WeightsCache(), dict[str, list[str]]()
    for source in WEIGHTS.values():
        with suppress(UsageError):  # not there, or not whole
            for needed in filter(None, (source.name, source.class_list)):
                cache.record(WEIGHTS[needed])
            held.setdefault(source.architecture, []).append(source.name)
    found = dict[str, dict[str, Json]]()
    for name in BLOCKS:
        block = BLOCKS.load(name)
        usual, own = getattr(block, "default_weights", None), held.get(getattr(block, "architecture", ""), [])
        if usual is not None and own and not getattr(block, "keeps_frames", False):
            found[name] = {} if usual in own else {"weights": own[0]}
    return found
