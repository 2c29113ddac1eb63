"""Settings of what networks on frames are made of: augmentation and convolutions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from acoustic_env.config import Settings

Positive = Annotated[int, Field(ge=1)]
Pair = tuple[Positive, Positive]


class AugmentSettings(Settings):
    """What is done to a clip each time it is trained on; nothing by default."""

    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup (Zhang et al. 2018): two clips are mixed by a share drawn from Beta(alpha, alpha); 0 for none."""

    time_masks: int = Field(0, ge=0)
    """Number of stretches of frames set to the mean (SpecAugment, Park et al. 2019)."""

    time_mask: float = Field(0.15, ge=0, le=1)
    """Longest of them, a share of the frames."""

    band_masks: int = Field(0, ge=0)
    """Number of stretches of bands set to the mean."""

    band_mask: float = Field(0.15, ge=0, le=1)
    """Widest of them, a share of the bands."""

    mask_probability: float = Field(1.0, ge=0, le=1)
    """Probability of each mask."""

    roll: float = Field(0.0, ge=0, le=1)
    """Probability that a clip is rotated in time by a random number of frames."""

    permute: float = Field(0.0, ge=0, le=1)
    """Probability that a clip's frames are put in random order."""


class ConvLayer(Settings):
    """One convolution with what follows it; pairs are frames by bands."""

    channels: int = Field(ge=1)
    """Filters."""

    kernel: Pair = (3, 3)
    """Size of a filter."""

    stride: Pair = (1, 1)
    """Step of the filter."""

    padding: Literal["same", "valid"] = "same"
    """Zeros around the input, so that the output of stride 1 is as large (same), or none (valid)."""

    batch_norm: bool = True
    """Batch normalization after the convolution."""

    pool: Pair = (2, 2)
    """Max pooling after ReLU; [1, 1] for none."""

    pool_stride: Pair | None = None
    """Step of the pooling. Default: its size."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after pooling."""
