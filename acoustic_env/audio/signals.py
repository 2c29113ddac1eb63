"""The words for what a clip is split into and for how its numbers are computed."""

from __future__ import annotations

from typing import Final, Literal, get_args

Signal = Literal["raw", "fg", "bg"]  # the clip, its foreground, its background
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)

Engine = Literal[
    "fast", "reference"
]  # batched array code, or the published libraries called as their authors mean them
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
