"""`acoustic-env explain`: what a classifier relies on and what differs between its classes, as figures with data."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

DESCRIPTION: Final = """\
Draw what differs between the classes (Welch's t of the indices and of the modulation spectrum, with false-discovery
control and effect sizes), how clips and indices hang together, and what the classifier relies on (SHAP values over 40
backgrounds with rank intervals, the leading components in terms of the original features, permutation importance).

Only training and validation clips are looked at. Every figure is written as PNG, SVG and CSV; OUT/explain.json lists
them, each with a sentence that says what it shows. `acoustic-env report --explain OUT` puts them on its page."""

EXAMPLES: Final = """\
examples:
  acoustic-env explain --bundle bundle --clips clips.parquet --store features --out explained"""


def add_parsers(subparsers: Any) -> None:
    """The `explain` command."""
    parser = subparsers.add_parser(
        "explain",
        help="figures of what a classifier relies on",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", metavar="BUNDLE", required=True, help="folder of the classifier")
    parser.add_argument("--clips", metavar="LIST", required=True, help="the clip list it was trained on")
    parser.add_argument("--store", metavar="URL", required=True, help="feature store")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the figures")
    parser.add_argument("--json", action="store_true", help="print the index of the figures as JSON")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Draw and write."""
    import json
    from dataclasses import asdict
    from pathlib import Path

    from acoustic_env.clips.table import read_clips
    from acoustic_env.errors import UsageError
    from acoustic_env.explain.explain import explain
    from acoustic_env.explain.material import gather
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.store.feature_store import FeatureStore

    folder = Path(namespace.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"--out {folder}: {error.strerror}"
        raise UsageError(msg) from error
    bundle = Bundle.load(namespace.bundle)
    material = gather(bundle, read_clips(namespace.clips), FeatureStore(namespace.store), _say)
    _say(f"explaining with {material.clips}")
    entries = explain(material, folder, _say)
    if namespace.json:
        print(json.dumps([asdict(entry) for entry in entries]))
    else:
        for entry in entries:
            print(f"{folder / entry.files['png']}\n  {entry.sentence}")
    _say(f"{len(entries)} figures with their data: {folder}/explain.json")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
