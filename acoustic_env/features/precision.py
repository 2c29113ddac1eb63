"""Precision of float32 products on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Set whether a GPU rounds the factors of float32 products to TF32; PyTorch's default does for convolutions.

    Args:
        tf32: whether it does, in matrix products, convolutions and recurrent layers; what was set is set again after.

    >>> import torch
    >>> with float32_products(tf32=False):
    ...     torch.backends.cudnn.conv.fp32_precision
    'ieee'
    """
    import torch

    # Not the flags `allow_tf32`, which cannot be read once a program has set these.
    backends: Any = torch.backends  # whose type lacks them
    settings = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [each.fp32_precision for each in settings]
    for each in settings:
        each.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        for each, precision in zip(settings, before, strict=True):
            each.fp32_precision = precision
