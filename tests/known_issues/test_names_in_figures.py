"""Long class names pushed axis labels out of the confusion figure; East Asian ones drew many warnings."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from acoustic_env.explain import style
from acoustic_env.explain.plot import Plot
from acoustic_env.report.plots import HELD_OUT, performance_plots
from tests.report.test_figures import recorded


def confusion(names: list[str]) -> Plot:
    metrics = {**recorded("multiclass", len(names)), "classes": names}
    metrics["confusion"] = np.ones((len(names), len(names))).tolist()
    return next(plot for plot in performance_plots(metrics, HELD_OUT) if plot.name == "confusion")


@pytest.mark.parametrize("count", [3, 6, 12])
@pytest.mark.parametrize("name", ["a class of a rather long name", "城市的声音城市的声音城市的声音城市的声音"])
def test_axis_labels_stay_inside_the_confusion_figure(count: int, name: str) -> None:
    plot = confusion([f"{number} {name}" for number in range(count)])
    plot.png()
    figure = plot.figure
    figure.set_dpi(100)
    figure.draw_without_rendering()
    for axes in figure.axes:
        for label in (axes.xaxis.label, axes.yaxis.label):
            box = label.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height


def test_letters_that_no_font_has_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    style._warn_of_fonts.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            confusion(["城市的声音", "鳥\U000f0000", "dog"]).png()
    assert not [one for one in caught if "Glyph" in str(one.message)]
    assert caplog.text.count("install fonts-noto-cjk") == 1
