"""Networks on ONNX Runtime: on a CPU, YAMNet and mn04 take 0.6 to 0.8 of PyTorch's time (docs/benchmarks.md)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnxruntime

OPSET = 17


class OnnxOnCpu(nn.Module):
    """A network that ONNX Runtime computes on CPUs in float32; on a GPU and in bfloat16 PyTorch does.

    It is exported at the first batch. Both compute in float32 and are equally far from the exact
    numbers.

    Args:
        network: one tensor to a tuple of tensors, without branches that depend on the input: it is traced.
        variable_axes: axes of the input whose size may differ from batch to batch.
        keep: returns the model that an earlier process exported, or calls its argument for one (`weights.keep_export`).

    >>> network = OnnxOnCpu(nn.ReLU())
    >>> network(torch.tensor([[-1.0, 2.0]]))
    (tensor([[0., 2.]]),)
    """

    def __init__(
        self,
        network: nn.Module,
        variable_axes: tuple[int, ...] = (0,),
        keep: Callable[[Callable[[], bytes]], bytes] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.variable_axes = variable_axes
        self.keep = keep
        self._session: onnxruntime.InferenceSession | None = None

    def forward(self, x: Tensor) -> Any:
        """Return the network's outputs."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return self.network(x)
        if self._session is None:
            self._session = session(self._model(x))
        return tuple(torch.from_numpy(output) for output in self._session.run(None, {"x": x.contiguous().numpy()}))

    def _model(self, x: Tensor) -> bytes:
        def made() -> bytes:
            return export(self.network, x, self.variable_axes)

        return made() if self.keep is None else self.keep(made)


def export(network: nn.Module, x: Tensor, variable_axes: tuple[int, ...]) -> bytes:
    """Return a network as an ONNX model with one input, `x`.

    By PyTorch's older exporter: the newer one gives the same model, but takes 5 to 24 s for these networks.
    """
    model = io.BytesIO()
    names = {axis: f"axis{axis}" for axis in variable_axes}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # that the exporter is the older one
        torch.onnx.export(
            network,
            (torch.zeros(x.shape),),
            model,  # type: ignore[arg-type]
            input_names=["x"],
            dynamic_axes={"x": names},
            opset_version=OPSET,
            dynamo=False,
        )
    return model.getvalue()


def session(model: bytes) -> onnxruntime.InferenceSession:
    """Load an ONNX model, for as many threads as PyTorch has: one in a worker."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # an error is raised, too
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
