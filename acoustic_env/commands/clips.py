"""`acoustic-env clips ...`: make and check clip lists."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands import clips_duplicates
from acoustic_env.commands.arguments import add_command, add_paths, log, show, url
from acoustic_env.config import Recipe
from acoustic_env.errors import UsageError
from acoustic_env.io.documents import load_recipe
from acoustic_env.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.clips.readers import Reader

Subparsers = argparse._SubParsersAction  # argparse has no public name for it

# Reader of clip lists -> where it is, and what it reads (its line in the list of commands).
_BUILT_IN: Final = {
    "audioset": ("acoustic_env.clips.readers.audioset:AudioSetReader", "an official AudioSet segment list"),
    "audioset-embeddings": ("acoustic_env.store.released:EmbeddingsReader", "AudioSet's released embeddings"),
    "folder": ("acoustic_env.clips.readers.folder:FolderReader", "a folder of audio files, label = folder"),
    "tar": ("acoustic_env.clips.readers.tar:TarReader", "tar shards with WebDataset naming"),
    "parquet": ("acoustic_env.clips.readers.parquet:ParquetReader", "Parquet files that hold encoded audio"),
    "urbansound8k": ("acoustic_env.clips.readers.published:UrbanSound8KReader", "UrbanSound8K"),
    "esc50": ("acoustic_env.clips.readers.published:ESC50Reader", "ESC-50 or ESC-10"),
    "fsd50k": ("acoustic_env.clips.readers.published:FSD50KReader", "FSD50K, by its labels or its tags"),
    "fsdkaggle2019": ("acoustic_env.clips.readers.published:FSDKaggle2019Reader", "FSDKaggle2019"),
    "tsv": ("acoustic_env.clips.readers.published:TSVReader", "a TSV file of audio names and labels"),
    "huggingface": ("acoustic_env.clips.readers.huggingface:HuggingFaceReader", "a Hugging Face audio data set"),
}
READERS: Final[Registry[type[Reader]]] = Registry(
    "readers", "reader of clip lists", {name: target for name, (target, _) in _BUILT_IN.items()}
)

TABLE: Final = """\
A clip list is a table (CSV or Parquet) with a row for each clip:
  clip_id   unique and stable, and for one piece of audio only: a file or shard member, its start and end
  uri       the audio: a path (a relative one counts from the current folder), any fsspec URL (s3://, https://, ...),
            tar://MEMBER::URL for a member of a tar shard, parquet://COLUMN/ROW::URL for a row of a Parquet file
  start_s, end_s   the segment in s; empty for the whole file
  labels    a list; in CSV comma-separated in one quoted cell
  group     what must not be split between training and test: a video, a recording (empty: the clip itself)
  fold      a given fold, or empty
  source    where the row comes from
A folder of audio may stand in place of a list: its files, with subfolders as labels, as clips from-folder lists them.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that gets its options when they are first needed: a reader is imported when its command is used."""

    fill: Callable[[], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._fill()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        self._fill()
        return super().format_help()

    def _fill(self) -> None:
        fill, self.fill = self.fill, None
        if fill is not None:
            fill()


def add_parsers(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    group = subparsers.add_parser("clips", help="make and check clip lists", description=TABLE, formatter_class=raw)
    commands = group.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for name in READERS.names():
        summary = _BUILT_IN[name][1] if name in _BUILT_IN else f"what the reader {name} of another package reads"
        parser = commands.add_parser(f"from-{name}", help=f"make a clip list of {summary}", formatter_class=raw)
        parser.fill = partial(_fill_reader, parser, name)
    check = add_command(commands, "check", _check, line="validate clip lists")
    add = check.add_argument
    add("lists", type=url, nargs="+", metavar="LIST", help="Clip lists (Parquet or CSV) or folders of audio.")
    add("--recipe", type=url, metavar="R", help="Also check the labels against this study.")
    drop = "First write the list without the clips whose audio does not exist, and check that one."
    add("--drop-missing", type=url, metavar="OUT", help=drop)
    add("--read", action="store_true", help="Also open and decode every clip.")
    add_paths(check, lists="clips")
    clips_duplicates.add_parser(commands, _progress)


def _fill_reader(parser: argparse.ArgumentParser, name: str) -> None:
    reader = READERS.load(name)()
    parser.description, _, examples = (inspect.getdoc(reader) or "").partition("\nExamples:\n")
    parser.epilog = f"examples:\n{examples}" if examples else None
    reader.add_arguments(parser)
    parser.add_argument(
        "--recipe", type=url, metavar="R", help="Keep only the clips of this study (a recipe's name or file)."
    )
    parser.add_argument("--out", type=url, required=True, metavar="LIST", help="Clip list to write, .parquet or .csv.")
    parser.add_argument("--json", action="store_true", help="Print one JSON document.")
    places = [action.dest for action in parser._actions if action.type is url and action.dest != "out"]
    parser.set_defaults(run=partial(_make_list, reader, places))


def _make_list(reader: Reader, places: Sequence[str], arguments: argparse.Namespace) -> None:
    """Read, apply the recipe if one is given, write the list, describe what is in it."""
    import pyarrow.compute as pc

    from acoustic_env.clips.select import select
    from acoustic_env.clips.table import CLASS_COLUMN, absolute_uris, check_output, write_clips
    from acoustic_env.io.location import split, split_shard

    given = [getattr(arguments, place) or [] for place in places]
    check_output(arguments.out, [one for of in given for one in ([of] if isinstance(of, str) else of)])
    clips, recipe = absolute_uris(reader.read(arguments, log)), _recipe(arguments)
    alike = clips["uri"].filter(pc.ends_with(clips["uri"], split(arguments.out)[1])).to_pylist()
    check_output(arguments.out, {split_shard(uri)[1] for uri in alike})
    left_out: dict[str, list[str]] = {}
    if recipe is None:
        log("\n".join(label_summary(clips)))
    else:
        selection = select(clips, recipe)
        clips, left_out = selection.clips.drop_columns(CLASS_COLUMN), selection.left_out
        log("\n".join(selection.summary()))
    write_clips(clips, arguments.out)
    document = {
        "out": arguments.out,
        "clips": clips.num_rows,
        "groups": pc.count_distinct(clips["group"]).as_py(),
        "labels": dict(Counter(pc.list_flatten(clips["labels"]).to_pylist()).most_common()),
        "left_out": {reason: len(ids) for reason, ids in left_out.items()},
    }
    show(arguments, document, f"{arguments.out}: {clips.num_rows:,} clips")


def _recipe(arguments: argparse.Namespace) -> Recipe | None:
    return load_recipe(arguments.recipe) if arguments.recipe else None


def label_summary(clips: pa.Table) -> list[str]:
    """Describe how many clips, groups and labels there are, and the most frequent labels."""
    import pyarrow.compute as pc

    from acoustic_env.clips.table import describe_clips

    counts = Counter(pc.list_flatten(clips["labels"]).to_pylist())
    lines = [describe_clips(clips)]
    if counts:
        common = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(10))
        lines.append(f"labels: {common}{', ...' if len(counts) > 10 else ''}")
    return lines


def _check(arguments: argparse.Namespace) -> int:
    """Validate clip lists.

    Every issue names file, row (from 1, a header not counted) and column. Exit code 2 when there is one.

    Examples:
        acoustic-env clips check clips.csv                              columns, ids, times, labels, local files
        acoustic-env clips check clips.parquet --recipe urban-nature    and what the recipe makes of the list
        acoustic-env clips check recordings/                            what clips from-folder would make of a folder
        acoustic-env clips check clips.parquet --read                   and open and decode every clip
        acoustic-env clips check clips.csv --drop-missing there.csv     without the clips whose audio is gone
        acoustic-env clips check 2023.parquet 2024.parquet              and that no id has other audio in another list
    """
    from acoustic_env.clips.check import check_clips, compare_lists
    from acoustic_env.clips.table import ValidationIssue, describe_issues

    if arguments.drop_missing:
        arguments.lists = [_drop_missing(arguments.lists, arguments.drop_missing)]
    recipe = _recipe(arguments)
    read = _read_clip if arguments.read else None
    checked = {place: check_clips(place, recipe, read, _progress) for place in arguments.lists}
    between = compare_lists({place: of_list.table for place, of_list in checked.items()})
    issues: dict[str, Sequence[ValidationIssue]] = {
        place: of_list.issues + between.get(place, []) for place, of_list in checked.items()
    }
    documents, lines = [], list[str]()
    for place, of in checked.items():
        own = [vars(issue) for issue in issues[place]]
        documents.append({"list": place, "clips": of.clips, "notes": of.notes, "issues": own})
        lines += of.notes
        if own:
            log(f"{describe_issues(place, issues[place])}\nacoustic-env: {place}: {len(own):,} issues")
        else:
            lines.append(f"{place}: no issues{'' if arguments.read else ' (audio not read; --read opens every clip)'}")
    show(arguments, {"lists": documents}, *lines)
    return 2 if any(issues.values()) else 0


def _drop_missing(lists: Sequence[str], out: str) -> str:
    """Write a list without the clips whose audio is gone, say how many these are, and return `out`."""
    from acoustic_env.clips.check import drop_missing
    from acoustic_env.clips.table import check_output, read_clips, write_clips

    if len(lists) > 1:
        raise UsageError(f"--drop-missing {out}: expected one list, found {len(lists)}")
    check_output(out, lists)
    clips = read_clips(lists[0])
    kept, gone = drop_missing(clips, lists[0], _progress)
    write_clips(kept, out)
    dropped = len(clips) - len(kept)
    examples = f": no such file, {', '.join(gone[:3])}{', ...' if len(gone) > 3 else ''}" if gone else ""
    log(f"{out}: {len(kept):,} clips; {dropped:,} ({dropped / len(clips):.1%}) are left out{examples}")
    return out


def _read_clip(uri: str, start_s: float | None, end_s: float | None, name: str) -> None:
    from acoustic_env.audio.decode import decode
    from acoustic_env.audio.fetch import open_source
    from acoustic_env.audio.prepare import check_length

    with open_source(uri) as source:
        check_length(*decode(source, start_s, end_s, name), name)


def _progress(done: int, total: int) -> None:
    """Show a counter on a terminal, a line at every tenth in a log."""
    if sys.stderr.isatty():
        print(f"\r{done:,} of {total:,} read", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(f"{done:,} of {total:,} read", file=sys.stderr, flush=True)
