"""`acoustic-env explain`: what a classifier relies on and what differs between its classes, as plots with data."""

from __future__ import annotations

import argparse
from typing import Any

from acoustic_env.commands.arguments import add_command, add_paths, check_inputs, log, show


def add_parsers(subparsers: Any) -> None:
    add_paths(add_command(subparsers, "explain", run), "bundle", "clips", "store", out="explain")


def run(namespace: argparse.Namespace) -> None:
    """Draw what differs between the classes (Welch's t of the indices and of the modulation spectrum, with
    false-discovery control and effect sizes), maps of the clips, correlations of the indices, and what the classifier
    relies on (SHAP values over 40 backgrounds with rank intervals, the leading components in terms of the original
    features, permutation importance).

    Of the list that the bundle was trained on, only training and validation clips are used; of another list, those it
    learned from, or all if there are none. The captions say which, and what is known of test clips among them.

    Every plot is written as PNG, SVG and CSV; OUT/explain.json lists them with their captions. `acoustic-env report
    --explain OUT` puts them on its page.

    Examples:
        acoustic-env explain --bundle bundle --clips clips.parquet --store features --out explained
    """
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle)
    from dataclasses import asdict

    from acoustic_env.explain.explain import explain
    from acoustic_env.explain.material import gather
    from acoustic_env.explain.plot import INDEX
    from acoustic_env.io.files import folder_of
    from acoustic_env.io.location import join
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.sources import read_clips_of

    with folder_of(namespace.out, last=INDEX) as folder:
        bundle = Bundle.load(namespace.bundle)
        store = FeatureStore(namespace.store)
        material = gather(bundle, read_clips_of(store, namespace.clips, log), store, log)
        log(f"explaining with {material.clips}")
        entries = explain(material, folder, log)
    lines = (f"{join(namespace.out, entry.files['png'])}\n  {entry.caption}" for entry in entries)
    show(namespace, [asdict(entry) for entry in entries], *lines)
    log(f"{len(entries)} plots with their data: {join(namespace.out, INDEX)}")
