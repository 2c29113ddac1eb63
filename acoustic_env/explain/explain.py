"""Every plot of a trained classifier, by chapter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from acoustic_env.errors import UsageError
from acoustic_env.explain.attribution_plots import attribution_plots, importance_plots
from acoustic_env.explain.contrast_plots import contrast_plots, correlation_plots
from acoustic_env.explain.map_plots import map_plots
from acoustic_env.explain.material import Material
from acoustic_env.explain.plot import Entry, Plot, write_index
from acoustic_env.explain.sequence_plots import sequence_plots
from acoustic_env.explain.style import drawn
from acoustic_env.models.learn import Log

CHAPTERS: Final[Mapping[str, Callable[[Material], list[Plot]]]] = {
    "differences between the classes": contrast_plots,
    "correlation of the indices": correlation_plots,
    "maps of the clips": map_plots,
    "SHAP values": attribution_plots,
    "permutation importance": importance_plots,
}
# Of networks on sequences, which have no features of whole clips.
SEQUENCE_CHAPTERS: Final = {"gradients and occlusion of clips": sequence_plots}


@drawn
def explain(material: Material, folder: Path, log: Log) -> list[Entry]:
    """Draw and write every plot as PNG, SVG and CSV, then the index; log each chapter and what was left out."""
    entries: list[Entry] = []
    for title, illustrate in (SEQUENCE_CHAPTERS if material.frames else CHAPTERS).items():
        started = time.monotonic()
        try:
            found = illustrate(material)
        except UsageError as error:
            log(f"{title}: left out: {error}")
            continue
        entries += [plot.save(folder) for plot in found]
        if found:
            log(f"{title}: {len(found)} plots, {time.monotonic() - started:.1f} s")
    bundle = material.bundle
    about = {
        "recipe": bundle.recipe.name,
        "classes": list(material.targets.classes),
        "clips": len(material.groups),
        "which_clips": material.clips,
        "test_clips": material.test_clips,
        **{key: getattr(bundle, key) for key in ("training_hash", "fingerprints", "variants")},
    }
    write_index(folder, entries, about)
    return entries
