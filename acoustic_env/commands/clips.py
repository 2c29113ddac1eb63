"""`acoustic-env clips ...`: make and check clip lists."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from acoustic_env.commands import clips_duplicates
from acoustic_env.commands.arguments import url

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.config import Recipe

Subparsers = argparse._SubParsersAction  # argparse has no public name for it

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
"""
FROM_AUDIOSET: Final = """\
examples:
  # clips cut and named by video id and start, the usual layout of a download
  acoustic-env clips from-audioset balanced_train_segments.csv \\
      --audio 's3://bucket/audioset/{ytid}_{start_ms}.flac' --recipe urban-nature --out clips.parquet

  # whole videos: without a time in the template the segment is cut from the file
  acoustic-env clips from-audioset eval_segments.csv --audio '/data/videos/{ytid}.m4a' --out clips.parquet

  # cut clips named by video id alone
  acoustic-env clips from-audioset eval_segments.csv --audio '/data/Y{ytid}.wav' --cut-already --out clips.parquet

placeholders: {ytid} {start_ms} {end_ms} {start_s} {end_s}; Python formats apply: {start_s:.0f} gives 30
"""
FROM_FOLDER: Final = """\
examples:
  acoustic-env clips from-folder recordings/ --out clips.parquet                  label = folder below recordings/

  # windows of 10 s every 5 s; the recording is the group
  acoustic-env clips from-folder recordings/ --window 10 --hop 5 --out clips.parquet

  # ids start with the folder's name: recordings/dog/a.wav_0-10000; --name gives another start
  acoustic-env clips from-folder /data/2024/recordings/ --name site-3/2024 --out clips.parquet

  # ESC-10: the first digit of a name is the fold, the number after it the original recording
  acoustic-env clips from-folder esc10/ --fold-from '/(\\d)-' --group-from '/\\d-(\\d+)-' --out clips.parquet

  # UrbanSound8K: fold1/7061-6-0-0.wav is recording-class-take-slice
  acoustic-env clips from-folder audio/ --fold-from '^fold(\\d+)/' --group-from '/(\\d+)-' --label-from='-(\\d+)-' \\
      --out clips.parquet
"""
FROM_TAR: Final = """\
examples:
  acoustic-env clips from-tar '/data/shards/train-*.tar' --out clips.parquet
  acoustic-env clips from-tar s3://bucket/train-0000.tar s3://bucket/train-0001.tar --json-key tags --out clips.parquet

Files that share a name up to the first dot are one sample: 0001.flac + 0001.json. Labels come from the .json
(key labels, label, tags, tag or class), the .cls or the .txt. Shards must not be compressed. Ids are
<the shard's last two folders>/<shard>/<sample>; --name NAME takes NAME in place of the folders.
"""
FROM_PARQUET: Final = """\
examples:
  acoustic-env clips from-parquet 'data/train-*.parquet' --label-column category --out clips.parquet

The audio column holds bytes or the Hugging Face struct<bytes, path>. Only labels, ids and groups are read here.
Ids are <the file's last two folders>/<file>/<row>; --name NAME takes NAME in place of the folders.
"""
CHECK: Final = """\
examples:
  acoustic-env clips check clips.csv                              columns, ids, times, labels, local files
  acoustic-env clips check clips.parquet --recipe urban-nature    and what the recipe makes of the list
  acoustic-env clips check clips.parquet --read                   and open and decode every clip
  acoustic-env clips check 2023.parquet 2024.parquet              and that no id has other audio in another list

Every fault is named with file, row (from 1, a header not counted) and column. Exit code 2 when there is one.
"""
FROM_EMBEDDINGS: Final = """\
example:
  acoustic-env clips from-audioset-embeddings embeddings/bal_train --segments balanced_train_segments.csv \\
      --recipe urban-nature-ontology --out train.parquet --store features/

Reads the TFRecord files AudioSet releases (VGGish, one vector of 128 bytes a second) and writes the block
vggish_released: the frames as they are, and their mean and standard deviation as the clip's vector.
"""


def add_parsers(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the `clips` group."""
    group = subparsers.add_parser("clips", description=TABLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = group.add_subparsers(metavar="COMMAND", required=True)
    _add_audioset(commands)
    _add_folder(commands)
    _add_tar(commands)
    _add_parquet(commands)
    _add_embeddings(commands)
    _add_check(commands)
    clips_duplicates.add_parser(commands, _progress)


def _parser(
    commands: Subparsers[argparse.ArgumentParser], name: str, summary: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=url, metavar="R", help="keep only the clips of this study (a recipe's name or file)"
    )
    parser.add_argument(
        "--out", type=url, required=True, metavar="LIST", help="the clip list to write: .parquet or .csv, any URL"
    )


def _add_name(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--name", metavar="NAME", help=f"what clip ids start with (default: {default})")


def _add_audioset(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(commands, "from-audioset", "a clip list of an official AudioSet segment list", FROM_AUDIOSET)
    parser.add_argument("segments", type=url, metavar="SEGMENTS.csv")
    parser.add_argument(
        "--audio", type=url, required=True, metavar="TEMPLATE", help="URL of a clip's audio with placeholders"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--cut-already", action="store_true", help="the files are the clips, whatever their names")
    form.add_argument("--whole-videos", action="store_true", help="the files are whole videos, whatever their names")
    _add_output(parser)
    parser.set_defaults(run=_from_audioset)


def _add_folder(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(commands, "from-folder", "a clip list of a folder of audio files: label = folder", FROM_FOLDER)
    parser.add_argument("folder", type=url, metavar="DIR", help="a path or an fsspec URL that can be listed")
    parser.add_argument("--window", type=float, metavar="S", help="cut recordings into windows of so many seconds")
    parser.add_argument(
        "--hop", type=float, metavar="S", help="from one window's start to the next (default: --window)"
    )
    pattern = "regular expression on the path below DIR; its first (...) is the {}"
    parser.add_argument("--label-from", metavar="REGEX", help=pattern.format("label"))
    parser.add_argument("--group-from", metavar="REGEX", help=pattern.format("group"))
    parser.add_argument("--fold-from", metavar="REGEX", help=pattern.format("fold"))
    _add_name(parser, "the folder's own name")
    _add_output(parser)
    parser.set_defaults(run=_from_folder)


def _add_tar(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(commands, "from-tar", "a clip list of tar shards with WebDataset naming", FROM_TAR)
    parser.add_argument("shards", type=url, nargs="+", metavar="SHARD.tar", help="local patterns with * are expanded")
    parser.add_argument("--json-key", metavar="KEY", help="where the labels stand in a sample's .json")
    _add_name(parser, "each shard's last two folders")
    _add_output(parser)
    parser.set_defaults(run=_from_tar)


def _add_parquet(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(commands, "from-parquet", "a clip list of Parquet files that hold encoded audio", FROM_PARQUET)
    parser.add_argument("files", type=url, nargs="+", metavar="FILE.parquet", help="local patterns with * are expanded")
    parser.add_argument("--audio-column", default="audio", metavar="NAME", help="default: audio")
    parser.add_argument("--label-column", metavar="NAME", help="strings, lists of strings or ClassLabel numbers")
    parser.add_argument("--id-column", metavar="NAME", help="clip ids (default: <folders>/<file>/<row>)")
    parser.add_argument("--group-column", metavar="NAME", help="what must not be split (default: the row)")
    _add_name(parser, "each file's last two folders; with --id-column nothing")
    _add_output(parser)
    parser.set_defaults(run=_from_parquet)


def _add_check(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(commands, "check", "name every fault of clip lists", CHECK)
    parser.add_argument("lists", type=url, nargs="+", metavar="LIST")
    parser.add_argument("--recipe", type=url, metavar="R", help="also check the labels against this study")
    parser.add_argument("--read", action="store_true", help="also open and decode every clip")
    parser.set_defaults(run=_check)


def _add_embeddings(commands: Subparsers[argparse.ArgumentParser]) -> None:
    parser = _parser(
        commands, "from-audioset-embeddings", "AudioSet's released embeddings as a feature block", FROM_EMBEDDINGS
    )
    parser.add_argument("folder", type=url, metavar="DIR", help="folder with the .tfrecord files")
    parser.add_argument(
        "--segments", type=url, required=True, metavar="SEGMENTS.csv", help="the official list of these clips"
    )
    parser.add_argument("--store", type=url, required=True, metavar="URL", help="the feature store to write to")
    _add_output(parser)
    parser.set_defaults(run=_from_embeddings)


def _from_audioset(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.audioset import read_audioset

    whole = True if arguments.whole_videos else False if arguments.cut_already else None
    return _write(read_audioset(arguments.segments, arguments.audio, whole), arguments)


def _from_folder(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.folder import Naming, read_folder

    naming = Naming(arguments.label_from, arguments.group_from, arguments.fold_from)
    found = read_folder(arguments.folder, naming, arguments.window, arguments.hop, arguments.name)
    if found.unreadable:
        print(f"{len(found.unreadable):,} files whose length is unknown stand in the list whole:", file=sys.stderr)
        print(*found.unreadable[:5], sep="\n", file=sys.stderr)
    if found.leftover_s >= 0.1:
        print(f"{found.leftover_s:,.1f} s at the ends of recordings fill no window", file=sys.stderr)
    return _write(found.clips, arguments)


def _from_tar(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.containers import read_tar

    return _write(read_tar(arguments.shards, arguments.json_key, arguments.name), arguments)


def _from_parquet(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.containers import read_parquet

    columns = (arguments.audio_column, arguments.label_column, arguments.id_column, arguments.group_column)
    return _write(read_parquet(arguments.files, *columns, arguments.name), arguments)


def _from_embeddings(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.table import write_clips
    from acoustic_env.store.released import import_released

    imported = import_released(arguments.folder, arguments.segments, _recipe(arguments), arguments.store)
    for note in imported.notes:
        print(note, file=sys.stderr)
    print(f"{arguments.store}: block vggish_released, {imported.written:,} rows written, {imported.there:,} were there")
    write_clips(imported.clips, arguments.out)
    print(f"{arguments.out}: {imported.clips.num_rows:,} clips")
    return 0


def _write(clips: pa.Table, arguments: argparse.Namespace) -> int:
    """Apply the recipe if one is given, write the list, say what is in it."""
    from acoustic_env.clips.select import select
    from acoustic_env.clips.table import CLIP_SCHEMA, absolute_uris, write_clips

    recipe = _recipe(arguments)
    if recipe is not None:
        selection = select(clips, recipe)
        clips = selection.clips.select(CLIP_SCHEMA.names)
        print(*selection.summary(), sep="\n", file=sys.stderr)
    else:
        print(*label_summary(clips), sep="\n", file=sys.stderr)
    write_clips(absolute_uris(clips), arguments.out)
    print(f"{arguments.out}: {clips.num_rows:,} clips")
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe | None:
    from acoustic_env.io.documents import load_recipe

    return load_recipe(arguments.recipe) if arguments.recipe else None


def label_summary(clips: pa.Table) -> list[str]:
    """How many clips, groups and labels, and the most frequent labels."""
    from collections import Counter

    import pyarrow.compute as pc

    counts = Counter(pc.list_flatten(clips["labels"]).to_pylist())
    groups = pc.count_distinct(clips["group"]).as_py()
    lines = [f"{clips.num_rows:,} clips in {groups:,} groups, {len(counts):,} labels"]
    if counts:
        common = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(10))
        lines.append(f"labels: {common}{', ...' if len(counts) > 10 else ''}")
    return lines


def _check(arguments: argparse.Namespace) -> int:
    from acoustic_env.clips.check import check_clips, compare_lists
    from acoustic_env.clips.table import describe_faults

    recipe = _recipe(arguments)
    read = _read_clip if arguments.read else None
    checked = {place: check_clips(place, recipe, read, _progress) for place in arguments.lists}
    between = compare_lists({place: of_list.table for place, of_list in checked.items()})
    for place, of_list in checked.items():
        print(*of_list.notes, sep="\n")
        faults = of_list.faults + between.get(place, [])
        if faults:
            print(describe_faults(place, faults), file=sys.stderr)
            print(f"acoustic-env: {place}: {len(faults):,} faults", file=sys.stderr)
        else:
            print(f"{place}: no faults{'' if arguments.read else ' (audio not read; --read opens every clip)'}")
    return 2 if between or any(of_list.faults for of_list in checked.values()) else 0


def _read_clip(uri: str, start_s: float | None, end_s: float | None, name: str) -> None:
    from acoustic_env.audio.decode import decode
    from acoustic_env.audio.fetch import open_source

    with open_source(uri) as source:
        decode(source, start_s, end_s, name)


def _progress(done: int, total: int) -> None:
    """A counter on a terminal, a line at every tenth in a log."""
    if sys.stderr.isatty():
        print(f"\r{done:,} of {total:,} clips read", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(f"{done:,} of {total:,} clips read", file=sys.stderr, flush=True)
