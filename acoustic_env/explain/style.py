"""The style of every plot: palettes that color-blind readers can tell apart, sizes one can read, units on the axes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.signals import make_signal
from acoustic_env.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")

# Okabe and Ito 2008, darkest contrasts first; yellow last but one, since it is faint on white.
OKABE_ITO: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "^", "s", "D", "v", "P", "X")
GREY: Final = "#767676"
FAINT: Final = "#d9d9d9"
# Two sides of zero: purple and orange differ for every kind of color vision.
DIVERGING: Final = "PuOr_r"
SEQUENTIAL: Final = "cividis"
DPI: Final = 130

STYLE: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "acoustic-env",
}


def drawn(make: Callable[P, T]) -> Callable[P, T]:
    """Draw the figures of a function in the project's style."""

    @functools.wraps(make)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib

        with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
            return make(*args, **kwargs)

    return inside


def new_figure(width: float, height: float) -> Any:
    """Return an empty `matplotlib.figure.Figure` in inches; no display, no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_panels(width: float, height: float, *shape: int, **options: Any) -> tuple[Any, Any]:
    """Return a new figure and its panels, as `Figure.subplots` makes them."""
    figure = new_figure(width, height)
    return figure, figure.subplots(*shape, **options)


def signal_name(signal: str) -> str:
    """Return the display name of a signal."""
    with contextlib.suppress(UsageError):  # features of a package that is not installed here
        return make_signal(signal).title or signal
    return signal


def class_name(name: str) -> str:
    """Return the display name of a class: AudioSet's display name for one of its ids, else as it is."""
    if not name.startswith("/"):
        return name
    from acoustic_env.clips.ontology import audioset

    return audioset().names.get(name, name)


def shortened(name: str, most: int = 34) -> str:
    """Shorten a name to a tick label.

    >>> shortened("mps.raw.pc000", most=8)
    'mps.raw…'
    """
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    return short.replace("$", r"\$")  # or matplotlib takes what is between two for a formula


def modulation_axes(axes: Any, *, label_y: bool = True) -> None:
    """Set the axes of a modulation map: Hz and cycles/kHz, wide where most of the sound is, marked in round numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("symlog", linthresh=4)
    axes.set_yscale("symlog", linthresh=1)
    for axis, ticks in ((axes.xaxis, (0, 2, 4, 8, 16, 32, 64)), (axes.yaxis, (0, 0.5, 1, 2, 4, 8))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("temporal modulation (Hz)")
    if label_y:
        axes.set_ylabel("spectral modulation (cycles/kHz)")


def draw_modulation(axes: Any, values: Any, limit: float) -> Any:
    """Draw a map [spectral, temporal] around zero, NaN cells grey, and return the mesh for a color bar."""
    import matplotlib

    from acoustic_env.features.modulation import axes as modulation

    spectral, temporal = modulation()
    colors = matplotlib.colormaps[DIVERGING].with_extremes(bad="#e4e4e4")
    mesh = axes.pcolormesh(
        temporal, spectral, values, cmap=colors, vmin=-limit, vmax=limit, shading="nearest", rasterized=True
    )
    axes.set_xlim(0, temporal[-1])
    axes.set_ylim(0, spectral[-1])
    return mesh


def modulation_cells(key: str, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return table columns that name each cell of a modulation map, for several maps told apart by column `key`."""
    from acoustic_env.features.modulation import axes as modulation

    spectral, temporal = modulation()
    rows, columns = np.meshgrid(spectral, temporal, indexing="ij")
    return {
        key: np.repeat(list(names), rows.size),
        "spectral_cycles_per_kHz": np.tile(rows.ravel(), len(names)),
        "temporal_Hz": np.tile(columns.ravel(), len(names)),
    }
