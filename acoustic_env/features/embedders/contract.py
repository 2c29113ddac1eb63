"""The contract of an embedder: a pretrained network as a feature block.

A network is one subclass of `EmbedderBlock` (placeholder.py is the shortest) and one line of the registry; its weights
are one entry of `weights.toml`. `EmbedderBlock` pads and batches, halves a batch that does not fit into memory,
pools over frames, and fingerprints the weights' sha256. Blocks that run one network alike share the loaded model and
what it computed for a batch, so a table of means and one of frames cost one pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.errors import ClipError, UsageError
from acoustic_env.features.block import Column, Columns, Engine, FeatureBlock, Json, Waveforms, check_device
from acoustic_env.features.embedders.front_end import FrontEnd
from acoustic_env.features.embedders.weights import class_names, weights_sha256
from acoustic_env.features.embedders.weights_registry import check_front_end, weights_source
from acoustic_env.features.precision import float32_products
from acoustic_env.memory import reuse_freed_memory

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bf16"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
MOST_SIGNALS: Final = 3  # of a batch whose outputs are kept for the other blocks of a network


@dataclass(frozen=True)
class EmbedderOutput:
    """What an embedder gives for a batch.

    Attributes:
        embeddings: float32[clips, frames, embedding].
        scores: float32[clips, frames, classes] in [0, 1]; None for a network without classes.
    """

    embeddings: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32] | None = None


@dataclass
class LoadedModel:
    """A network in memory, shared by the blocks that run it alike."""

    device: str  # "cpu" or "cuda"
    preprocess: Any  # waveforms[clips, samples] -> features
    network: Any  # features -> (embeddings[clips, frames, embedding], scores[clips, frames, classes] or None)
    step: int | None = None  # samples of one step; None for the block's `step_samples`
    readers: int = 0  # blocks that share it
    outputs: OrderedDict[bytes, EmbedderOutput] = field(default_factory=OrderedDict)  # of the last batches, by hash


class EmbedderBlock(FeatureBlock):
    """One vector per clip and signal: the mean over frames of a network's embedding, and of its class scores.

    For the per-frame table: `class MyFramesBlock(FramesBlock, MyBlock): name = "my_frames"`.

    Args:
        engine: fast or reference.
        weights: name in the weights registry; None for `default_weights`.
        precision: float32, or tf32 or bf16 matrix products where the device has them; float32 on the reference engine.
        frames: the recipe also wants the per-frame table, which is the block NAME_frames; nothing changes here.

    Attributes:
        architecture: the network, as the weights registry calls it.
        default_weights: name in the weights registry; None for a network without weights.
        front_end: what the network is fed.
        sample_rate: Hz its waveforms must have.
        min_samples: shortest input that fills one frame; shorter waveforms are padded with zeros at the end.
        frame_s: seconds from frame to frame.
        embedding_size: length of an embedding.
        score_size: number of classes; 0 without classes.
        engines: those it has.
        step_samples: samples of one step by device; bounds memory, at least one clip is taken.
        converts: whether the network reads weights that are converted, once, from the published file.
    """

    version = 1
    architecture: ClassVar[str]
    default_weights: ClassVar[str | None] = None
    front_end: ClassVar[FrontEnd]
    sample_rate: int
    min_samples: int
    frame_s: ClassVar[float]
    embedding_size: ClassVar[int]
    score_size: ClassVar[int] = 0
    engines: ClassVar[tuple[Engine, ...]] = ("fast",)
    step_samples: ClassVar[dict[str, int]] = {"cpu": 8 * 160_000, "cuda": 64 * 160_000}
    keeps_frames: ClassVar[bool] = False
    converts: ClassVar[bool] = False
    pooling: ClassVar[str] = "mean over frames"

    def __init__(
        self, engine: Engine, *, weights: str | None = None, precision: str = "float32", frames: bool = False
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"block {self.name}: precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if engine == "reference" and precision != "float32":
            raise UsageError(f"block {self.name}: the reference engine computes in float32, not {precision}")
        if not isinstance(frames, bool):
            raise UsageError(f"block {self.name}: frames is true or false, not {frames!r}")
        wanted = weights or self.default_weights
        source = None if wanted is None else weights_source(wanted, self.architecture)
        if engine not in self.engines:
            raise UsageError(f"block {self.name} has no {engine} engine; use --engine {self.engines[0]}")
        if source is not None:
            check_front_end(source, self.front_end)
        self.engine, self.precision = engine, precision
        self.weights = None if source is None else source.name
        self.frame_hop_s = self.frame_s if self.keeps_frames else None
        self.columns = self._columns()
        self._loaded: LoadedModel | None = None

    @abstractmethod
    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Build the front end and the network with its weights, as PyTorch modules.

        Returns:
            waveforms[clips, samples] -> features, always in float32; and features -> (embeddings[clips, frames,
            embedding], scores[clips, frames, classes] or None), in `precision`.

        Raises:
            UsageError: weights absent, damaged or of another architecture; a library missing.
        """

    def own_parameters(self) -> dict[str, Json]:
        """Return what besides weights, front end and precision can change a number: padding, options."""
        return {}

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of the scores, [score_size]; empty without classes."""
        return class_names(self.weights) if self.weights is not None and self.score_size else ()

    def parameters(self) -> dict[str, Json]:
        """Return weights, front end, precision, and what else can change a number.

        Raises:
            UsageError: the weights are not in the cache, so their sha256 is not known.
        """
        return {
            "weights": self.weights,
            "weights_sha256": weights_sha256(self.weights) if self.weights is not None else None,
            "front_end": self.front_end.parameters(),
            "precision": self.precision,
            **self.own_parameters(),
        }

    def metadata(self) -> dict[str, str]:
        """Return origin and license of the weights, class names, library versions."""
        pooling = "none" if self.keeps_frames else self.pooling
        described = {"libraries": json.dumps(_versions(self.engine)), "pooling": pooling}
        if self.weights is None:
            return {**described, "weights_origin": "none"}
        source = weights_source(self.weights)
        return {
            **described,
            "weights_origin": source.url,
            "weights_sha256": weights_sha256(source.name),
            "weights_license": source.license,
            "class_names": json.dumps(self.class_names()),
        }

    def load(self, device: str) -> None:
        """Read the weights and build the network, once a process for all blocks that run it alike."""
        if self._loaded is not None and self._loaded.device == device:
            return
        key = json.dumps([device, self.engine, self.architecture, self.parameters()], sort_keys=True)
        loaded = _LOADED.get(key)
        if loaded is None:
            _LOADED[key] = loaded = self.load_model(device)
        loaded.readers += 1
        self._loaded = loaded

    def load_model(self, device: str) -> LoadedModel:
        """Build the modules on a device."""
        check_device(device, f"weights {self.weights}")
        reuse_freed_memory()
        preprocess, network = (part.to(device).eval().requires_grad_(False) for part in self.build())
        return LoadedModel(device, preprocess, network)

    def compute(self, waveforms: Waveforms) -> Columns:
        output = self._embed_once(waveforms)
        columns: Columns = {"embedding": self._pool(output.embeddings)}
        if output.scores is not None:
            columns["scores"] = self._pool(output.scores)
        return columns

    def _embed_once(self, waveforms: Waveforms) -> EmbedderOutput:
        """As `embed`, remembering the last batches when several blocks read them; shapes are checked."""
        if waveforms.ndim != 2 or waveforms.shape[1] == 0:
            raise ValueError(f"waveforms are [clips, samples], not of shape {waveforms.shape}")
        if self._model.readers < 2:
            return self._checked(self.embed(waveforms), len(waveforms))
        key = (
            hashlib.blake2b(np.ascontiguousarray(waveforms).data, digest_size=16).digest()
            + repr((waveforms.shape, waveforms.dtype.str)).encode()
        )
        outputs = self._model.outputs
        if key not in outputs:
            outputs[key] = self._checked(self.embed(waveforms), len(waveforms))
            if len(outputs) > MOST_SIGNALS:
                outputs.popitem(last=False)
        return outputs[key]

    def _checked(self, output: EmbedderOutput, clips: int) -> EmbedderOutput:
        for values, size in ((output.embeddings, self.embedding_size), (output.scores, self.score_size)):
            shape = (0, 1, 0) if values is None else values.shape
            if (values is not None or size) and (shape[0] != clips or shape[1] < 1 or shape[2] != size):
                msg = f"embedder of {self.weights}: {shape} for {clips} clips, expected [{clips}, frames, {size}]"
                raise ValueError(msg)
        return output

    def embed(self, waveforms: Waveforms) -> EmbedderOutput:
        """Compute embeddings and scores of every frame; one clip's numbers do not depend on the others of the batch.

        Args:
            waveforms: [clips, samples] at `sample_rate`, all of one length.

        Raises:
            ClipError: out_of_memory, when not even one clip fits.
        """
        import torch

        model = self._model
        waveforms = pad_end(waveforms, self.min_samples)
        clips, samples = waveforms.shape
        outputs: list[EmbedderOutput] = []
        done = 0
        while done < clips:
            step = max(1, (model.step or self.step_samples[model.device]) // samples)
            try:
                outputs.append(self._forward(waveforms[done : done + step]))
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                taken = min(step, clips - done)
                if taken == 1:
                    msg = f"one clip of {samples} samples does not fit into the memory of {model.device}"
                    raise ClipError("out_of_memory", msg) from error
                model.step = taken // 2 * samples
            else:
                done += step
                continue
            if model.device == "cuda":  # not before the exception, which refers to tensors, is gone
                torch.cuda.empty_cache()
        return joined(outputs)

    def _forward(self, waveforms: Waveforms) -> EmbedderOutput:
        import torch

        model = self._model
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(waveforms, dtype=np.float32)).to(model.device)
            with float32_products(tf32=False):
                features = model.preprocess(batch)
            with contextlib.ExitStack() as stack:
                stack.enter_context(float32_products(tf32=self.precision == "tf32"))
                if self.precision == "bf16":
                    stack.enter_context(torch.autocast(model.device, dtype=torch.bfloat16))
                embeddings, scores = model.network(features)
        return EmbedderOutput(_to_numpy(embeddings), None if scores is None else _to_numpy(scores))

    @property
    def _model(self) -> LoadedModel:
        if self._loaded is None:
            raise RuntimeError("load an embedder before embedding")
        return self._loaded

    def _pool(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.keeps_frames:
            return values
        return np.asarray(values.mean(axis=1, dtype=np.float64).astype(np.float32))

    def _columns(self) -> tuple[Column, ...]:
        size, classes = self.embedding_size, self.score_size
        columns = [Column("embedding", pa.list_(pa.float32(), size), "1", f"{self.name} embedding")]
        if classes:
            columns.append(Column("scores", pa.list_(pa.float32(), classes), "1", f"{self.name} class scores, 0 to 1"))
        return tuple(columns)


class FramesBlock(EmbedderBlock):
    """Mix-in that keeps every frame: put it before the block, `class YamnetFramesBlock(FramesBlock, YamnetBlock)`."""

    keeps_frames = True


_LOADED: WeakValueDictionary[str, LoadedModel] = WeakValueDictionary()


def pad_end(waveforms: Waveforms, samples: int) -> Waveforms:
    """Return waveforms of at least `samples` samples, zeros added at the end.

    >>> pad_end(np.ones((1, 2), np.float32), 4)
    array([[1., 1., 0., 0.]], dtype=float32)
    """
    missing = samples - waveforms.shape[1]
    if missing <= 0:
        return waveforms
    return np.concatenate([waveforms, np.zeros((len(waveforms), missing), waveforms.dtype)], axis=1)


def joined(outputs: list[EmbedderOutput]) -> EmbedderOutput:
    """Return the outputs of successive steps as one."""
    scores = [output.scores for output in outputs if output.scores is not None]
    embeddings = np.concatenate([output.embeddings for output in outputs])
    return EmbedderOutput(embeddings, np.concatenate(scores) if scores else None)


def _out_of_memory(error: Exception) -> bool:
    import torch

    said = "allocate memory" in str(error)  # by PyTorch on a CPU, and by ONNX Runtime
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _to_numpy(values: torch.Tensor) -> npt.NDArray[np.float32]:
    return values.float().cpu().numpy()


def _versions(engine: Engine) -> dict[str, str]:
    names = ["numpy", "torch"] if engine == "fast" else ["numpy", "torch", "tensorflow", "tensorflow-hub"]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
