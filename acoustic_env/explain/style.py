"""The style of every plot: palettes that color-blind readers can tell apart, sizes one can read, units on the axes."""

from __future__ import annotations

import contextlib
import functools
import logging
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from acoustic_env.audio.signals import make_signal
from acoustic_env.errors import UsageError
from acoustic_env.features.modulation import axes as modulation_axes

P = ParamSpec("P")
T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)

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
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "nearest",
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


def span(values: Sequence[float], form: str = "d") -> str:
    """Return the lowest and the highest of some numbers, once where they read alike.

    >>> span([3, 1, 2]), span([0.51, 0.52], ".1f")
    ('1 to 3', '0.5')
    """
    return " to ".join(dict.fromkeys(f"{end:{form}}" for end in (min(values), max(values))))


def modulation_at(cell: Any) -> str:
    """Return where a cell of a map lies, by its row and column."""
    spectral, temporal = modulation_axes()
    return f"{temporal[cell[1]]:.0f} Hz and {spectral[cell[0]]:.1f} cycles/kHz"


def row_panels(
    names: Sequence[str], step: float = 0.27, columns: int = 1, *, downwards: bool = False, **options: Any
) -> tuple[Any, Any]:
    """Return a figure and its panels side by side, with a row for each name, the first at the bottom or at the top.

    A row is `step` inches high; options are those of `Figure.subplots`.
    """
    figure, (panels,) = new_panels(
        9, 1.5 + step * max(len(names), 2), 1, columns, squeeze=False, sharey=True, **options
    )
    for panel in panels:
        panel.grid(axis="x")
    panels[0].set_yticks(range(len(names)), [shortened(name, 44) for name in names])
    ends = -0.6, len(names) - 0.4
    panels[0].set_ylim(*(ends[::-1] if downwards else ends))
    return figure, panels if columns > 1 else panels[0]


def draw_intervals(panel: Any, rows: Any, low: Any, middle: Any, high: Any, *, number: int, label: str = "") -> None:
    """Draw numbers with intervals in rows of a panel, in the color and with the marker of a number."""
    panel.hlines(rows, low, high, color=OKABE_ITO[number], lw=2)
    panel.plot(middle, rows, MARKERS[number], color=OKABE_ITO[number], ms=6, label=label or None)


def label_inches(names: Sequence[str], most: int = 24) -> float:
    """Return about how long the longest tick label is, in inches; letters of East Asia are twice as wide.

    >>> label_inches(["music", "dog"])
    0.4
    """
    shown = (shortened(name, most) for name in names)
    wide = ([unicodedata.east_asian_width(letter) in "WF" for letter in name] for name in shown)
    return max((0.08 * (len(own) + sum(own)) for own in wide), default=0.0)


def add_fonts(figure: Any) -> None:
    """Let installed fonts draw the letters of a figure that its own font lacks; warn once of those that none has."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    own = font_manager.get_font(font_manager.findfont(STYLE["font.family"])).get_charmap()
    texts = [text for text in figure.findobj(Text) if any(ord(letter) not in own for letter in text.get_text().strip())]
    missing = {ord(letter) for text in texts for letter in text.get_text() if letter.isprintable()} - set(own)
    families = [STYLE["font.family"]]
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: (font.name, font.fname)) if missing else ():
        if "Last Resort" in font.name or font.style != "normal":  # matplotlib's own, which draws boxes
            continue
        face = font_manager.get_font(font.fname)  # emoji of bitmaps are of one size, which matplotlib cannot draw
        has = missing & set(face.get_charmap()) if face.scalable else set()
        families += [font.name] if has else []
        missing -= has
    for text in texts:
        text.set_family(families)
    if missing:
        _warn_of_fonts()


@functools.cache
def _warn_of_fonts() -> None:
    """Say once which package has the letters, and keep matplotlib from saying it of each of them."""
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
    text = "Some letters in the plots are drawn as boxes, since no installed font has them; install fonts-noto-cjk, or"
    _LOG.warning("%s fonts-symbola for emoji (Debian's packages), and run this again.", text)


def mark_cells(panel: Any, rows: Sequence[str], columns: Sequence[str], most: int = 24) -> None:
    """Name the rows and the columns of an image."""
    crowded = len(columns) > 3 or label_inches(columns, most) > 1
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    panel.set_xticks(range(len(columns)), [shortened(name, most) for name in columns], **slanted)
    panel.set_yticks(range(len(rows)), [shortened(name, most) for name in rows])


def legend_below(figure: Any, columns: int, panel: Any = None) -> None:
    """Put a legend of all panels, or of one, below them."""
    shown = panel.get_legend_handles_labels() if panel is not None else ()
    figure.legend(*shown, loc="outside lower center", ncols=columns)


def draw_modulation(panel: Any, values: Any, limit: float) -> Any:
    """Draw a map [spectral, temporal] around zero, NaN cells grey, and return the mesh for a color bar.

    The axes are wide where most of the sound is, and marked in round numbers.
    """
    import matplotlib
    from matplotlib.ticker import FixedLocator, NullLocator

    spectral, temporal = modulation_axes()
    colors = matplotlib.colormaps[DIVERGING].with_extremes(bad="#e4e4e4")
    mesh = panel.pcolormesh(
        temporal, spectral, values, cmap=colors, vmin=-limit, vmax=limit, shading="nearest", rasterized=True
    )
    panel.set_xscale("symlog", linthresh=4)
    panel.set_yscale("symlog", linthresh=1)
    for axis, ticks in ((panel.xaxis, (0, 2, 4, 8, 16, 32, 64)), (panel.yaxis, (0, 0.5, 1, 2, 4, 8))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    panel.set(xlim=(0, temporal[-1]), xlabel="temporal modulation (Hz)")
    panel.set(ylim=(0, spectral[-1]), ylabel="spectral modulation (cycles/kHz)")
    panel.label_outer()
    return mesh


def modulation_cells(key: str, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return table columns that name each cell of a modulation map, for several maps told apart by column `key`."""
    rows, columns = (axis.ravel() for axis in np.meshgrid(*modulation_axes(), indexing="ij"))
    cells = {"spectral_cycles_per_kHz": np.tile(rows, len(names)), "temporal_Hz": np.tile(columns, len(names))}
    return {key: np.repeat(list(names), rows.size), **cells}
