"""Matrix products on the faster of the two BLAS libraries at hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import torch

_CPU_INFO: Final = Path("/proc/cpuinfo")


def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix product [m, k] @ [batch, k, n] on the device of the two.

    PyTorch's MKL is the faster one on Intel's processors (1.2 times for the modulation spectrum's products), NumPy's
    OpenBLAS on AMD's.
    """
    import torch

    if right.device.type == "cpu" and not _on_intel():
        return torch.from_numpy(np.matmul(left.numpy(), right.numpy()))
    return left @ right


@cache
def _on_intel() -> bool:
    """Whether the processor is Intel's and PyTorch was built with MKL."""
    import torch

    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and _CPU_INFO.exists() and "GenuineIntel" in _CPU_INFO.read_text()
