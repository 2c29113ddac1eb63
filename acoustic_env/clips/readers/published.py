"""Published data sets: what their tables say of a clip, and how many clips there are in each fold."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any, ClassVar, Final

import pyarrow as pa

from acoustic_env.clips.naming import require_unique, root_name
from acoustic_env.clips.readers import Log
from acoustic_env.clips.records import read_rows
from acoustic_env.clips.table import clip_table, further_name
from acoustic_env.config import Settings, from_mapping
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import read_mapping
from acoustic_env.io.files import files_below, read_bytes
from acoustic_env.io.location import join, split, url

BUILT_IN: Final = Path(__file__).parents[2] / "recipes" / "tags"
SHOWN: Final = 5
SPLITS: Final = {"train": 0, "val": 1}  # names of folds
PARTIAL: Final = "Take what is there when rows or audio files are missing. Default: exit 2."


@dataclass(frozen=True)
class Part:
    """A table of a data set; names in braces are its columns."""

    table: str  # its path below the folder of the set
    audio: str  # path of a clip's audio
    labels: str  # joined by commas
    group: str
    fold: str  # a number, or one of `SPLITS`
    clips: Mapping[int, int]  # fold -> clips published

    def columns(self) -> list[str]:
        """Return the columns of the table that are read."""
        texts = "".join((self.audio, self.labels, self.group, self.fold))
        return list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(texts) if name))


class PublishedReader:
    """Base of the readers of published sets, which are tables of parts.

    Attributes:
        name: what ids start with; the name of the audio file follows.
        suffix: of audio files, left out of ids.
        source: the set, as the column `source` has it; a part's name follows.
        layout: what is in the folder of the set.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ""
    source: ClassVar[str]
    layout: ClassVar[str]
    parts: ClassVar[Mapping[str, Part]]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("folder", type=url, metavar="DIR", help=f"Folder of the data set, with {self.layout}.")
        parser.add_argument("--partial", action="store_true", help=PARTIAL)
        if len(self.parts) > 1:
            names = ",".join(self.parts)
            parser.add_argument("--parts", default=names, help=f"Parts of the set (default: {names}).")

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        names = [name.strip() for name in arguments.parts.split(",")] if len(self.parts) > 1 else list(self.parts)
        if unknown := [name for name in names if name not in self.parts]:
            msg = f"--parts {arguments.parts}: no part {unknown[0]!r}; expected one of: {', '.join(self.parts)}"
            raise UsageError(msg)
        clips, published = list[dict[str, Any]](), Counter[int]()
        for name in names:
            part = self.part(name, arguments)
            published.update(part.clips)
            place = join(arguments.folder, part.table)
            for row in self.rows(name, read_rows(place, part.columns()), arguments):
                clips.append(self._clip(name, part, row, place))
        return published_clips(arguments.folder, clips, published, log, partial=arguments.partial)

    def part(self, name: str, arguments: argparse.Namespace) -> Part:
        """Return what is published of a part."""
        return self.parts[name]

    def rows(self, name: str, rows: list[dict[str, str]], arguments: argparse.Namespace) -> list[dict[str, str]]:
        """Return the rows of a part's table that are wanted."""
        return rows

    def _clip(self, name: str, part: Part, row: dict[str, str], place: str) -> dict[str, Any]:
        uri, fold = part.audio.format(**row), part.fold.format(**row)
        if fold not in SPLITS and not fold.isdecimal():
            raise UsageError(f"{place}: {uri}: fold {fold!r}, expected a number or one of {', '.join(SPLITS)}")
        return {
            "clip_id": f"{self.name}/{PurePosixPath(uri).name.removesuffix(self.suffix)}",
            "uri": uri,
            "labels": part.labels.format(**row).split(","),
            "group": part.group.format(**row),
            "fold": SPLITS[fold] if fold in SPLITS else int(fold),
            "source": f"{self.source} {name}".rstrip(),
        }


class ESC50Reader(PublishedReader):
    """Make a clip list of ESC-50, or of its ten classes ESC-10 (Piczak 2015).

    Fold is the published one, group the Freesound recording a clip is cut from, label the category.

    Examples:
        acoustic-env clips from-esc50 ESC-50-master/ --out clips.parquet
        acoustic-env clips from-esc50 ESC-50-master/ --esc10 --out clips.parquet
    """

    name, source, layout = "esc50", "ESC-50", "meta/esc50.csv and audio/"
    parts: ClassVar = {"": Part(
        "meta/esc50.csv", "audio/{filename}", "{category}", "freesound/{src_file}", "{fold}",
        dict.fromkeys(range(1, 6), 400),
    )}  # fmt: skip

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--esc10", action="store_true", help="Only the ten classes of ESC-10.")

    def part(self, name: str, arguments: argparse.Namespace) -> Part:
        part = self.parts[name]
        return (
            replace(part, clips={fold: count // 5 for fold, count in part.clips.items()}) if arguments.esc10 else part
        )

    def rows(self, name: str, rows: list[dict[str, str]], arguments: argparse.Namespace) -> list[dict[str, str]]:
        return [row for row in rows if not arguments.esc10 or row.get("esc10") == "True"]


class UrbanSound8KReader(PublishedReader):
    """Make a clip list of UrbanSound8K, excerpts of up to 4 s of ten classes (Salamon, Jacoby and Bello 2014).

    Fold is the published one, group the Freesound recording an excerpt is cut from, label the class.

    Examples:
        acoustic-env clips from-urbansound8k UrbanSound8K/ --out clips.parquet
    """

    name, source, layout = "urbansound8k", "UrbanSound8K", "metadata/UrbanSound8K.csv and audio/fold1 to audio/fold10"
    parts: ClassVar = {"": Part(
        "metadata/UrbanSound8K.csv", "audio/fold{fold}/{slice_file_name}", "{class_name}", "freesound/{fsID}", "{fold}",
        dict(enumerate((873, 888, 925, 990, 936, 823, 838, 806, 816, 837), start=1)),
    )}  # fmt: skip


class TagRules(Settings):
    """Rules that give a clip one class by its tags: the first class in order with any of the tags, else a catch-all."""

    classes: Mapping[str, tuple[str, ...]]
    """Class -> its tags; a tag matches whole and in lower case."""

    other: str
    """Class of a clip without any of the tags."""

    def label(self, tags: Collection[str]) -> str:
        """Return the class of a clip.

        >>> rules = TagRules(classes={"animal": ("dog",), "music": ("guitar",)}, other="other")
        >>> rules.label(["Guitar", "dog"]), rules.label(["hotdog"])
        ('animal', 'other')
        """
        own = {tag.lower() for tag in tags}
        return next((name for name, words in self.classes.items() if own & set(words)), self.other)


def load_tag_rules(name: str) -> TagRules:
    """Read rules by the name of a built-in set or from a YAML file.

    Raises:
        UsageError: no such file, not YAML, or not rules.
    """
    built_in = BUILT_IN / f"{name}.yaml"
    place = str(built_in) if built_in.is_file() else name
    return from_mapping(TagRules, read_mapping(place, "a set of rules"), place)


class FSD50KReader(PublishedReader):
    """Make a clip list of FSD50K, by its ground truth or by its clips' tags (Fonseca et al. 2022).

    Fold is 0 for the training part, 1 for the validation part, 2 for the evaluation part; group is the clip. Labels are
    those of the ground truth, or with --tags the class that rules give to a clip's tags.

    Examples:
        acoustic-env clips from-fsd50k FSD50K/ --out clips.parquet
        acoustic-env clips from-fsd50k FSD50K/ --tags household-8 --out clips.parquet
    """

    name, suffix, source = "fsd50k", ".wav", "FSD50K"
    layout = "FSD50K.ground_truth/, FSD50K.dev_audio/ and FSD50K.eval_audio/"
    parts: ClassVar = {
        part: Part(
            f"FSD50K.ground_truth/{part}.csv", f"FSD50K.{part}_audio/{{fname}}.wav", "{labels}", "freesound/{fname}",
            fold, clips,
        )
        for part, fold, clips in (("dev", "{split}", {0: 36_796, 1: 4_170}), ("eval", "2", {2: 10_231}))
    }  # fmt: skip

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        tags = "Labels by the clips' tags: rules in a YAML file, or household-8. Default: the ground truth."
        parser.add_argument("--tags", type=url, metavar="RULES", help=tags)

    def rows(self, name: str, rows: list[dict[str, str]], arguments: argparse.Namespace) -> list[dict[str, str]]:
        if not arguments.tags:
            return rows
        rules = load_tag_rules(arguments.tags)
        place = join(arguments.folder, f"FSD50K.metadata/{name}_clips_info_FSD50K.json")
        try:
            tags = {clip: about["tags"] for clip, about in json.loads(read_bytes(place)).items()}
            return [{**row, "labels": rules.label(tags[row["fname"]])} for row in rows]
        except KeyError as error:
            raise UsageError(f"{place}: nothing of clip {error}, which the ground truth has") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{place}: not what is known of the clips, JSON of clip -> tags: {error}") from error


class FSDKaggle2019Reader(PublishedReader):
    """Make a clip list of FSDKaggle2019, 80 classes, well and noisily labeled (Fonseca et al. 2019).

    Fold is 0 for the curated, 1 for the noisy training part, 2 for the test part; group is the Freesound recording or
    the Flickr video.

    Examples:
        acoustic-env clips from-fsdkaggle2019 FSDKaggle2019/ --parts curated,test --out clips.parquet
    """

    name, suffix, source = "fsdkaggle2019", ".wav", "FSDKaggle2019"
    layout = "FSDKaggle2019.meta/ and FSDKaggle2019.audio_*/"
    parts: ClassVar = {
        part: Part(
            f"FSDKaggle2019.meta/{file}_post_competition.csv", f"FSDKaggle2019.audio_{file}/{{fname}}", "{labels}",
            f"{{{group}}}", str(fold), {fold: clips},
        )
        for fold, part, file, group, clips in (
            (0, "curated", "train_curated", "freesound_id", 4_970),
            (1, "noisy", "train_noisy", "flickr_video_URL", 19_815),
            (2, "test", "test", "freesound_id", 4_481),
        )
    }  # fmt: skip


class TSVReader:
    """Make a clip list of a TSV file with a column of audio file names and one of comma-joined labels.

    A clip has exactly the labels of its cell: "Musical instrument" is not "Music". Further columns are carried along.

    Examples:
        acoustic-env clips from-tsv dataset.tsv --audio data/audio --out clips.parquet
    """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", type=url, metavar="FILE.tsv", help="Table with a header.")
        parser.add_argument("--audio", type=url, required=True, metavar="DIR", help="Folder of the audio files.")
        parser.add_argument("--suffix", default=".wav", help="Ending of files, where a name lacks it (default: .wav).")
        parser.add_argument("--audio-column", default="audio", metavar="NAME", help="File names (default: audio).")
        parser.add_argument("--label-column", default="labels", metavar="NAME", help="Labels (default: labels).")
        group = "Column of what must not be split (default: every row is a group)."
        parser.add_argument("--group-column", metavar="NAME", help=group)
        parser.add_argument("--name", help="Start of the clip ids (default: the audio folder's own name).")
        parser.add_argument("--partial", action="store_true", help=PARTIAL)

    def read(self, arguments: argparse.Namespace, log: Log) -> pa.Table:
        audio, label, group = arguments.audio_column, arguments.label_column, arguments.group_column
        columns = (audio, label, *((group,) if group else ()))
        root, rows = root_name(arguments.audio, arguments.name), list[dict[str, Any]]()
        for row in read_rows(arguments.file, columns):
            clip_id = f"{root}/{row[audio]}"
            uri = row[audio].removesuffix(arguments.suffix) + arguments.suffix
            clip = {"clip_id": clip_id, "uri": uri, "source": split(arguments.file)[1]}
            clip["labels"] = [name.strip() for name in row[label].split(",") if name.strip()]
            clip["group"] = (row[group] if group else "") or clip_id
            rows.append(clip | {further_name(key): row[key] or None for key in row if key not in columns})
        return published_clips(arguments.audio, rows, {}, log, partial=arguments.partial)


def published_clips(
    root: str, rows: Sequence[dict[str, Any]], published: Mapping[int, int], log: Log, *, partial: bool
) -> pa.Table:
    """Return the clip list of a data set, checked against what its publication promises.

    Args:
        root: folder of the data set.
        rows: of the clip list; `uri` is the path of the audio below the folder.
        published: fold -> its number of clips.
        log: is told what is missing where `partial` allows it.
        partial: take what is there.

    Raises:
        UsageError: rows or files that the publication has are missing, unless `partial`, or no file is there.
    """
    found = files_below(root)
    if found is None:
        raise UsageError(f"{root}: no such folder")
    there = set(found)
    kept = [row for row in rows if row["uri"] in there]
    absent = [row["uri"] for row in rows if row["uri"] not in there]
    if not kept:
        msg = f"{root}: none of the {len(rows):,} audio files is below it; expected {', '.join(absent[:1])} and so on"
        raise UsageError(msg)
    counts = Counter(row.get("fold") for row in rows)
    issues = [
        f"fold {fold}: {counts[fold]:,} rows, the publication has {expected:,}"
        for fold, expected in published.items()
        if counts[fold] != expected
    ]
    if absent:
        shown = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
        issues.append(f"{len(absent):,} of {len(rows):,} audio files are missing: {shown}")
    if issues and not partial:
        remedy = "complete it, or take what is there with --partial"
        raise UsageError("\n".join([f"{root}: not the whole data set:", *issues, remedy]))
    for issue in issues:
        log(issue)
    return require_unique(clip_table({**row, "uri": join(root, row["uri"])} for row in kept), root)
