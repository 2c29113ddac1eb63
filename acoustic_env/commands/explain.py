"""`acoustic-env explain`: what a classifier relies on and what differs between its classes, as plots with data."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from acoustic_env.commands.arguments import check_inputs, url

DESCRIPTION: Final = """\
Draw what differs between the classes (Welch's t of the indices and of the modulation spectrum, with false-discovery
control and effect sizes), maps of the clips, correlations of the indices, and what the classifier relies on (SHAP
values over 40 backgrounds with rank intervals, the leading components in terms of the original features, permutation
importance).

Of the list that the bundle was trained on, only training and validation clips are used; of another list, those it
learned from, or all if there are none. The captions say which, and what is known of test clips among them.

Every plot is written as PNG, SVG and CSV; OUT/explain.json lists them with their captions.
`acoustic-env report --explain OUT` puts them on its page."""

EXAMPLES: Final = """\
examples:
  acoustic-env explain --bundle bundle --clips clips.parquet --store features --out explained"""


def add_parsers(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=url, metavar="BUNDLE", required=True, help="folder of the classifier")
    parser.add_argument("--clips", type=url, metavar="LIST", required=True, help="the clip list it was trained on")
    parser.add_argument("--store", type=url, metavar="URL", required=True, help="feature store")
    parser.add_argument("--out", type=url, metavar="DIR", required=True, help="folder of the plots")
    parser.add_argument("--json", action="store_true", help="print the index of the plots as JSON")
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Draw and write."""
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle)
    import json
    from dataclasses import asdict

    from acoustic_env.explain.explain import explain
    from acoustic_env.explain.material import gather
    from acoustic_env.explain.plot import INDEX
    from acoustic_env.io.files import folder_of
    from acoustic_env.io.location import join
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.source_check import read_clips_of

    with folder_of(namespace.out, last=INDEX) as folder:
        bundle = Bundle.load(namespace.bundle)
        store = FeatureStore(namespace.store)
        material = gather(bundle, read_clips_of(store, namespace.clips, _log), store, _log)
        _log(f"explaining with {material.clips}")
        entries = explain(material, folder, _log)
    if namespace.json:
        print(json.dumps([asdict(entry) for entry in entries]))
    else:
        for entry in entries:
            print(f"{join(namespace.out, entry.files['png'])}\n  {entry.caption}")
    _log(f"{len(entries)} plots with their data: {join(namespace.out, INDEX)}")
    return 0


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
