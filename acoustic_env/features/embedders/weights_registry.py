"""The published weights (weights.toml): origin, license and checksum of each, and the front ends of their training."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from acoustic_env.errors import UsageError
from acoustic_env.features.embedders.front_end import FrontEnd

# savedmodel: a TF-Hub .tar.gz; torch: a checkpoint read with weights_only; classes: a CSV with a column
# display_name, in the order of the scores.
Format = Literal["tflite", "savedmodel", "torch", "classes"]


@dataclass(frozen=True)
class WeightsSource:
    """One published file of weights."""

    name: str  # how recipes and commands call it
    url: str  # origin
    license: str  # SPDX id, of the weights
    file_name: str  # its name in the cache
    format: Format
    architecture: str = ""  # the network it fits; an embedder takes only its own. "" for a list of classes
    front_end: FrontEnd | None = None  # what it was trained with; None for a list of classes
    sha256: str | None = None  # of the file; None where none is published: the first fetch is trusted, and recorded
    size: int | None = None  # bytes; None where not known
    class_list: str | None = None  # entry with the names of its classes; None without, or where it holds them itself
    note: str = ""  # where the checksum is from, for people


# tensorflow/models, research/audioset/yamnet/params.py.
YAMNET_FRONT_END: Final = FrontEnd(
    sample_rate=16000,
    window=400,
    hop=160,
    fft=512,
    mel_bands=64,
    low_hz=125.0,
    high_hz=7500.0,
    mel_scale="htk",
    spectrum="magnitude",
    compression="log(x + 0.001)",
    patch_frames=96,
    patch_hop=48,
)
# tensorflow/models, research/audioset/vggish/vggish_params.py.
VGGISH_FRONT_END: Final = replace(YAMNET_FRONT_END, compression="log(x + 0.01)", patch_hop=96)
# panns-inference 0.1.1, AudioTagging: torchlibrosa's Spectrogram and LogmelFilterBank.
CNN14_FRONT_END: Final = FrontEnd(
    sample_rate=32000,
    window=1024,
    hop=320,
    fft=1024,
    mel_bands=64,
    low_hz=50.0,
    high_hz=14000.0,
    mel_scale="slaney",
    spectrum="power",
    compression="10 log10(max(x, 1e-10))",
)
# fschmid56/EfficientAT, models/preprocess.py in evaluation mode.
MN04_FRONT_END: Final = FrontEnd(
    sample_rate=32000,
    window=800,
    hop=320,
    fft=1024,
    mel_bands=128,
    low_hz=0.0,
    high_hz=15000.0,
    mel_scale="kaldi",
    spectrum="power",
    compression="(log(x + 0.00001) + 4.5) / 5 after pre-emphasis 0.97",
)

FRONT_ENDS: Final = {
    "vggish": VGGISH_FRONT_END,
    "yamnet": YAMNET_FRONT_END,
    "cnn14": CNN14_FRONT_END,
    "mn04": MN04_FRONT_END,
}


def _read(table: Path) -> dict[str, WeightsSource]:
    entries = tomllib.loads(table.read_text(encoding="utf-8"))
    for entry in entries.values():
        if "front_end" in entry:
            entry["front_end"] = FRONT_ENDS[entry["front_end"]]
    return {name: WeightsSource(name, **entry) for name, entry in entries.items()}


WEIGHTS: Final = _read(Path(__file__).with_name("weights.toml"))


def weights_source(name: str, architecture: str | None = None) -> WeightsSource:
    """Return the named weights.

    Args:
        name: as in `weights ls`; the network's name may be left out by one that asks for its own (tflite for
            yamnet-tflite).
        architecture: the network that asks for them; None for any.

    Raises:
        UsageError: no such weights, or made for another network.
    """
    fitting = [s.name for s in WEIGHTS.values() if architecture in (None, s.architecture)]
    asked, name = name, name if name in WEIGHTS else f"{architecture}-{name}"
    if name not in WEIGHTS:
        raise UsageError(f"no weights named {asked!r}; expected one of: {', '.join(fitting)}")
    source = WEIGHTS[name]
    if architecture is not None and source.architecture != architecture:
        raise UsageError(
            f"weights {name!r} are for the network {source.architecture}, not {architecture}; use {', '.join(fitting)}"
        )
    return source


def check_front_end(source: WeightsSource, actual: FrontEnd) -> None:
    """Reject a front end other than the one the weights were trained with, before anything is read or fetched.

    Raises:
        UsageError: names every setting that differs, expected against actual.
    """
    differences = source.front_end.differences(actual) if source.front_end is not None else []
    if differences:
        raise UsageError(f"weights {source.name!r} were trained with another front end: {'; '.join(differences)}")
