"""`acoustic-env audit rank`: from clip list, store and recipe to the ranked table."""

from __future__ import annotations

import argparse
from itertools import chain
from typing import Any, Final

from acoustic_env.audit.scorers import scorer_kinds
from acoustic_env.commands.arguments import add_command, add_paths, log, names, show

SHOWN: Final = 10


def add_parser(commands: Any) -> None:
    line = "rank labels by quality, lowest first"
    parser = add_command(commands, "rank", rank_labels, line=line)
    add = parser.add_argument
    add("--blocks", type=names, metavar="B,B,...", help="Blocks to learn from. Default: the recipe's.")
    add("--signals", type=names, metavar="S,S,...", help="Signals. Default: the recipe's.")
    known = ", ".join(scorer_kinds())
    add("--scorers", type=names, metavar="S,S,...", help=f"Some of {known}. Default: the recipe's.")
    add("--group-by", metavar="COLUMN", help="Column of what must not be split. Default: group.")
    add_paths(parser, "clips", "store", "recipe", "duplicates", out="ranked", if_there={"duplicates": "clips"})


def rank_labels(arguments: argparse.Namespace) -> None:
    """Rank every label of a study by quality, lowest first: classifiers that never saw the clip, its neighbors, tag
    scores of embedders where the store has them, and duplicates with contradicting labels. It is a ranking, not an
    error rate: listen to a sample for that.

    Examples:
        acoustic-env audit rank --clips clips.parquet --store features --recipe urban-nature --out ranked.parquet
    """
    from acoustic_env.audit.rank import NOT_A_RATE, rank_study
    from acoustic_env.audit.table import read_table, streamed
    from acoustic_env.clips.ontology import audioset
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.io.files import check_place
    from acoustic_env.store.feature_store import FeatureStore
    from acoustic_env.store.sources import read_clips_of

    check_place(arguments.out)
    recipe, store = load_recipe(arguments.recipe), FeatureStore(arguments.store)
    if arguments.scorers:
        recipe = recipe.replace(audit=recipe.audit.replace(scorers=tuple(arguments.scorers)))
    options = {"blocks": arguments.blocks or (), "signals": arguments.signals or ()}
    duplicates = read_table(arguments.duplicates) if arguments.duplicates else None
    clips = read_clips_of(store, arguments.clips, log, arguments.group_by)
    tables = rank_study(clips, store, recipe, **options, duplicates=duplicates, log=log)
    summaries, flagged, rows, top = [], 0, 0, list[dict[str, Any]]()
    first = next(tables)
    with streamed(first[0].schema, arguments.out) as writer:
        for table, summary in chain([first], tables):
            writer.write_table(table)
            summaries.append(summary)
            rows += table.num_rows
            given = table.filter(table.column("given"))
            flagged += sum(given.column("flagged").to_pylist())
            top = sorted([*top, *given.slice(0, SHOWN).to_pylist()], key=lambda row: row["quality"])[:SHOWN]
    found = {"out": arguments.out, "rows": rows, "flagged": flagged, "note": NOT_A_RATE, "classes": summaries}
    line = f"{arguments.out}: {rows:,} rows of {summaries[0]['clips']:,} clips, {flagged:,} given labels flagged"
    display = audioset().names
    worst = (f"  {row['quality']:.4f}  {row['clip_id']}  {display.get(row['label'], row['label'])}" for row in top)
    show(arguments, found, line, f"note: {NOT_A_RATE}", *worst)
