"""FSD50K: 51,197 Freesound clips with labels of 200 AudioSet classes, and their tags (Fonseca et al. 2022)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from acoustic_env.clips.readers import Log
from acoustic_env.clips.readers.published import add_root, chosen_parts, published_clips, subset_of, table_rows
from acoustic_env.clips.tags import TagRules, load_tag_rules
from acoustic_env.errors import UsageError
from acoustic_env.io.files import read_if_there
from acoustic_env.io.location import join, url

# Part -> its clips, its table, the folder of its audio, what is known of its clips.
PARTS: Final = {
    "dev": (40_966, "FSD50K.ground_truth/dev.csv", "FSD50K.dev_audio", "FSD50K.metadata/dev_clips_info_FSD50K.json"),
    "eval": (
        10_231,
        "FSD50K.ground_truth/eval.csv",
        "FSD50K.eval_audio",
        "FSD50K.metadata/eval_clips_info_FSD50K.json",
    ),
}
FOLDS: Final = {"train": 0, "val": 1, "eval": 2}


class FSD50KReader:
    """Make a clip list of FSD50K, by its ground truth or by its clips' tags.

    Fold is 0 for the training part, 1 for the validation part, 2 for the evaluation part; group is the clip. Labels are
    those of the ground truth, or with --tags the class that rules give to a clip's tags.
    """

    examples = """\
  acoustic-env clips from-fsd50k FSD50K/ --out clips.parquet
  acoustic-env clips from-fsd50k FSD50K/ --tags household-8 --out clips.parquet
"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add_root(parser, "FSD50K.ground_truth/, FSD50K.dev_audio/ and FSD50K.eval_audio/")
        parser.add_argument("--parts", default="dev,eval", help="Parts of the set (default: dev,eval).")
        tags = "Labels by the clips' tags: rules in a YAML file, or household-8. Default: the ground truth."
        parser.add_argument("--tags", type=url, metavar="RULES", help=tags)

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        rules = load_tag_rules(arguments.tags) if arguments.tags else None
        names = chosen_parts(arguments.parts, PARTS)
        rows = [row for name in names for row in _part(arguments.folder, name, rules)]
        promised = {name: PARTS[name][0] for name in names}
        return published_clips(arguments.folder, rows, promised, subset_of, log, partial=arguments.partial)


def _part(root: str, name: str, rules: TagRules | None) -> list[dict[str, Any]]:
    _, table, folder, about = PARTS[name]
    tags = _tags(root, about) if rules else {}
    columns = ("fname", "labels", "split") if name == "dev" else ("fname", "labels")
    rows = []
    for number, row in enumerate(table_rows(root, table, columns), start=1):
        split, clip = row.get("split", "eval"), row["fname"]
        if split not in FOLDS or (rules and clip not in tags):
            wrong = f"split {split!r}" if split not in FOLDS else f"clip {clip}, which {about} does not have"
            raise UsageError(f"{join(root, table)}: row {number:,}: {wrong}")
        rows.append(
            {
                "clip_id": f"fsd50k/{clip}",
                "uri": f"{folder}/{clip}.wav",
                "labels": [rules.label(tags[clip])] if rules else row["labels"].split(","),
                "group": f"freesound/{clip}",
                "fold": FOLDS[split],
                "source": f"FSD50K {name}",
            }
        )
    return rows


def _tags(root: str, path: str) -> dict[str, Sequence[str]]:
    place = join(root, path)
    data = read_if_there(place)
    try:
        if data is None:
            raise UsageError(f"{place}: no such file, and --tags needs it")
        return {clip: about["tags"] for clip, about in json.loads(data).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{place}: not what is known of the clips, JSON of clip -> tags: {error}") from error
