"""`acoustic-env train`, `tune`, `compare`, `evaluate`, `predict`: from features to a classifier and its answers."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from acoustic_env.commands.arguments import (
    add_command,
    add_paths,
    add_settings,
    by_block,
    check_inputs,
    log,
    settings_of,
    show,
    url,
)
from acoustic_env.config import from_mapping
from acoustic_env.errors import ClipError, UsageError
from acoustic_env.options import CompareSettings, ServeSettings, StudySettings, TrainSettings, TuneSettings

if TYPE_CHECKING:
    from acoustic_env.config import ClassifierSettings, Recipe
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import Study
    from acoustic_env.store.feature_store import FeatureStore

S = TypeVar("S", bound=StudySettings)


def add_parsers(subparsers: Any) -> None:
    place = {"type": url, "metavar": "FILE"}
    settings: dict[str, dict[str, Any]] = {"model": {"metavar": "KIND"}, "settings": place}
    train = add_command(subparsers, "train", run_train)
    _add_study(train, TrainSettings, "bundle", **settings, checkpoints=place | {"metavar": "URL"})
    _add_study(add_command(subparsers, "tune", run_tune), TuneSettings, "tune", **settings)
    compare = add_command(subparsers, "compare", run_compare)
    _add_study(compare, CompareSettings, "compare", models={"metavar": "KIND,FILE"})
    add_paths(add_command(subparsers, "evaluate", run_evaluate), "bundle", "clips", "store")
    parser = add_command(subparsers, "predict", run_predict)
    add = parser.add_argument
    add("--each-window", action="store_true", help="Predict each window of the files, as long as the training clips.")
    add("files", type=url, nargs="*", metavar="FILE", help="Audio files instead of a list.")
    add_paths(parser, "bundle", "clips", "store", out="predictions", optional=("clips", "store"))


def _add_study(
    parser: argparse.ArgumentParser, kind: type[StudySettings], out: str, **overrides: dict[str, Any]
) -> None:
    add_settings(parser, kind, fingerprint={"action": "append", "metavar": "BLOCK=F"}, **overrides)
    add_paths(parser, "clips", "store", "recipe", out=out, optional=("recipe",))


def _read(namespace: argparse.Namespace, kind: type[S]) -> tuple[S, Recipe]:
    """Read the options and their recipe, with the classifier of --settings and the options."""
    from acoustic_env.io.documents import load_recipe, read_mapping

    settings = settings_of(kind, namespace)
    check_inputs(clips=settings.clips, store=settings.store, recipe=settings.recipe)
    recipe = load_recipe(settings.recipe) if settings.recipe else _without_recipe(settings)
    if isinstance(settings, CompareSettings):
        return settings, recipe
    file = namespace.settings
    changes = read_mapping(file, "--settings") if file else {}
    options = {"kind": namespace.model} | {name: getattr(settings, name, None) for name in ("ensemble", "workers")}
    changes |= {name: value for name, value in options.items() if value is not None}
    return settings, recipe.replace(model=_with_changes(recipe, changes, file or "options"))


def _without_recipe(settings: StudySettings) -> Recipe:
    """Return the recipe of the labels of the list and the blocks of clips in the store."""
    from acoustic_env.clips.default_recipe import default_recipe
    from acoustic_env.clips.table import read_clips

    store, chosen = _store(settings.store), by_block(settings.fingerprint)
    signals = {name: store.resolve(name, chosen=chosen.get(name, ())) for name in store.blocks()}
    of_clips = {name: of for name, of in signals.items() if "frame" not in store.joint_schema(name, of).names}
    if not of_clips:
        raise UsageError(f"{settings.store}: holds no features of clips; give a --recipe that learns from frames")
    shared = [one for one in next(iter(of_clips.values())) if all(one in of for of in of_clips.values())]
    recipe = default_recipe("study", read_clips(settings.clips), {name: {} for name in of_clips}, shared)
    log(f"without a recipe: {recipe.task}, blocks {', '.join(recipe.blocks)}, signals {', '.join(recipe.signals)}")
    return recipe


def _with_changes(recipe: Recipe, changes: dict[str, Any], where: str) -> ClassifierSettings:
    """Return the recipe's classifier with other settings, or those of another kind."""
    base = recipe.model.of_kind(str(changes.get("kind", recipe.model.kind)))
    if changes.get("workers") == 0 and "workers" not in type(base).model_fields:
        del changes["workers"]  # this process, where every other kind is trained
    return from_mapping(type(base), base.as_json() | changes, where)


def _study(settings: StudySettings, recipe: Recipe) -> Study:
    from acoustic_env.models.learn import prepare
    from acoustic_env.store.sources import read_clips_of

    store = _store(settings.store)
    return prepare(
        read_clips_of(store, settings.clips, log, settings.group_by),
        store,
        recipe,
        blocks=settings.blocks,
        signals=settings.signals,
        fingerprints=by_block(settings.fingerprint),
        log=log,
    )


def _store(url: str) -> FeatureStore:
    from acoustic_env.store.feature_store import FeatureStore

    return FeatureStore(url)


def run_train(namespace: argparse.Namespace) -> int:
    r"""Train a classifier on the clips of a list with the features of a store, by a recipe.

    Folds given in the list are kept; other clips are split by class with groups kept whole. Preprocessing, stopping,
    threshold and calibration use training and validation folds only. Test folds are left for `acoustic-env evaluate`.

    Calibration, thresholds and the metrics printed are of the whole ensemble that is shipped: it is trained again
    without each of up to five parts of the clips, which it then predicts. This takes up to four times the bundle's
    training.

    Examples:
        acoustic-env train --clips clips.parquet --store features --recipe urban-nature --out bundle
        acoustic-env train --model logistic --out baseline
        acoustic-env train --settings tune/best.json --out best
        acoustic-env train --clips clips.parquet --store s3://bucket/features --recipe urban-nature --workers 4 \
            --checkpoints s3://bucket/checkpoints --out bundle
    """
    settings, recipe = _read(namespace, TrainSettings)
    from acoustic_env.io.files import check_place
    from acoustic_env.io.location import join, without_credentials
    from acoustic_env.models.bundle import METADATA, keep_previous
    from acoustic_env.models.learn import train
    from acoustic_env.pipeline.cluster import cluster

    if settings.overfit:
        return _run_overfit(namespace, _study(settings, recipe), settings.overfit)
    check_place(join(settings.out, METADATA))
    study = _study(settings, recipe)
    with cluster(settings.address) if getattr(recipe.model, "workers", 0) else nullcontext():
        bundle, found = train(study, log, checkpoints=settings.checkpoints)
    bundle.learned_from = without_credentials(settings.clips)
    if previous := keep_previous(settings.out):
        log(f"the bundle that was there: {previous}")
    bundle.save(settings.out)
    if earlier := len(bundle.test_evaluations) - len(bundle.own_evaluations):
        kept = "test evaluation of earlier weights at this path is" if earlier == 1 else "test evaluations are"
        log(f"{earlier} {kept} kept on record: clips that helped to choose a model cannot test it")
    title = f"held-out clips of training and validation folds, {recipe.model.kind}:"
    show(namespace, {"bundle": settings.out, **found.as_json()}, title, *found.lines())
    log(f"bundle: {settings.out}")
    return 0


def _run_overfit(namespace: argparse.Namespace, study: Study, batches: int) -> int:
    """Train on a few batches alone and say whether the loss fell to a fiftieth."""
    from acoustic_env.models.estimators.overfit import overfit
    from acoustic_env.models.learn import preprocessed_parts

    train, _ = preprocessed_parts(study)
    model: Any = study.recipe.model
    found = overfit(model, study.recipe.task, len(study.targets.classes), train, batches)
    document = {"rows": found.rows, "learned": found.learned, "losses": found.losses}
    fell = f"loss {found.losses[0]:.4g} to {found.losses[-1]:.4g} in {len(found.losses)} epochs on {found.rows} clips"
    advice = "the network can learn" if found.learned else "look for a fault in inputs, targets or learning rate"
    show(namespace, document, f"{fell}: {advice}")
    return 0 if found.learned else 1


def run_tune(namespace: argparse.Namespace) -> None:
    """Search the settings of a classifier for the best validation score, in the search space of its kind.

    Trials run in parallel, one per CPU, suggested by Optuna. Run the same command again to resume after an
    interruption; with more --trials it runs only those that are missing. A search of other clips, features or settings
    in OUT is refused, since its scores are not comparable. Writes OUT/trials.csv, OUT/trials.png and OUT/best.json,
    which `train --settings` takes.
    """
    settings, recipe = _read(namespace, TuneSettings)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.files import check_place, write_bytes
    from acoustic_env.io.location import join
    from acoustic_env.models.learn import learning_rows, preprocessed_parts
    from acoustic_env.models.search_state import SearchState
    from acoustic_env.models.tune import search, search_identity, trial_table
    from acoustic_env.pipeline.cluster import cluster
    from acoustic_env.report.plots import trials_plot

    check_place(join(settings.out, "trials.csv"))
    recipe = recipe.replace(model=recipe.model.replace(ensemble=1))
    study = _study(settings, recipe)
    state = SearchState.open(settings.out, search_identity(study, settings.inner_folds), settings.trials)
    folds = settings.inner_folds
    train, validation = (learning_rows(study), folds) if folds else preprocessed_parts(study)
    with cluster(settings.address) if state.left else nullcontext():
        trials = search(recipe.model, len(study.targets.classes), train, validation, state)
    table = trial_table(trials)
    write_table(table, join(settings.out, "trials.csv"))
    write_bytes(join(settings.out, "trials.png"), trials_plot(table.to_pylist()).png())
    best = trials[0]
    if best.score is None:
        raise UsageError(f"every trial failed, the first with: {best.error}")
    usual = {**type(recipe.model)(kind=recipe.model.kind).as_json(), "ensemble": 1}
    given = {name: value for name, value in recipe.model.as_json().items() if value != usual[name]}
    chosen = {"kind": recipe.model.kind, **given, **best.chosen}
    write_bytes(join(settings.out, "best.json"), json.dumps(chosen, indent=1).encode())
    line = f"best of {len(trials)} trials: validation score {best.score:.4f}"
    document = {"trials": len(trials), "score": best.score, "settings": chosen}
    show(namespace, document, line, *(f"{name:<14} {value}" for name, value in chosen.items()))
    log(f"{settings.out}: trials.csv, trials.png and best.json (for train --settings)")


def run_compare(namespace: argparse.Namespace) -> None:
    """Compare features: every block alone, every embedder beside indices and mps, and all blocks, for each signal and
    all signals together, predicted out of fold on training and validation clips. Test clips are not used, unless
    --every-fold asks for them: the protocol of data sets that were published with folds.

    Prints the table, best first, with 95 % intervals and the paired difference from the best; writes OUT/compare.csv.
    The intervals of the differences allow for the choice of the best among all rows (multiple comparisons with the
    best): the truly best row is the first or "within noise" of it in at least 95 % of comparisons.
    """
    settings, recipe = _read(namespace, CompareSettings)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.files import check_place
    from acoustic_env.io.location import join
    from acoustic_env.models.compare import compare, comparison_lines, comparison_table, score_name

    place = join(settings.out, "compare.csv")
    check_place(place)
    models = _compared(settings, recipe)  # before the features are read
    study = _study(settings, recipe)
    rows = compare(study, models, log, every_fold=settings.every_fold, trials=settings.trials)
    table = comparison_table(rows)
    write_table(table, place)
    show(namespace, table.to_pylist(), *comparison_lines(rows, score_name(study)))
    log(place)


def _compared(settings: CompareSettings, recipe: Recipe) -> dict[str, ClassifierSettings]:
    """Return the classifiers to compare by name: kinds, and files of settings by their stems."""
    from acoustic_env.io.documents import read_mapping

    models: dict[str, ClassifierSettings] = {}
    for given in settings.models or (recipe.model.kind,):
        stem, dot, ending = given.rpartition("/")[2].rpartition(".")
        of_file = bool(dot) and ending.lower() in ("yaml", "yml", "json")
        name = stem if of_file else given
        if name in models:
            raise UsageError(f"--models {given}: the comparison has a classifier {name} already; rename the file")
        changes = read_mapping(given, "--models") if of_file else {"kind": given}
        models[name] = _with_changes(recipe, changes, given)
    return models


def run_evaluate(namespace: argparse.Namespace) -> None:
    """Evaluate a bundle on clips it was not trained on. Clips it was trained on, or whose group it was, are left out.

    Evaluate a test set only once: choosing between models by a second evaluation makes it a validation set. The bundle
    records every test evaluation, and a second one is marked as such. `train --out` over the bundle keeps the record.
    """
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle)
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import evaluate_bundle
    from acoustic_env.store.sources import read_clips_of

    bundle, store = Bundle.load(namespace.bundle), _store(namespace.store)
    found, hash_of_clips = evaluate_bundle(bundle, read_clips_of(store, namespace.clips, log), store, log)
    earlier = list(bundle.test_evaluations)
    bundle.record_evaluation(namespace.bundle, hash_of_clips, found)
    number, others = len(earlier) + 1, sum(one.weights != bundle.weights_sha256 for one in earlier)
    if earlier:
        same = sum(one.clips_hash == hash_of_clips for one in earlier)
        by_others = f", {others} of them of earlier weights at this path" if others else ""
        log(
            f"test evaluation {number} of this bundle ({same} earlier on this set, the first of all {earlier[0].time})"
            f"{by_others}: a model chosen by these metrics needs other clips for an unbiased test"
        )
    about = {"test_evaluation": number, "earlier_weights": others, "clips_hash": hash_of_clips}
    title = f"test evaluation {number}, {namespace.bundle}:" if earlier else f"{namespace.bundle}:"
    show(namespace, {**about, **found.as_json()}, title, *found.lines())


def run_predict(namespace: argparse.Namespace) -> None:
    """Predict calibrated probabilities of every class, for the clips of a list or for audio files whose features are
    computed first. Writes a table with clip_id, label, posterior: a row per clip and class.

    Examples:
        acoustic-env predict --bundle bundle --clips new.parquet --store features --out predictions.parquet
        acoustic-env predict --bundle bundle park.wav street.flac --out predictions.parquet
        acoustic-env predict --bundle bundle --each-window night.wav --out windows.parquet
    """
    if namespace.files and "clips" in namespace.from_study:
        namespace.clips = None
    if bool(namespace.files) == bool(namespace.clips) or (namespace.clips and not namespace.store):
        raise UsageError("predict takes either --clips with --store, or audio files")
    if namespace.each_window and not namespace.files:
        raise UsageError("--each-window is for audio files")
    only = namespace.files if len(namespace.files) == 1 else ()  # of several, one that is missing is left out
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle, files=only)
    from acoustic_env.clips.table import check_output

    check_output(namespace.out, namespace.files or [namespace.clips])
    bundle, rows = _predict_files(namespace) if namespace.files else _predict_list(namespace)
    count = rows // len(bundle.classes)
    level = "window" if namespace.each_window else bundle.recipe.level
    document = {"predictions": namespace.out, f"{level}s": count, "classes": list(bundle.classes)}
    show(namespace, document, f"{count:,} {level}s x {len(bundle.classes):,} classes: {namespace.out}")


def _predict_list(namespace: argparse.Namespace) -> tuple[Bundle, int]:
    """Write the table of a list; return how many rows it has."""
    from acoustic_env.audit.table import write_stream
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.predict import predict_stream
    from acoustic_env.store.sources import read_clips_of

    bundle, store = Bundle.load(namespace.bundle), _store(namespace.store)
    clips = read_clips_of(store, namespace.clips, log)
    clip_ids = clips["clip_id"].to_pylist()
    if seen := int(bundle.seen(clip_ids, clips["group"].to_pylist()).sum()):
        log(
            f"{seen:,} of {len(clip_ids):,} clips, or their recordings, trained the bundle: their probabilities "
            "are more extreme than those of new clips"
        )
    tables = predict_stream(bundle, clip_ids, store, log, recordings=clips["group"].to_pylist())
    return bundle, write_stream(tables, namespace.out)


def _predict_files(namespace: argparse.Namespace) -> tuple[Bundle, int]:
    """Write the table of audio files; return how many rows it has."""
    from acoustic_env.audio.limited import LimitedDecoder

    failed, limits = list[ClipError](), ServeSettings()
    # First of all: its process imports what it needs beside this one.
    with LimitedDecoder(limits.decode_megabytes, limits.decode_seconds) as decoder:
        from acoustic_env.audit.table import write_stream
        from acoustic_env.models.bundle import Bundle
        from acoustic_env.models.predict import predict_files

        bundle = Bundle.load(namespace.bundle)
        table = predict_files(
            bundle, namespace.files, failed.append, windows=namespace.each_window, decoder=decoder.decode
        )
    for error in failed:
        log(f"without prediction: {error}")
    return bundle, write_stream([table], namespace.out)
