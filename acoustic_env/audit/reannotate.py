"""Add a new clip list to the labels table, on a schedule: extract, score, test for drift, decide, sample, publish.

A second run with the same list changes nothing; a killed run is completed by the next one. In each run, the annotations
so far evaluate the versions whose samples they answer, and the last version shown to be better than the published one
on the same rows (`audit.frames`) is published in LABELS/published.json; the next version is written with these
annotations; a sample is drawn that will evaluate it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.annotations import check_annotations
from acoustic_env.audit.consensus import Key
from acoustic_env.audit.drift import MOST_CLIPS, Drift, drift_test
from acoustic_env.audit.frames import (
    CHANGED,
    UNCHANGED,
    FrameEvaluation,
    FrameInfo,
    accuracy_of_all,
    better_version,
    draw_frame,
    evaluate_frames,
    frame_info,
)
from acoustic_env.audit.labels import DIFF_SCHEMA, StoredVersion, diff, merge, versions, write_version
from acoustic_env.audit.ranking import RANKED_SCHEMA, rank_by_quality
from acoustic_env.audit.relabel import Decision, Relabeler, decided_by_people
from acoustic_env.audit.table import (
    clip_by_clip,
    of_clips,
    of_rows,
    read_table,
    whole_clips,
    write_stream,
    write_table,
)
from acoustic_env.clips.select import select
from acoustic_env.clips.table import CLASS_COLUMN, CLIP_SCHEMA, join_lists
from acoustic_env.errors import TooManyFailures, UsageError
from acoustic_env.features.registry import BLOCKS
from acoustic_env.io.filesystem import open_filesystem
from acoustic_env.io.spool import Spool
from acoustic_env.models.bundle import Bundle
from acoustic_env.models.learn import bundle_matrix
from acoustic_env.models.predict import predict_stream
from acoustic_env.options import ExtractSettings, ReannotateSettings, RelabelSettings
from acoustic_env.pipeline.extract import extract
from acoustic_env.pipeline.work import resolve_blocks
from acoustic_env.store.feature_store import FeatureStore
from acoustic_env.store.lease import acquire_lease
from acoustic_env.store.sources import read_clips_of

PUBLISHED: Final = "published.json"
ANNOTATIONS: Final = "annotations.parquet"
OLD_ANNOTATIONS: Final = "verdicts.parquet"  # written by earlier releases
Log = Callable[[str], None]


def reannotate(settings: ReannotateSettings, log: Log) -> dict[str, Any]:
    """Run once and return the summary (plain data).

    Args:
        settings: of the run.
        log: takes each human-readable line.

    Raises:
        UsageError: a wrong list, bundle or annotations, or features that this installation computes otherwise than
            those the bundle was trained on.
        LeaseHeld: another run writes to LABELS or to the store.
        TooManyFailures: more clips failed in extraction than allowed; everything else is done, unless the extraction
            was stopped early.
    """
    bundle = Bundle.load(settings.bundle)
    clips = select(read_clips_of(FeatureStore(settings.store), settings.clips, log), bundle.recipe).clips
    with acquire_lease(settings.versions, f"reannotate {settings.clips}"):
        annotations, samples = read_answers(settings)
        failure, extracted = _extract(settings, bundle, clips, log)
        ranked = score(bundle, clips, FeatureStore(settings.store), log)
        evaluated = evaluate_frames(samples, annotations)
        last = versions(settings.versions)
        before = StoredVersion(settings.versions, last[-1]) if last else None
        decided = Decided(before, ranked, _answered_frames(settings, annotations, samples), annotations, samples)
        origin = {"clips": settings.clips, "bundle": settings.bundle}
        written = write_version(settings.versions, decided.tables(), origin)
        if written.new:
            changes = chain([DIFF_SCHEMA.empty_table()], decided.changes.tables())
            write_stream(changes, f"{settings.versions.rstrip('/')}/diffs/{written.version}.parquet")
        published = _publish(settings, evaluated, written.version)
        places = _keep_list(settings, clips.drop_columns([CLASS_COLUMN]))
        sample, sample_clips = _sample(settings, written.version, samples, published["version"], places)
        fresh = pa.concat_arrays([pa.array([], pa.string()), *decided.fresh])
        drift = _drift(settings, bundle, clips, fresh)
    summary: dict[str, Any] = {
        "clips": clips.num_rows,
        "extracted": extracted,
        "scored": decided.scored,
        "new_clips": len(fresh),
        "version": written.version,
        "previous_version": written.previous,
        "new_version": written.new,
        "changed": decided.changes.num_rows if written.new else 0,
        "drift": drift and vars(drift) | {"drifted": drift.drifted(), "far": drift.far.as_dict()},
        "sample": sample,
        "sample_clips": sample_clips,
        "published": published,
        **weekly_accuracy(evaluated),
    }
    if failure is not None:
        raise TooManyFailures(f"{failure}\n{json.dumps(summary, sort_keys=True)}") from failure
    return summary


def weekly_accuracy(evaluated: Sequence[FrameEvaluation]) -> dict[str, Any]:
    """Return the summary's `accuracy` on the last frame with answers and `accuracy_of_all` on all of them."""
    if not evaluated:
        return {"accuracy": None, "accuracy_of_all": None}
    frames = {"frames": len(evaluated), "rows": sum(evaluation.rows for evaluation in evaluated)}
    return {"accuracy": evaluated[-1].as_dict(), "accuracy_of_all": accuracy_of_all(evaluated).as_dict() | frames}


def _extract(
    settings: ReannotateSettings, bundle: Bundle, clips: pa.Table, log: Log
) -> tuple[TooManyFailures | None, int]:
    """Compute the bundle's missing blocks; return a failure to report at the end, and the number of clips computed."""
    blocks = tuple(block for block in bundle.fingerprints if block in BLOCKS)
    if not blocks:
        return None, 0
    signals: Any = tuple(dict.fromkeys(column.signal for column in bundle.preprocessor.feature_columns))
    extraction = ExtractSettings(
        clips=settings.clips,
        store=settings.store,
        signals=signals,
        blocks=blocks,
        max_error_rate=settings.max_error_rate,
        address=settings.address,
    )
    _check_fingerprints(bundle, extraction)
    try:
        record = extract(extraction, log, clips, bundle.recipe)
    except TooManyFailures as failure:
        if failure.early:  # labels of half a list would look complete
            raise
        return failure, getattr(failure.record, "finished", 0)
    return None, record.finished


def _check_fingerprints(bundle: Bundle, extraction: ExtractSettings) -> None:
    for work in resolve_blocks(extraction, bundle.recipe):
        for signal, trained in bundle.fingerprints[work.spec.name].items():
            computed = work.fingerprints[signal]
            if computed != trained:
                raise UsageError(
                    f"block {work.spec.name}, signal {signal}: the bundle was trained on version {trained}, this "
                    f"installation computes {computed}; use the installation and weights it was trained with, or train "
                    "a new bundle"
                )


def score(bundle: Bundle, clips: pa.Table, store: FeatureStore, log: Log) -> Spool:
    """Return ranked tables (`audit.ranking`) with the bundle as their scorer, sorted by clip, in parts of whole clips.

    Args:
        bundle: trained.
        clips: a selection's clips, with `class`.
        store: with their features.
        log: told which clips have none.
    """
    for line in bundle.variant_lines():
        log(line)
    clips = clips.sort_by("clip_id")
    labels = clips[CLASS_COLUMN].combine_chunks()
    named = clips["clip_id"].take(pc.list_parent_indices(labels))
    listed = pa.table({"clip_id": named, "label": pc.list_flatten(labels)})
    predicted = predict_stream(bundle, clips["clip_id"].to_pylist(), store, log)
    schema = pa.schema([*RANKED_SCHEMA, pa.field("bundle", pa.float64())])
    ranked = Spool(schema)
    for rows, own in clip_by_clip(whole_clips(predicted), whole_clips([listed])):
        if not rows.num_rows:
            continue
        given = np.asarray(of_rows(rows, own))
        posterior = rows["posterior"].to_numpy()
        quality = np.where(given, posterior, 1.0 - posterior)
        table = rank_by_quality(rows.append_column("given", pa.array(given)), quality)
        ranked.append(table.append_column("bundle", table["quality"]).cast(schema))
    return ranked


class Decided:
    """The next version: the rows of a list and, since their samples may have new answers, of earlier lists.

    Automatic decisions are made only among the clips that answered samples were drawn from.

    Args:
        before: the last version.
        ranked: from `score`.
        held: the version whose clips answered samples were drawn from.
        annotations, samples: all so far.

    Attributes:
        changes: what the version changed (`diff`), once `tables` has come to its end; so are the others.
        fresh: ids of the ranked clips that the last version lacks.
        scored: number of ranked clips.
    """

    def __init__(
        self,
        before: StoredVersion | None,
        ranked: Spool,
        held: StoredVersion | None,
        annotations: pa.Table | None,
        samples: list[pa.Table],
    ) -> None:
        self._before, self._ranked, self._held = before, ranked, held
        self._annotations, self._samples = annotations, samples
        self.changes, self.fresh, self.scored = Spool(DIFF_SCHEMA), list[pa.Array](), 0

    def tables(self) -> Iterator[pa.Table]:
        """Yield the labels table in parts of whole clips, in order."""
        people: dict[Key, Decision] = {}
        for part in self._before.tables() if self._before else ():
            people |= decided_by_people(part)
        covered, others = (
            Relabeler(self._annotations, sample, RelabelSettings(), people)
            for sample in (_together(self._samples), None)
        )
        for step in ("see", "count"):
            for _, _, inside, outside in self._parts():
                getattr(covered, step)(inside)
                getattr(others, step)(outside)
        for ranked, before, inside, outside in self._parts():
            decided = [who.decide(rows) for who, rows in ((covered, inside), (others, outside)) if rows.num_rows]
            now = pa.concat_tables(decided) if decided else others.decide(outside)
            table = merge(before, now)
            self.changes.append(diff(table.slice(0, 0) if before is None else before, table).cast(DIFF_SCHEMA))
            clips = pc.unique(ranked["clip_id"])
            self.scored += len(clips)
            self.fresh.append(clips if before is None else clips.filter(pc.invert(pc.is_in(clips, before["clip_id"]))))
            yield table

    def _parts(self) -> Iterator[tuple[pa.Table, pa.Table | None, pa.Table, pa.Table]]:
        """Yield ranked rows, those of the last version, and the rows to decide, by whether `held` has their clips."""
        last = None if self._before is None else self._before.tables()
        answered = None if self._held is None else self._held.tables(["clip_id"])
        for ranked, before, held in clip_by_clip(self._ranked.tables(), last, answered):
            rows = ranked if before is None else pa.concat_tables([ranked, _scored_before(before, ranked)])
            inside = of_clips(rows, pa.array([], pa.string()) if held is None else held)
            yield ranked, before, rows.filter(inside), rows.filter(pc.invert(inside))


def _scored_before(before: pa.Table, ranked: pa.Table) -> pa.Table:
    """Return the rows of earlier lists as a ranked table, by the score that a bundle gave them then."""
    if "bundle" not in before.column_names:
        return ranked.slice(0, 0)
    rows = before.filter(pc.and_not(pc.is_valid(before["bundle"]), of_clips(before, ranked)))
    named = rank_by_quality(rows, rows["bundle"].to_numpy()).append_column("bundle", rows["bundle"])
    return named.cast(ranked.schema)


def _answered_frames(
    settings: ReannotateSettings, annotations: pa.Table | None, samples: list[pa.Table]
) -> StoredVersion | None:
    """Return the version of the last frame before the first one without an answer to its new rows."""
    frames = {info.number: (info, sample) for sample in samples if (info := frame_info(sample))}
    held = None
    for _, (info, sample) in sorted(frames.items()):
        new = sample.filter(pc.equal(sample["stratum"], UNCHANGED))
        if annotations is None or (new.num_rows and not pc.any(of_rows(new, annotations)).as_py()):
            break
        held = info.version
    return None if held is None else StoredVersion(settings.versions, held)


def _keep_list(settings: ReannotateSettings, clips: pa.Table) -> pa.Table:
    """Return the last place of each clip of all lists so far; new places are kept in LABELS/clips/.

    A later sample may hold clips of this list, whose file may have changed by then.
    """
    root, filesystem = settings.versions.rstrip("/"), open_filesystem(settings.versions)
    files = sorted((entry.path for entry in filesystem.entries("clips")), reverse=True)
    earlier = join_lists([CLIP_SCHEMA.empty_table(), *(read_table(f"{root}/{path}") for path in files)])
    places, held = (
        pc.binary_join_element_wise(table["clip_id"].combine_chunks(), table["uri"].combine_chunks(), "\x00")
        for table in (clips, earlier)
    )
    new = clips.filter(pc.invert(pc.is_in(places, value_set=held)))
    if new.num_rows:
        write_table(new, f"{root}/clips/{len(files) + 1:06d}.parquet")
    everything = join_lists([clips, earlier])
    ids = everything["clip_id"].combine_chunks()
    return everything.take(pc.index_in(pc.unique(ids), value_set=ids)).sort_by("clip_id")


def _sample(
    settings: ReannotateSettings, version: str, samples: list[pa.Table], published: str | None, clips: pa.Table
) -> tuple[str | None, str | None]:
    """Draw the sample that evaluates the version; return the URLs of sample and clip list.

    None is drawn where the version has one, or where there are too few rows of clips whose place is known.
    """
    known = [info for sample in samples if (info := frame_info(sample))]
    if any(info.version == version for info in known):
        return None, None
    held = max(known, key=lambda info: info.number).version if known else None
    info = FrameInfo(len(known) + 1, settings.clips, version, published)
    parts = _frame_parts(settings.versions, version, published, held, clips)
    drawn = draw_frame(parts, samples, info, settings.budget, settings.seed)
    if drawn is None:
        return None, None
    root, name = settings.versions.rstrip("/"), f"{info.number:04d}-{drawn['frame_hash'][0].as_py()}.parquet"
    listed, url = f"{root}/sample_clips/{name}", f"{root}/samples/{name}"
    write_table(clips.filter(of_clips(clips, drawn)), listed)
    write_table(drawn, url)
    return url, listed


def _frame_parts(
    url: str, version: str, published: str | None, held: str | None, clips: pa.Table
) -> Iterator[tuple[pa.Table, pa.Table | None, pa.Array]]:
    """Yield what `draw_frame` reads, of the clips of a list."""

    def stored(name: str | None, columns: Sequence[str] | None = None) -> Iterator[pa.Table] | None:
        return None if name is None else StoredVersion(url, name).tables(columns)

    streams = (stored(version), stored(published), stored(held, ["clip_id"]), whole_clips([clips.select(["clip_id"])]))
    for labels, base, earlier, placed in clip_by_clip(*streams):
        own = labels.filter(of_clips(labels, placed))
        new = pc.unique(own["clip_id"])
        yield own, base, new if earlier is None else new.filter(pc.invert(pc.is_in(new, earlier["clip_id"])))


def read_answers(settings: ReannotateSettings) -> tuple[pa.Table | None, list[pa.Table]]:
    """Return all annotations, those of earlier runs if none are given now, and all samples drawn so far."""
    root = settings.versions.rstrip("/")
    filesystem = open_filesystem(settings.versions)
    samples = [read_table(f"{root}/{entry.path}") for entry in filesystem.entries("samples")]
    kept = f"{root}/{ANNOTATIONS}"
    given = settings.annotations
    if given is None:
        names = {entry.path for entry in filesystem.entries("")} & {ANNOTATIONS, OLD_ANNOTATIONS}
        if not names:
            return None, samples
        given = f"{root}/{min(names)}"
    annotations = check_annotations(read_table(given), given)
    if not samples:
        msg = f"--annotations {given}: no sample has been drawn yet; annotate the one that the first run draws"
        raise UsageError(msg)
    if given != kept:
        write_table(annotations, kept)
    return annotations, samples


def _together(samples: list[pa.Table]) -> pa.Table | None:
    """Return the samples of new rows as one, for relabeling.

    Rows drawn because a version changed them evaluate that version only: their lists were sampled before, when they
    were new, and a second chance to be drawn would make them count too much.
    """
    new = (sample.filter(pc.not_equal(sample["stratum"], CHANGED)) for sample in samples)
    plain = [sample.replace_schema_metadata(None) for sample in new]
    return pa.concat_tables(plain, promote_options="default") if plain else None


def _publish(settings: ReannotateSettings, evaluated: Sequence[FrameEvaluation], new: str) -> dict[str, Any]:
    """Publish the approved version, or one shown to be better; return the published version and the reason."""
    filesystem = open_filesystem(settings.versions)
    try:
        current: str | None = json.loads(filesystem.read(PUBLISHED))["version"]
    except FileNotFoundError:
        current = None
    version, reason, better = current, _reason_to_wait(evaluated, current), better_version(evaluated, current)
    if better is not None:
        version, reason = better.info.version, f"{better.info.version} is better than {_name(current)}: "
        reason += _improvement(better)
    if settings.approve:
        version, reason = new, "published already" if new == version else f"approved by {settings.approve}"
    if version != current:
        shown = None if better is None or better.info.version != version else better.as_dict()
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        record = {"version": version, "reason": reason, "evaluation": shown, "time_utc": now}
        filesystem.write(PUBLISHED, json.dumps(record, indent=1).encode())
    return {"version": version, "reason": reason}


def _reason_to_wait(evaluated: Sequence[FrameEvaluation], current: str | None) -> str:
    if not evaluated:
        return "no sample of a version has an answer yet"
    last = evaluated[-1].info
    if last.version == current:
        return "published already"
    if not evaluated[-1].changed:
        return f"apart from rows with answers, {last.version} decides as {_name(last.published)}"
    return f"{last.version} is not shown to be better than {_name(last.published)}: {_improvement(evaluated[-1])}"


def _name(version: str | None) -> str:
    return version or "the labels as given"


def _improvement(evaluated: FrameEvaluation) -> str:
    found = evaluated.improvement
    return (
        f"improvement {found.estimate:+.3f} ({found.low:+.3f} to {found.high:+.3f}) on frame {evaluated.info.number}, "
        f"{found.n:,} of {evaluated.changed:,} changed rows answered"
    )


def _drift(settings: ReannotateSettings, bundle: Bundle, clips: pa.Table, fresh: pa.Array) -> Drift | None:
    """Test new clips against training clips, one per group, in the bundle's reduced features; None without either."""
    store = FeatureStore(settings.store)
    block, versions = next(iter(bundle.fingerprints.items()))
    stored = pc.unique(store.committed_keys(block, next(iter(versions.values())))["clip_id"]).to_pylist()
    trained = np.array(stored, dtype=object)[bundle.seen(stored, [""] * len(stored))].tolist()
    ids, groups = clips["clip_id"].to_pylist(), clips["group"].to_pylist()
    unseen = ~bundle.seen(ids, [group or "" for group in groups])
    rows = zip(ids, groups, unseen & np.asarray(of_clips(clips, fresh)), strict=True)
    new_of = {clip: group or clip for clip, group, is_new in rows if is_new}
    one_new = _one_of_each(list(new_of), list(new_of.values()))
    one_old = _one_of_each(trained, bundle.groups_of(trained).tolist())
    if len(one_old) < 2 or len(one_new) < 2:
        return None
    new, old = (_reduced(bundle, one, store, settings.seed) for one in (one_new, one_old))
    return None if min(len(new), len(old)) < 2 else drift_test(new, old, settings.seed)


def _one_of_each(clip_ids: list[str], groups: Sequence[Any]) -> list[str]:
    """Return one clip of each group, sorted: clips of one recording are alike and count as one."""
    first: dict[Any, str] = {}
    for clip_id, group in sorted(zip(clip_ids, groups, strict=True), key=lambda pair: pair[0]):
        first.setdefault(group, clip_id)
    return sorted(first.values())


def _reduced(bundle: Bundle, clip_ids: list[str], store: FeatureStore, seed: int) -> npt.NDArray[np.float32]:
    """Return the reduced features of at most `MOST_CLIPS` of the clips, without those that lack a block."""
    chosen = np.random.default_rng(seed).permutation(len(clip_ids))[:MOST_CLIPS]
    matrix = bundle_matrix(bundle, [clip_ids[i] for i in sorted(chosen)], store)
    kept = matrix.take(matrix.complete())
    reduced: npt.NDArray[np.float32] = bundle.preprocessor.transform(kept.values).astype(np.float32)
    return reduced
