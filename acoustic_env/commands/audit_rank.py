"""`acoustic-env audit rank`: from clip list, store and recipe to the ranked table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import url
from acoustic_env.commands.audit_form import add_command, names

if TYPE_CHECKING:
    from acoustic_env.audit.rank import Clips
    from acoustic_env.config import Recipe

SHOWN: Final = 10

RANK = """\
Rank every label of a study from most suspect to best supported: models that never saw the clip, its neighbors, tag
scores of embedders where the store has them, and duplicates with contradicting labels. It is a ranking, not an error
rate: listen to a sample for that."""

EXAMPLES: Final[Mapping[str, str]] = {
    "rank": "  acoustic-env audit rank --clips clips.parquet --store features --recipe urban-nature "
    "--out ranked.parquet",
}


def add_parser(commands: Any) -> None:
    """`audit rank`."""
    parser = add_command(commands, "rank", "rank labels from suspect to supported", RANK, EXAMPLES["rank"], rank_labels)
    parser.add_argument("--clips", type=url, required=True, metavar="LIST", help="clip list (Parquet or CSV)")
    parser.add_argument("--store", type=url, required=True, metavar="URL", help="feature store")
    parser.add_argument("--recipe", type=url, required=True, metavar="R", help="recipe of the study, by name or file")
    parser.add_argument("--out", type=url, required=True, metavar="FILE", help="ranked table to write (Parquet)")
    parser.add_argument("--blocks", type=names, metavar="B,B,...", help="blocks to learn from (default: the recipe's)")
    parser.add_argument("--signals", type=names, metavar="raw,fg,bg", help="signals (default: the recipe's)")
    parser.add_argument("--scorers", type=names, metavar="W,W,...", help="scorers (default: the recipe's)")
    parser.add_argument("--duplicates", type=url, metavar="FILE", help="groups of duplicates, from clips duplicates")


def rank_labels(arguments: argparse.Namespace) -> int:
    """Rank the labels of a study; see RANK."""
    from acoustic_env.audit.rank import NOT_A_RATE, RankSettings, rank_exclusive, rank_multilabel
    from acoustic_env.audit.table import streamed
    from acoustic_env.clips.ontology import audioset
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.io.files import check_place

    check_place(arguments.out)
    recipe, display = load_recipe(arguments.recipe), audioset().names
    names = tuple(arguments.scorers or recipe.audit.scorers)
    settings = RankSettings(names, recipe.audit.folds, recipe.audit.neighbors, recipe.audit.seed)
    clips, y, classes = _ranking_input(arguments, recipe, settings)
    if recipe.task == "multilabel":
        tables = rank_multilabel(clips, y, classes, settings)
    else:
        tables = iter([rank_exclusive(clips, y, classes, settings)])
    summaries, flagged, rows, top = [], 0, 0, list[dict[str, Any]]()
    first, summary = next(tables)
    with streamed(first.schema, arguments.out) as writer:
        for table, described in _chain((first, summary), tables):
            writer.write_table(table)
            summaries.append(described)
            rows += table.num_rows
            given = table.filter(table.column("given"))
            flagged += sum(given.column("flagged").to_pylist())
            top = sorted([*top, *given.slice(0, SHOWN).to_pylist()], key=lambda row: row["quality"])[:SHOWN]
    if arguments.json:
        print(
            json.dumps(
                {"out": arguments.out, "rows": rows, "flagged": flagged, "note": NOT_A_RATE, "classes": summaries}
            )
        )
        return 0
    print(f"{arguments.out}: {rows:,} rows of {len(clips.clip_ids):,} clips, {flagged:,} given labels flagged")
    print(f"note: {NOT_A_RATE}")
    for row in top:
        print(f"  {row['quality']:.4f}  {row['clip_id']}  {display.get(row['label'], row['label'])}")
    return 0


def _ranking_input(arguments: argparse.Namespace, recipe: Recipe, settings: Any) -> tuple[Clips, Any, Sequence[str]]:
    """Prepared clips, targets and class names from clip list, store and recipe."""
    import numpy as np

    from acoustic_env.audit.rank import prepare, reduce_blocks
    from acoustic_env.clips.select import class_targets, select
    from acoustic_env.models.matrix import load_matrix
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.source_check import read_clips_of

    store = FeatureStore(arguments.store)
    selection = select(read_clips_of(store, arguments.clips, partial(print, file=sys.stderr)), recipe)
    targets = class_targets(selection.clips, recipe)
    matrix = load_matrix(
        store, targets.clip_ids, arguments.blocks or list(recipe.blocks), arguments.signals or recipe.signals
    )
    for line in [*selection.summary(), *matrix.summary()]:
        print(line, file=sys.stderr)
    complete = matrix.complete()
    clip_ids = [clip_id for clip_id, there in zip(targets.clip_ids, complete, strict=True) if there]
    named = selection.clips.column("group").to_pylist()
    y, duplicates = targets.y[complete], None
    if arguments.duplicates:
        duplicates, joined = _duplicates(arguments.duplicates, clip_ids)
        named = [joined.get(clip_id, group) for clip_id, group in zip(targets.clip_ids, named, strict=True)]
    groups = np.asarray(named)[complete]
    tags = _tags(store, recipe, clip_ids, targets.classes)
    features = reduce_blocks(matrix.values[complete], matrix.columns, recipe.reduction)
    clips = prepare(clip_ids, features, y, groups, settings, duplicates, tags)
    return clips, y, targets.classes


def _tags(store: Any, recipe: Recipe, clip_ids: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Tag scores of every embedder of the store that has them, as scorers named tags_<block>."""
    from acoustic_env.audit.tags import tag_scores
    from acoustic_env.clips.ontology import audioset
    from acoustic_env.clips.select import recipe_labels
    from acoustic_env.errors import UsageError

    labels = recipe_labels(recipe, audioset()) if recipe.classes else {}
    wanted = [labels.get(name) or audioset().spellings([name]) for name in classes]
    found = {}
    for block in ("panns", "yamnet", "mn04"):
        try:
            rows = store.read(block, signals=["raw"], columns=["scores"], clip_ids=clip_ids)
        except UsageError:  # the store has no such block, or several versions of it: no scorer
            continue
        names = json.loads((rows.schema.metadata or {}).get(b"acoustic_env.class_names", b"[]"))
        scores = tag_scores(rows, names, clip_ids, wanted)
        if scores is not None:
            found[f"tags_{block}"] = scores
    return found


def _duplicates(url: str, clip_ids: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Number of each clip's set of duplicates (-1: none), and clip -> group joined over duplicates, for the folds."""
    import pyarrow as pa

    from acoustic_env.audit.check import duplicate_sets
    from acoustic_env.audit.table import read_table, require_columns

    names = (("clip_id", False), ("group", False), ("duplicate_of", True))
    schema = pa.schema([pa.field(name, pa.string(), nullable) for name, nullable in names])
    table = require_columns(read_table(url), schema, url, "a table of clips duplicates")
    columns = [table.column(name).to_pylist() for name, _ in names]
    original = {clip_id: first for clip_id, _, first in zip(*columns, strict=True) if first}
    return duplicate_sets(original, clip_ids), dict(zip(columns[0], columns[1], strict=True))


def _chain(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest
