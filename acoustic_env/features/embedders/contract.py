"""The contract of an embedder, and the feature blocks that wrap one.

An `Embedder` turns waveforms into embeddings and class scores per frame; how it batches and where it runs is its own
affair. An `EmbedderBlock` makes a feature block of it: one vector per clip, the mean over frames, with the weights'
sha256 in the fingerprint. A `FramesBlock` keeps every frame. Both of one network share the loaded model, and what was
computed for a batch is remembered, so asking for both costs one pass.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, get_args
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.audio.signals import SIGNALS
from acoustic_env.errors import UsageError
from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms
from acoustic_env.features.embedders.front_end import FrontEnd
from acoustic_env.features.embedders.weights import class_names, weights_sha256
from acoustic_env.features.embedders.weights_registry import check_front_end, weights_source

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)


@dataclass(frozen=True)
class EmbedderOutput:
    """What an embedder gives for a batch.

    Attributes:
        embeddings: float32[clips, frames, embedding].
        scores: float32[clips, frames, classes] in [0, 1]; None for a network without classes.
    """

    embeddings: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None = None


class Embedder(ABC):
    """A network with its front end. Built without reading anything; `load` reads the weights.

    Attributes:
        sample_rate: Hz its waveforms must have.
        min_samples: shortest input that fills one frame; shorter waveforms are padded with zeros at the end.
        frame_hop_s: seconds from frame to frame.
        embedding_size: length of an embedding.
        score_size: number of classes; 0 without classes.
        front_end: what its network is fed; None without a network.
        weights: name in the weights registry; None for an embedder without weights.
        precision: float32, or tf32 or bf16 matrix products where the device has them.
        readers: blocks that share this embedder.
    """

    sample_rate: int
    min_samples: int
    frame_hop_s: float
    embedding_size: int
    score_size: int
    front_end: FrontEnd | None
    weights: str | None
    precision: Precision = "float32"
    readers: int = 0

    @abstractmethod
    def load(self, device: str) -> None:
        """Read the weights and build the network on "cpu" or "cuda". A second call with the same device does nothing.

        Raises:
            UsageError: weights absent, damaged or of another architecture; a library missing.
        """

    @abstractmethod
    def embed(self, waveforms: Waveforms) -> EmbedderOutput:
        """Embeddings and scores of every frame; one clip's numbers do not depend on the others of the batch.

        Args:
            waveforms: [clips, samples] at `sample_rate`, all of one length.

        Raises:
            ClipError: out_of_memory, when not even one clip fits.
        """

    def embed_once(self, waveforms: Waveforms) -> EmbedderOutput:
        """As `embed`, remembering the last batches when several blocks read them; shapes are checked.

        Raises:
            ValueError: waveforms that are not [clips, samples], or an output of other shape than promised.
        """
        if waveforms.ndim != 2 or waveforms.shape[1] == 0:
            msg = f"waveforms are [clips, samples], not of shape {waveforms.shape}"
            raise ValueError(msg)
        if self.readers < 2:
            return self._checked(self.embed(waveforms), len(waveforms))
        key = (
            hashlib.blake2b(np.ascontiguousarray(waveforms).data, digest_size=16).digest()
            + repr((waveforms.shape, waveforms.dtype.str)).encode()
        )
        memo: OrderedDict[bytes, EmbedderOutput] = self.__dict__.setdefault("_memo", OrderedDict())
        if key not in memo:
            memo[key] = self._checked(self.embed(waveforms), len(waveforms))
            if len(memo) > len(SIGNALS):
                memo.popitem(last=False)
        return memo[key]

    def _checked(self, output: EmbedderOutput, clips: int) -> EmbedderOutput:
        for values, size in ((output.embeddings, self.embedding_size), (output.scores, self.score_size)):
            shape = (0, 1, 0) if values is None else values.shape
            if (values is not None or size) and (shape[0] != clips or shape[1] < 1 or shape[2] != size):
                msg = f"embedder of {self.weights}: {shape} for {clips} clips, expected [{clips}, frames, {size}]"
                raise ValueError(msg)
        return output

    def parameters(self) -> dict[str, Json]:
        """What besides weights, front end and precision can change a number: padding rule, options."""
        return {}

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the scores, [score_size]; empty without classes."""
        return class_names(self.weights) if self.weights is not None and self.score_size else ()


class EmbedderBlock(FeatureBlock):
    """One vector per clip and signal: the mean over frames of the embedding, and of the class scores.

    A subclass names its networks and builds its embedder; everything else is here.

    Args:
        engine: fast or reference.
        weights: name in the weights registry; None for `default_weights`.
        precision: float32, tf32 or bf16; only float32 on the reference engine.
        frames: the recipe also wants the per-frame table, which is the block NAME_frames; nothing changes here.
        options: the subclass's own, handed to `make_embedder`.

    Attributes:
        architecture: the network, as the weights registry calls it.
        default_weights: by engine; empty for a network without weights.
        keeps_frames: whether the table has a row per frame instead of the mean.
    """

    version = 1
    architecture: ClassVar[str]
    default_weights: ClassVar[Mapping[Engine, str]]
    keeps_frames: ClassVar[bool] = False

    def __init__(
        self,
        engine: Engine,
        *,
        weights: str | None = None,
        precision: str = "float32",
        frames: bool = False,
        **options: Json,
    ) -> None:
        if precision not in PRECISIONS:
            msg = f"block {self.name}: precision {precision!r} is not one of {', '.join(PRECISIONS)}"
            raise UsageError(msg)
        if engine == "reference" and precision != "float32":
            msg = f"block {self.name}: the reference engine computes in float32, not {precision}"
            raise UsageError(msg)
        if not isinstance(frames, bool):
            msg = f"block {self.name}: frames is true or false, not {frames!r}"
            raise UsageError(msg)
        self.engine = engine
        wanted = weights or self.default_weights.get(engine)
        source = None if wanted is None else weights_source(wanted, self.architecture)
        embedder = self.make_embedder(engine, "" if source is None else source.name, precision, **options)
        if source is not None and embedder.front_end is not None:
            check_front_end(source, embedder.front_end)
        self.embedder = _shared(embedder)
        self.embedder.readers += 1
        self.sample_rate = embedder.sample_rate
        self.frame_hop_s = embedder.frame_hop_s if self.keeps_frames else None
        self.columns = self._columns()

    @abstractmethod
    def make_embedder(self, engine: Engine, weights: str, precision: Precision, **options: Json) -> Embedder:
        """The embedder, not loaded; `weights` is "" for a network without any.

        Raises:
            TypeError: an option it does not know (the registry turns this into a UsageError).
            UsageError: an option with a wrong value.
        """

    def parameters(self) -> dict[str, Json]:
        """Weights, front end, precision, and what else of the embedder can change a number.

        Raises:
            UsageError: the weights are not in the cache, so nobody can say which they are.
        """
        embedder = self.embedder
        return {
            "weights": embedder.weights,
            "weights_sha256": weights_sha256(embedder.weights) if embedder.weights is not None else None,
            "front_end": embedder.front_end.parameters() if embedder.front_end is not None else None,
            "precision": embedder.precision,
            **embedder.parameters(),
        }

    def metadata(self) -> dict[str, str]:
        """Origin and license of the weights, class names, library versions."""
        pooling = "none" if self.keeps_frames else "mean over frames"
        described = {"libraries": json.dumps(_versions(self.engine)), "pooling": pooling}
        if self.embedder.weights is None:
            return {**described, "weights_origin": "none"}
        source = weights_source(self.embedder.weights)
        return {
            **described,
            "weights_origin": source.url,
            "weights_sha256": weights_sha256(source.name),
            "weights_license": source.license,
            "class_names": json.dumps(self.embedder.class_names()),
        }

    def load(self, device: str) -> None:
        self.embedder.load(device)

    def compute(self, waveforms: Waveforms) -> Columns:
        output = self.embedder.embed_once(waveforms)
        columns: Columns = {"embedding": self._pool(output.embeddings)}
        if output.scores is not None:
            columns["scores"] = self._pool(output.scores)
        return columns

    def _pool(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.keeps_frames:
            return values
        mean: npt.NDArray[np.float32] = values.mean(axis=1, dtype=np.float64).astype(np.float32)
        return mean

    def _columns(self) -> tuple[Column, ...]:
        size, classes = self.embedder.embedding_size, self.embedder.score_size
        columns = [Column("embedding", pa.list_(pa.float32(), size), "1", f"{self.name} embedding")]
        if classes:
            columns.append(Column("scores", pa.list_(pa.float32(), classes), "1", f"{self.name} class scores, 0 to 1"))
        return tuple(columns)


class FramesBlock(EmbedderBlock):
    """Mix-in that keeps every frame: put it before the block, `class YamnetFramesBlock(FramesBlock, YamnetBlock)`."""

    keeps_frames = True


# One loaded model per process for all blocks that use it alike.
_SHARED: WeakValueDictionary[str, Embedder] = WeakValueDictionary()


def _shared(embedder: Embedder) -> Embedder:
    kind = type(embedder)
    own = [kind.__module__, kind.__qualname__, embedder.weights, embedder.precision, embedder.parameters()]
    return _SHARED.setdefault(json.dumps(own, sort_keys=True), embedder)


def _versions(engine: Engine) -> dict[str, str]:
    names = ["numpy", "torch"] if engine == "fast" else ["numpy", "torch", "tensorflow", "tensorflow-hub"]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
