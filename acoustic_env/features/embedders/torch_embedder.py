"""What the fast embedders share: bounded steps through a batch, precision, and less at once when memory runs out."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from acoustic_env.errors import ClipError
from acoustic_env.features.block import Waveforms, check_device
from acoustic_env.features.embedders.contract import Embedder, EmbedderOutput, Precision
from acoustic_env.memory import reuse_freed_memory

if TYPE_CHECKING:
    import torch


class TorchEmbedder(Embedder):
    """An embedder made of two PyTorch modules: a front end, always in float32, and a network in `precision`.

    Attributes:
        step_samples: samples of one step by device; bounds memory, at least one clip is taken.
    """

    step_samples: ClassVar[dict[str, int]] = {"cpu": 8 * 160_000, "cuda": 64 * 160_000}

    def __init__(self) -> None:
        self._device: str | None = None
        self._step: int | None = None

    @abstractmethod
    def build(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """The front end, waveforms[clips, samples] -> features, and the network with its weights, features ->
        (embeddings[clips, frames, embedding], scores[clips, frames, classes] or None)."""

    def load(self, device: str) -> None:
        if self._device == device:
            return
        check_device(device, f"weights {self.weights}")
        reuse_freed_memory()
        front_end, network = self.build()
        self._front_end = front_end.to(device).eval().requires_grad_(False)
        self._network = network.to(device).eval().requires_grad_(False)
        self._device, self._step = device, None

    def embed(self, waveforms: Waveforms) -> EmbedderOutput:
        waveforms = pad_end(waveforms, self.min_samples)
        clips, samples = waveforms.shape
        outputs: list[EmbedderOutput] = []
        done = 0
        while done < clips:
            step = max(1, self._budget() // samples)
            try:
                outputs.append(self._forward(waveforms[done : done + step]))
            except Exception as error:
                if not _out_of_memory(error):
                    raise
                taken = min(step, clips - done)
                if taken == 1:
                    msg = f"one clip of {samples} samples does not fit into the memory of {self._device}"
                    raise ClipError("out_of_memory", msg) from error
                self._step = taken // 2 * samples
            else:
                done += step
                continue
            self._free()
        return joined(outputs)

    def _budget(self) -> int:
        if self._device is None:
            msg = "load an embedder before embedding"
            raise RuntimeError(msg)
        return self.step_samples[self._device] if self._step is None else self._step

    def _forward(self, waveforms: Waveforms) -> EmbedderOutput:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(waveforms, dtype=np.float32)).to(self._device)
            with float32_products(tf32=False):
                features = self._front_end(batch)
            with network_precision(self.precision, str(self._device)):
                embeddings, scores = self._network(features)
        return EmbedderOutput(_to_numpy(embeddings), None if scores is None else _to_numpy(scores))

    def _free(self) -> None:
        import torch

        if self._device == "cuda":
            torch.cuda.empty_cache()


def pad_end(waveforms: Waveforms, samples: int) -> Waveforms:
    """Waveforms of at least `samples` samples, zeros added at the end."""
    missing = samples - waveforms.shape[1]
    if missing <= 0:
        return waveforms
    return np.concatenate([waveforms, np.zeros((len(waveforms), missing), waveforms.dtype)], axis=1)


def joined(outputs: list[EmbedderOutput]) -> EmbedderOutput:
    """The outputs of successive steps as one."""
    scores = [output.scores for output in outputs if output.scores is not None]
    embeddings = np.concatenate([output.embeddings for output in outputs])
    return EmbedderOutput(embeddings, np.concatenate(scores) if scores else None)


@contextlib.contextmanager
def network_precision(precision: Precision, device: str) -> Iterator[None]:
    """Matrix products and convolutions in float32, tf32 (on GPUs that have it) or bf16."""
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(float32_products(tf32=precision == "tf32"))
        if precision == "bf16":
            stack.enter_context(torch.autocast(device, dtype=torch.bfloat16))
        yield


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of float32 products to TF32; PyTorch's own default does for convolutions."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _to_numpy(values: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.float().cpu().numpy()
    return array
