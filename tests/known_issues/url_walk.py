"""The whole program, command by command, with every path at a URL: `python -m tests.known_issues.url_walk BASE`.

It runs in a process of its own (see test_every_path_is_a_url.py): the workers of Ray must know the S3 server, and the
working directory must stay empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.cookiejar
import io
import json
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from acoustic_env.audit.annotations import ANNOTATION_SCHEMA
from acoustic_env.audit.labels import versions
from acoustic_env.audit.table import read_table, write_table
from acoustic_env.cli import main
from acoustic_env.clips.scenes import write_scenes
from acoustic_env.clips.table import clip_table, read_clips, write_clips
from acoustic_env.config import RECIPES
from acoustic_env.io.files import files_below, read_bytes, write_bytes
from acoustic_env.models.bundle import Bundle
from tests.clips.test_released import record, some_frames, tfrecord

RECIPE: Final = b"""\
task: binary
classes: {natural: {labels: [natural]}, urban: {labels: [urban]}}
signals: [raw]
blocks: {placeholder: {}}
split: {folds: 4, validation_folds: [2], test_folds: [3]}
model: {kind: logistic}
"""
# Few folds: every one held out by turns is a further group of Ray Train workers.
NETWORK: Final = RECIPE.replace(b"{kind: logistic}", b"{kind: mlp, ensemble: 1, max_epochs: 3}").replace(
    b"{folds: 4, validation_folds: [2], test_folds: [3]}", b"{folds: 3, validation_folds: [1], test_folds: [2]}"
)
SEGMENTS: Final = b'# list\naaa, 0.0, 10.0, "/t/dd00128"\nbbb, 30.5, 40.5, "/t/dd00129"\n'
CLASSES: Final = b"index,mid,display_name\n0,/m/09x0r,Speech\n"
TAGS: Final = b"{classes: {natural: [rain]}, other: urban}"
CLASSES_SHA256: Final = hashlib.sha256(CLASSES).hexdigest()
# "@/" in a step is the URL everything is below.
STUDY: Final = "--clips @/clips.parquet --store @/store --recipe @/recipe.yaml"
NETWORK_STUDY: Final = STUDY.replace("recipe.yaml", "network.yaml")
ANNOTATED: Final = "--sample @/sample.parquet --annotations @/annotations.parquet"
DONE: Final = "--clips @/clips.parquet --store @/store --bundle @/bundle"
LISTEN: Final = "audit listen --sample @/sample.parquet --clips @/clips.parquet --out @/annotations.parquet"

# What is needed before anything can be learned.
FIRST: Final = f"""
clips from-folder @/recordings --group-from /(recording-\\d+) --recipe @/recipe.yaml --out @/clips.parquet
extract {STUDY}
"""
QUICK: Final = f"""
clips from-audioset @/segments.csv --audio @/audio/{{ytid}}_{{start_ms}}.flac --recipe @/ontology.yaml --out @/a.csv
clips from-tar @/shards/*.tar --recipe @/recipe.yaml --out @/tar.parquet
clips from-urbansound8k @/urbansound8k --partial --recipe @/recipe.yaml --out @/urbansound8k.parquet
clips from-esc50 @/esc50 --partial --recipe @/recipe.yaml --out @/esc50.parquet
clips from-fsd50k @/fsd50k --partial --tags @/tags.yaml --recipe @/recipe.yaml --out @/fsd50k.parquet
clips from-fsdkaggle2019 @/fsdkaggle2019 --partial --recipe @/recipe.yaml --out @/fsdkaggle2019.parquet
clips from-tsv @/dataset.tsv --audio @/flat --suffix .flac --recipe @/recipe.yaml --out @/tsv.parquet
clips from-huggingface @/huggingface --recipe @/recipe.yaml --out @/huggingface.parquet
clips from-parquet @/rows/part-?.parquet --label-column labels --recipe @/recipe.yaml --out @/rows.parquet
clips from-audioset-embeddings @/tfrecords --segments @/segments.csv --recipe @/ontology.yaml --store @/released \
    --out @/released.parquet
clips check @/clips.parquet --recipe @/recipe.yaml --read --drop-missing @/there.parquet
clips duplicates --clips @/clips.parquet --out @/groups.parquet --apply @/grouped.parquet
init @/recordings @/study --recipe @/recipe.yaml --labels @/labels.csv
config --study @/study
extract --study @/study --limit 2 --dry-run
store ls @/store
store verify @/store --clips @/clips.parquet --read
store errors @/store
store export @/store --block placeholder --clips @/clips.parquet --out @/placeholder.npz
store compact @/store
store gc @/store
weights fetch yamnet-classes --from @/weights --sha256 {CLASSES_SHA256}
train {STUDY} --settings @/model.json --out @/bundle
compare {STUDY} --models logistic --out @/compare
evaluate {DONE}
explain {DONE} --out @/explained
predict {DONE} --out @/predictions.parquet
predict --bundle @/bundle --out @/of-files.parquet @/file.flac
serve --bundle @/bundle
audit rank {STUDY} --duplicates @/groups.parquet --out @/ranked.parquet
audit plan --half-width 0.2 --ranked @/ranked.parquet
audit sample --ranked @/ranked.parquet --n 20 --gold @/gold.csv --out @/sample.parquet
{LISTEN}
{LISTEN}
audit estimate {ANNOTATED} --clips @/clips.parquet
audit relabel {ANNOTATED} --ranked @/ranked.parquet --versions @/labels
audit diff --versions @/labels original v0001
audit export --versions @/labels --clips @/timed.parquet --out @/segments-out.csv
reannotate {DONE} --versions @/weekly --json
reannotate {DONE} --versions @/weekly --json
reannotate {DONE} --versions @/weekly --annotations @/weekly.parquet --json
report {DONE} {ANNOTATED} --recipe @/recipe.yaml --explain @/explained --compare @/compare --ranked @/ranked.parquet \
    --versions @/labels --truth @/truth.csv --out @/page/report.html
"""
SLOW: Final = f"""
train {NETWORK_STUDY} --workers 2 --checkpoints @/checkpoints --out @/network
tune {NETWORK_STUDY} --settings @/model.json --trials 1 --out @/tuned
tune {NETWORK_STUDY} --settings @/model.json --trials 1 --out @/tuned
report --tune @/tuned --out @/tuned.html
demo --num-clips 60 --out @/demo
"""


def steps(part: str, base: str) -> list[list[str]]:
    """The commands of a part, at a URL."""
    lines = {"first": FIRST, "quick": QUICK, "slow": SLOW}[part].replace("\\\n", " ").strip().splitlines()
    return [[word.replace("@/", f"{base}/") for word in line.split()] for line in lines]


def prepare(base: str) -> None:
    """Write recordings, lists and settings below `base`."""
    with tempfile.TemporaryDirectory() as folder:
        clips = write_scenes(folder, 48, seed=3, flip=0.1, seconds=1.5).to_pylist()
        sounds = {clip["clip_id"]: Path(clip["uri"]).read_bytes() for clip in clips}
        embeddings = [
            record("aaa", 0.0, ["/t/dd00128"], some_frames(10)),
            record("bbb", 30.5, ["/t/dd00129"], some_frames(9)),
        ]
        write_bytes(f"{base}/tfrecords/aa.tfrecord", tfrecord(Path(folder, "aa.tfrecord"), embeddings).read_bytes())
    for clip in clips:
        name = f"{clip['labels'][0]}/{clip['group']}_{clip['clip_id']}.flac"
        write_bytes(f"{base}/recordings/{name}", sounds[clip["clip_id"]])
    few = clips[:4]
    write_bytes(f"{base}/file.flac", sounds[few[0]["clip_id"]])
    write_bytes(f"{base}/shards/a.tar", _shard(few, sounds))
    rows = pa.table({"audio": [sounds[c["clip_id"]] for c in few], "labels": [c["labels"] for c in few]})
    write_table(rows, f"{base}/rows/part-0.parquet")
    for name, data in published(few, sounds).items():
        write_bytes(f"{base}/{name}", data)
    for name, data in {
        "recipe.yaml": RECIPE,
        "ontology.yaml": (RECIPES / "urban-nature-ontology.yaml").read_bytes(),
        "network.yaml": NETWORK,
        "segments.csv": SEGMENTS,
        "tags.yaml": TAGS,
        "labels.csv": "".join(
            ["file,label\n", *(f"{c['group']}_{c['clip_id']},{c['labels'][0]}\n" for c in clips)]
        ).encode(),
        "model.json": b'{"seed": 5}',
        "weights/yamnet_class_map.csv": CLASSES,
    }.items():
        write_bytes(f"{base}/{name}", data)


def published(clips: list[dict[str, Any]], sounds: dict[str, bytes]) -> dict[str, bytes]:
    """Return path -> content of four clips in the layouts of published data sets."""
    fsd, kaggle = "fsd50k/FSD50K", "fsdkaggle2019/FSDKaggle2019"
    meta = f"{kaggle}.meta/"
    layouts = [  # folder and suffix of the audio, table, its header, its row, its clips
        (
            *("urbansound8k/audio/fold1", "wav", "urbansound8k/metadata/UrbanSound8K.csv"),
            *("slice_file_name,fsID,fold,class_name", "{id}.wav,{id},1,{label}", clips),
        ),
        (
            *("esc50/audio", "wav", "esc50/meta/esc50.csv"),
            *("filename,fold,category,esc10,src_file", "{id}.wav,1,{label},True,{id}", clips),
        ),
        (
            *(f"{fsd}.dev_audio", "wav", f"{fsd}.ground_truth/dev.csv"),
            *("fname,labels,split", "{id},{label},train", clips[:2]),
        ),
        (f"{fsd}.eval_audio", "wav", f"{fsd}.ground_truth/eval.csv", "fname,labels", "{id},{label}", clips[2:]),
        (
            *(f"{kaggle}.audio_train_curated", "wav", f"{meta}train_curated_post_competition.csv"),
            *("fname,labels,freesound_id", "{id}.wav,{label},{id}", clips[:2]),
        ),
        (
            *(f"{kaggle}.audio_train_noisy", "wav", f"{meta}train_noisy_post_competition.csv"),
            *("fname,labels,flickr_video_URL", "{id}.wav,{label},{id}", clips[2:3]),
        ),
        (
            *(f"{kaggle}.audio_test", "wav", f"{meta}test_post_competition.csv"),
            *("fname,labels,freesound_id", "{id}.wav,{label},{id}", clips[3:]),
        ),
        ("flat", "flac", "dataset.tsv", "audio\tlabels", "{id}\t{label}", clips),
        ("huggingface/train", "flac", "huggingface/train/metadata.csv", "file_name,label", "{id}.flac,{label}", clips),
    ]
    files: dict[str, bytes] = {}
    for folder, suffix, table, header, row, own in layouts:
        rows = [row.format(id=clip["clip_id"], label=clip["labels"][0]) for clip in own]
        files[table] = "\n".join([header, *rows]).encode()
        files |= {f"{folder}/{clip['clip_id']}.{suffix}": sounds[clip["clip_id"]] for clip in own}
    tags = {clip["clip_id"]: {"tags": ["rain" if "natural" in clip["labels"] else "car"]} for clip in clips}
    for part in ("dev", "eval"):
        files[f"{fsd}.metadata/{part}_clips_info_FSD50K.json"] = json.dumps(tags).encode()
    return files


def _shard(clips: list[dict[str, Any]], sounds: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for clip in clips:
            for end, content in (
                ("flac", sounds[clip["clip_id"]]),
                ("json", json.dumps({"labels": clip["labels"]}).encode()),
            ):
                member = tarfile.TarInfo(f"{clip['clip_id']}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def derive(base: str) -> None:
    """Write what people would make of the clip list: gold rows, the truth; and the times of the clips."""
    clips = read_clips(f"{base}/clips.parquet").to_pylist()
    write_clips(clip_table([{**clip, "start_s": 0.0, "end_s": 1.0} for clip in clips]), f"{base}/timed.parquet")
    rows = [(clip["clip_id"], clip["labels"][0]) for clip in clips]
    lines = [f"{clip_id},{label}" for clip_id, label in rows]
    write_bytes(f"{base}/truth.csv", "\n".join(["clip_id,label", *lines]).encode())
    write_bytes(
        f"{base}/gold.csv", "\n".join(["clip_id,label,truth", *(f"{line},right" for line in lines[:2])]).encode()
    )


def answer_weekly(base: str) -> None:
    """Write what people would say of the samples that `reannotate` drew."""
    drawn = [
        read_table(f"{base}/weekly/samples/{name}").to_pylist() for name in files_below(f"{base}/weekly/samples") or []
    ]
    rows = [
        {
            **{name: row[name] for name in ("clip_id", "label", "role")},
            "annotator": "Ada",
            "answer": "right",
            "time_utc": 0,
        }
        for table in drawn
        for row in table
    ]
    write_table(pa.Table.from_pylist(rows, ANNOTATION_SCHEMA), f"{base}/weekly.parquet")


def listen(arguments: list[str]) -> int:
    """Answer half of the rows on the annotation page, then end it as Ctrl-C does."""
    command = [sys.executable, "-m", "acoustic_env.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as page:
        assert page.stderr is not None
        address = next(found[1] for line in page.stderr if (found := re.search(r"annotation page: (\S+)", line)))
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        visitor.open(address).read()
        root = address.partition("/?")[0]
        headers = {"Content-Type": "application/json", "Origin": root, "Sec-Fetch-Site": "same-origin"}
        known = json.load(visitor.open(f"{root}/api/state?annotator=Ada"))["answered"]
        for row in range(read_table(arguments[3]).num_rows):
            if row in known or (not known and row % 2):
                continue
            answer = {
                "id": uuid.uuid4().hex,
                "annotator": "Ada",
                "row": row,
                "answer": "wrong" if row == 4 else "right",
            }
            sent = urllib.request.Request(f"{root}/api/answers", json.dumps(answer).encode(), headers)
            visitor.open(sent).read()
        page.send_signal(signal.SIGINT)
        page.stderr.read()
    return page.returncode


def serve(arguments: list[str]) -> int:
    """Ask the classification page for its classes, then end it as Ctrl-C does."""
    command = [sys.executable, "-m", "acoustic_env.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as page:
        assert page.stderr is not None
        address = next(found[1] for line in page.stderr if (found := re.search(r"classification page: (\S+)", line)))
        assert json.load(urllib.request.urlopen(f"{address}api/v1/model"))["classes"] == ["natural", "urban"]
        page.send_signal(signal.SIGINT)
        page.stderr.read()
    return page.returncode


def read_back(base: str) -> None:
    """Read what the quick steps wrote."""
    for name in ("a.csv", "tar.parquet", "rows.parquet", "released.parquet", "grouped.parquet"):
        assert read_clips(f"{base}/{name}").num_rows, name
    for name in ("urbansound8k", "esc50", "fsd50k", "fsdkaggle2019", "tsv", "huggingface"):
        assert read_clips(f"{base}/{name}.parquet").num_rows == 4, name
    for name in ("groups", "ranked", "sample", "predictions", "of-files"):
        assert read_table(f"{base}/{name}.parquet").num_rows, name
    drawn, answered = (read_table(f"{base}/{name}.parquet").num_rows for name in ("sample", "annotations"))
    assert answered == drawn, "an answer of the first session was lost"
    assert len(Bundle.load(f"{base}/bundle").test_evaluations) == 1
    assert read_table(f"{base}/compare/compare.csv").num_rows == 1
    assert versions(f"{base}/labels") == versions(f"{base}/weekly")[:1] == ["v0001"]
    explained = files_below(f"{base}/explained") or []
    assert {name.rpartition(".")[2] for name in explained} == {"png", "svg", "csv", "json"}
    figures = [name for name in files_below(f"{base}/page") or [] if name.startswith("report_files/")]
    page = read_bytes(f"{base}/page/report.html").decode()
    assert figures
    assert all(f'href="{name}"' in page for name in figures)


def refuse(part: str, base: str) -> None:
    """Run the steps that write a file or folder with a place in a bucket that does not exist."""
    nowhere = f"s3://no-such-bucket-{uuid.uuid4().hex}"
    for step in steps(part, base):
        if "--out" not in step:
            continue
        step[step.index("--out") + 1] = f"{nowhere}/x.parquet"
        started, said = time.monotonic(), io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main(step)
        assert code == 2, step
        assert f"acoustic-env: {nowhere}" in said.getvalue().splitlines()[-1], (step, said.getvalue())
        print(f"{time.monotonic() - started:6.1f} s, refused: {' '.join(step)}", flush=True)


def walk(part: str, base: str) -> None:
    """Run the steps; a step that fails ends the walk."""
    for step in steps(part, base):
        if step[:2] == ["clips", "check"]:
            derive(base)
        if step[-2:-1] == [f"{base}/weekly.parquet"]:
            answer_weekly(base)
        started = time.monotonic()
        pages = {"listen": listen, "serve": serve}
        code = next((run for name, run in pages.items() if name in step[:2]), main)(step)
        print(f"{time.monotonic() - started:6.1f} s, exit {code}: {' '.join(step)}", flush=True)
        if code:
            sys.exit(f"exit {code}: {' '.join(step)}")


if __name__ == "__main__":
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    prepare(sys.argv[1])
    walk("first", sys.argv[1])
    walk("quick", sys.argv[1])
    read_back(sys.argv[1])
    refuse("quick", sys.argv[1])
    walk("slow", sys.argv[1])
