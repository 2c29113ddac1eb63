"""The published weights: origin, license and checksum of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    architecture: str  # the network it fits; an embedder takes only its own. "" for a list of classes
    url: str  # origin
    license: str  # SPDX id, of the weights
    file_name: str  # its name in the cache
    format: Format
    front_end: FrontEnd | None  # what it was trained with; None for a list of classes
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

_SOURCES: Final = (
    WeightsSource(
        name="vggish-tfhub",
        architecture="vggish",
        url="https://tfhub.dev/google/vggish/1?tf-hub-format=compressed",
        license="Apache-2.0",
        file_name="vggish_1.tar.gz",
        format="savedmodel",
        front_end=VGGISH_FRONT_END,
        note="no checksum is published: the first fetch is trusted and its sha256 recorded",
    ),
    WeightsSource(
        name="yamnet-tfhub",
        architecture="yamnet",
        url="https://tfhub.dev/google/yamnet/1?tf-hub-format=compressed",
        license="Apache-2.0",
        file_name="yamnet_1.tar.gz",
        format="savedmodel",
        front_end=YAMNET_FRONT_END,
        sha256="b80da2a1a56926fb0767205051a200dd7b3beaf3ea1ea126c42a53943996e5e0",
        note="sha256 as several public projects report it; TF-Hub publishes none",
    ),
    WeightsSource(
        name="yamnet-tflite",
        architecture="yamnet",
        url="https://tfhub.dev/google/lite-model/yamnet/tflite/1?lite-format=tflite",
        license="Apache-2.0",
        file_name="yamnet.tflite",
        format="tflite",
        front_end=YAMNET_FRONT_END,
        sha256="687f226c147a2caab4706fbbab5e9cecb14b9a368264bf61108078b1fddf68f5",
        size=3959752,
        class_list="yamnet-classes",
        note="int8",
    ),
    WeightsSource(
        name="panns-cnn14",
        architecture="cnn14",
        url="https://zenodo.org/records/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
        license="CC-BY-4.0",
        file_name="Cnn14_mAP=0.431.pth",
        format="torch",
        front_end=CNN14_FRONT_END,
        sha256="0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
        size=327428481,
        class_list="audioset-classes",
        note="sha256 as several public projects report it; Zenodo publishes md5 541141fa2ee191a88f24a3219fff024e",
    ),
    WeightsSource(
        name="mn04",
        architecture="mn04",
        url="https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
        license="MIT",
        file_name="mn04_as_mAP_432.pt",
        format="torch",
        front_end=MN04_FRONT_END,
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        size=4066513,
        class_list="audioset-classes",
    ),
    WeightsSource(
        name="yamnet-classes",
        architecture="",
        url="https://raw.githubusercontent.com/tensorflow/models/master/research/audioset/yamnet/yamnet_class_map.csv",
        license="Apache-2.0",
        file_name="yamnet_class_map.csv",
        format="classes",
        front_end=None,
        sha256="cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
        size=14096,
    ),
    WeightsSource(
        name="audioset-classes",
        architecture="",
        url="https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv/class_labels_indices.csv",
        license="CC-BY-4.0",
        file_name="class_labels_indices.csv",
        format="classes",
        front_end=None,
        sha256="cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429",
        size=14675,
    ),
)
WEIGHTS: Final[dict[str, WeightsSource]] = {source.name: source for source in _SOURCES}


def weights_source(name: str, architecture: str | None = None) -> WeightsSource:
    """Return the named weights.

    Args:
        name: as in `weights ls`; the network's name may be left out by one that asks for its own (tflite for
            yamnet-tflite).
        architecture: the network that asks for them; None for any.

    Raises:
        UsageError: no such weights, or made for another network.
    """
    fitting = [s.name for s in _SOURCES if architecture in (None, s.architecture)]
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
