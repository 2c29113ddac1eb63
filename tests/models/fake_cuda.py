"""CUDA tensors without a GPU: PyTorch's fake tensors have a device but no values, and raise where devices mix."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily

from acoustic_env.models.estimators.frames_settings import SequenceSettings
from acoustic_env.models.estimators.mlp import MLPSettings

CUDA: Final = "cuda:0"
GUARDS: Final = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry, by device type


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute a block on fake tensors.

    What leaves for NumPy must be on the CPU, and becomes random numbers. Gradients are zeros of the leaves' devices: on
    fake tensors PyTorch's backward pass needs a GPU.
    """
    random = np.random.default_rng(0)

    def numpy(tensor: Tensor, **options: Any) -> Any:
        if not isinstance(tensor, FakeTensor):
            return torch._C.TensorBase.numpy(tensor, **options)
        if tensor.device.type != "cpu":
            raise TypeError(f"numpy() of a tensor on {tensor.device}")
        return random.random(tuple(tensor.shape)).astype(str(tensor.dtype).removeprefix("torch."))

    def number(tensor: Tensor) -> Any:
        return 0.5 if isinstance(tensor, FakeTensor) else torch._C.TensorBase.item(tensor)

    def move(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for child in module.children():
            child._apply(change)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = change(buffer)
        return module

    def backward(loss: Tensor) -> None:
        nodes, seen = [loss.grad_fn], set[Any]()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes += [following for following, _ in node.next_functions]
                if hasattr(node, "variable"):
                    node.variable.grad = torch.zeros_like(node.variable)

    def grad(outputs: Tensor, inputs: Tensor) -> tuple[Tensor]:
        assert outputs.requires_grad
        return (torch.zeros_like(inputs),)

    def built(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def build_real(*args: Any) -> nn.Module:
            with unset_fake_temporarily():  # lazy layers have no fake
                return build(*args)

        return build_real

    _register_cuda_guard()
    for settings in (SequenceSettings, MLPSettings):
        monkeypatch.setattr(settings, "network", built(settings.network))
    monkeypatch.setattr(Tensor, "numpy", numpy)
    monkeypatch.setattr(Tensor, "item", number)
    monkeypatch.setattr(Tensor, "__float__", number)
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)  # which has no fake
    monkeypatch.setattr(nn.Module, "_apply", move)  # which cannot move fake parameters
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda module: None)  # which asks cuDNN
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # which looks at values
    library = torch.library.Library("aten", "IMPL")
    library.impl("_thnn_fused_gru_cell", lambda gates, _, hidden, *biases: (hidden.clone(), gates), "Meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    library._destroy()


def _register_cuda_guard() -> None:
    """Do in a build for CPUs what entering `FakeTensorMode` does in one for CUDA: register a guard that does nothing.

    `_ensureCUDADeviceGuardSet` replaces a guard that counts no devices; a build for CPUs has none to replace.
    """
    if torch.backends.cuda.is_built():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    cuda = (ctypes.c_void_p * 2).in_dll(library, GUARDS)
    if cuda[1]:
        return
    zero = ctypes.CFUNCTYPE(ctypes.c_int64)(lambda: 0)
    methods = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p).value] * 64)
    instance = ctypes.c_void_p(ctypes.addressof(methods))
    cuda[1] = ctypes.addressof(instance)
    torch._C._ensureCUDADeviceGuardSet()
