"""`acoustic-env train`, `tune`, `study`, `evaluate`, `predict`: from feature tables to a classifier and its answers."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from acoustic_env.commands.arguments import check_inputs, url
from acoustic_env.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from acoustic_env.config import ClassifierSettings, Recipe
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import Study
    from acoustic_env.store.feature_store import FeatureStore

KINDS: Final = "mlp, xgboost, logistic, random_forest, gradient_boosting, svm, knn, or one of another package"
TRAIN: Final = """\
Train a classifier on the clips of a list with the features of a store, by a recipe.

Folds given in the list are kept; other clips are split by class with groups kept whole. Preprocessing, stopping,
threshold and calibration use training and validation folds only. Test folds are left for `acoustic-env evaluate`.

Calibration, thresholds and the metrics printed are of the whole ensemble that is shipped: it is trained again without
each of up to five parts of the clips, which it then predicts. This takes up to four times the bundle's training."""
TRAIN_EXAMPLES: Final = """\
examples:
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --out bundle
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --model logistic --out baseline
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --settings tuned/best.json --out best
  acoustic-env train --clips clips.parquet --store s3://bucket/features --recipe urban-nature --workers 4 \\
      --checkpoints s3://bucket/checkpoints --out bundle"""
TUNE: Final = """\
Search the settings of a classifier for the best validation score, in the search space of its kind.

Trials run in parallel, one per CPU, suggested by Optuna. Run the same command again to resume after an interruption;
with more --trials it runs only those that are missing. A search of other clips, features or settings in OUT is refused,
since its scores are not comparable. Writes OUT/trials.csv, OUT/trials.png and OUT/best.json, which `train --settings`
takes."""
STUDY: Final = """\
Compare features: every block alone, every embedder beside indices and mps, and all blocks, for each signal and all
signals together, predicted out of fold on training and validation clips. Test clips are not used, unless --every-fold
asks for them: the protocol of data sets that were published with folds.

Prints the table, best first, with 95 % intervals and the paired difference from the best; writes OUT/study.csv. The
intervals of the differences allow for the choice of the best among all rows (multiple comparisons with the best): the
truly best row is the first or "within noise" of it in at least 95 % of studies."""
EVALUATE: Final = """\
Evaluate a bundle on clips it was not trained on. Clips it was trained on, or whose group it was, are left out.

Evaluate a test set only once: choosing between models by a second evaluation makes it a validation set. The bundle
records every test evaluation, and a second one is marked as such. `train --out` over the bundle keeps the record."""
PREDICT: Final = """\
Predict calibrated probabilities of every class, for the clips of a list or for audio files whose features are computed
first. Writes a table with clip_id, label, posterior: a row per clip and class."""
PREDICT_EXAMPLES: Final = """\
examples:
  acoustic-env predict --bundle bundle --clips new.parquet --store features --out predictions.parquet
  acoustic-env predict --bundle bundle park.wav street.flac --out predictions.parquet"""


def add_parsers(subparsers: Any) -> None:
    """Add the commands of learning."""
    train = _command(subparsers, "train", TRAIN, TRAIN_EXAMPLES, run_train, "BUNDLE", "Folder of the bundle.")
    _add_study_options(train)
    train.add_argument("--model", metavar="KIND", help=f"Kind of the classifier: {KINDS}; default: the recipe's.")
    train.add_argument("--ensemble", type=int, metavar="N", help="Models averaged; default: the recipe's.")
    train.add_argument("--workers", type=int, metavar="N", help="Ray Train workers of an MLP; 0 for this process.")
    train.add_argument("--settings", type=url, metavar="FILE", help="Classifier settings (YAML or JSON, as of `tune`).")
    train.add_argument("--checkpoints", type=url, metavar="URL", help="Checkpoints of the workers; every node sees it.")
    _add_address(train)

    tune = _command(subparsers, "tune", TUNE, "", run_tune, "DIR", "Folder of the search and its table.")
    _add_study_options(tune)
    tune.add_argument("--model", metavar="KIND", help=f"Kind of the classifier: {KINDS}; default: the recipe's.")
    tune.add_argument("--settings", type=url, metavar="FILE", help="Settings that are not searched (YAML or JSON).")
    tune.add_argument("--trials", type=int, default=100, metavar="N", help="Trials in all (default: %(default)s).")
    _add_address(tune)

    study = _command(subparsers, "study", STUDY, "", run_study_command, "DIR", "Folder of the table.")
    _add_study_options(study)
    study.add_argument("--model", type=_names, metavar="KIND,KIND", help="Kinds to compare; default: the recipe's.")
    study.add_argument(
        "--every-fold",
        action="store_true",
        help="Predict test folds, too; results can no longer be used for model selection.",
    )

    evaluate = _command(subparsers, "evaluate", EVALUATE, "", run_evaluate)
    evaluate.add_argument("--bundle", type=url, metavar="BUNDLE", required=True, help="Folder of the classifier.")
    evaluate.add_argument("--clips", type=url, metavar="LIST", required=True, help="Clip list with labels.")
    evaluate.add_argument("--store", type=url, metavar="URL", required=True, help="Feature store.")

    predict = _command(subparsers, "predict", PREDICT, PREDICT_EXAMPLES, run_predict, "FILE.parquet", "Table to write.")
    predict.add_argument("--bundle", type=url, metavar="BUNDLE", required=True, help="Folder of the classifier.")
    predict.add_argument("--clips", type=url, metavar="LIST", help="Clip list; needs --store.")
    predict.add_argument("--store", type=url, metavar="URL", help="Feature store.")
    predict.add_argument("files", type=url, nargs="*", metavar="FILE", help="Audio files instead of a list.")


def _command(
    subparsers: Any, name: str, description: str, epilog: str, run: Any, out: str = "", about_out: str = ""
) -> Any:
    layout = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(name, description=description, epilog=epilog, formatter_class=layout)
    if out:
        parser.add_argument("--out", type=url, metavar=out, required=True, help=about_out)
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    parser.set_defaults(run=run)
    return parser


def _add_address(parser: Any) -> None:
    text = "Ray cluster to join (default: RAY_ADDRESS, else this machine)."
    parser.add_argument("--address", metavar="ADDRESS", help=text)


def _add_study_options(parser: Any) -> None:
    text = "Clip list, Parquet or CSV, at any fsspec URL."
    parser.add_argument("--clips", type=url, metavar="LIST", required=True, help=text)
    text = "Feature store: a folder or s3://bucket/prefix."
    parser.add_argument("--store", type=url, metavar="URL", required=True, help=text)
    parser.add_argument("--recipe", type=url, metavar="R", required=True, help="Recipe: a name or a YAML file.")
    text = "Feature blocks, instead of the recipe's."
    parser.add_argument("--blocks", type=_names, default=(), metavar="B,B", help=text)
    parser.add_argument("--signals", type=_names, default=(), metavar="S,S", help="Signals, instead of the recipe's.")
    text = "Version of a block that the store has in several."
    options: dict[str, Any] = {"action": "append", "default": [], "metavar": "BLOCK=FINGERPRINT"}
    parser.add_argument("--version", type=_version, help=text, **options)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _version(text: str) -> tuple[str, str]:
    block, equals, fingerprint = text.partition("=")
    if not equals:
        msg = f"{text!r} is not BLOCK=FINGERPRINT"
        raise argparse.ArgumentTypeError(msg)
    return block, fingerprint


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _recipe(namespace: argparse.Namespace) -> Recipe:
    """Read the recipe, with the classifier of --settings and the options."""
    from acoustic_env.io.documents import load_recipe

    check_inputs(clips=namespace.clips, store=namespace.store, recipe=namespace.recipe)
    recipe = load_recipe(namespace.recipe)
    return recipe.replace(model=model_settings(recipe.model, namespace))


def model_settings(base: ClassifierSettings, namespace: argparse.Namespace) -> ClassifierSettings:
    """Return the recipe's classifier settings, changed by --settings and then by the options.

    Raises:
        UsageError: the file is missing or not settings, or a value is unknown or out of range.
    """
    from acoustic_env.config import from_mapping
    from acoustic_env.io.documents import read_mapping

    given = read_mapping(namespace.settings, "--settings") if namespace.settings else {}
    options = {"kind": namespace.model} | {name: getattr(namespace, name, None) for name in ("ensemble", "workers")}
    given |= {name: value for name, value in options.items() if value is not None}
    chosen = base.of_kind(str(given.get("kind", base.kind)))
    return from_mapping(type(chosen), chosen.as_json() | given, namespace.settings or "options")


def _study(namespace: argparse.Namespace, recipe: Recipe) -> Study:
    from acoustic_env.audio.signals import SIGNALS
    from acoustic_env.models.learn import prepare
    from acoustic_env.store.source_check import read_clips_of

    for signal in namespace.signals:
        SIGNALS.check(signal)
    store = _store(namespace.store)
    versions: dict[str, list[str]] = {}
    for block, fingerprint in namespace.version:
        versions.setdefault(block, []).append(fingerprint)
    return prepare(
        read_clips_of(store, namespace.clips, _log),
        store,
        recipe,
        blocks=namespace.blocks,
        signals=namespace.signals,
        fingerprints=versions,
        log=_log,
    )


def _store(url: str) -> FeatureStore:
    from acoustic_env.store.feature_store import FeatureStore

    return FeatureStore(url)


def run_train(namespace: argparse.Namespace) -> int:
    """Train and save a bundle."""
    recipe = _recipe(namespace)
    from acoustic_env.io.files import check_place
    from acoustic_env.io.location import join
    from acoustic_env.models.bundle import METADATA
    from acoustic_env.models.learn import train
    from acoustic_env.pipeline.cluster import cluster

    check_place(join(namespace.out, METADATA))
    study = _study(namespace, recipe)
    with cluster(namespace.address) if getattr(recipe.model, "workers", 0) else nullcontext():
        bundle, found = train(study, _log, checkpoints=namespace.checkpoints)
    bundle.save(namespace.out)
    if earlier := len(bundle.test_evaluations) - len(bundle.own_evaluations):
        kept = "test evaluation of earlier weights at this path is" if earlier == 1 else "test evaluations are"
        _log(f"{earlier} {kept} kept on record: clips that helped to choose a model cannot test it")
    if namespace.json:
        print(json.dumps({"bundle": namespace.out, **found.as_json()}))
    else:
        print(f"held-out clips of training and validation folds, {recipe.model.kind}:")
        print("\n".join(found.lines()))
    _log(f"bundle: {namespace.out}")
    return 0


def run_tune(namespace: argparse.Namespace) -> int:
    """Search, then write the table, the plot and the best settings."""
    recipe = _recipe(namespace)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.files import check_place, write_bytes
    from acoustic_env.io.location import join
    from acoustic_env.models.learn import preprocessed_parts
    from acoustic_env.models.search_state import SearchState
    from acoustic_env.models.tune import search, search_identity, trial_table
    from acoustic_env.pipeline.cluster import cluster
    from acoustic_env.report.plots import trials_plot

    check_place(join(namespace.out, "trials.csv"))
    recipe = recipe.replace(model=recipe.model.replace(ensemble=1))
    study = _study(namespace, recipe)
    state = SearchState.open(namespace.out, search_identity(study), namespace.trials)
    parts = preprocessed_parts(study)
    with cluster(namespace.address) if state.unfinished else nullcontext():
        trials = search(recipe.model, len(study.targets.classes), *parts, state)
    table = trial_table(trials)
    write_table(table, join(namespace.out, "trials.csv"))
    write_bytes(join(namespace.out, "trials.png"), trials_plot(table.to_pylist()).png())
    best = trials[0]
    if best.score is None:
        msg = f"every trial failed, the first with: {best.error}"
        raise UsageError(msg)
    chosen = {"kind": recipe.model.kind, **best.chosen}
    write_bytes(join(namespace.out, "best.json"), json.dumps(chosen, indent=1).encode())
    if namespace.json:
        print(json.dumps({"trials": len(trials), "score": best.score, "settings": chosen}))
    else:
        print(f"best of {len(trials)} trials: validation score {best.score:.4f}")
        print("\n".join(f"{name:<14} {value}" for name, value in chosen.items()))
    _log(f"{namespace.out}: trials.csv, trials.png and best.json (for train --settings)")
    return 0


def run_study_command(namespace: argparse.Namespace) -> int:
    """Run the study and write its table."""
    check_inputs(clips=namespace.clips, store=namespace.store, recipe=namespace.recipe)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.io.files import check_place
    from acoustic_env.io.location import join
    from acoustic_env.models.study import run_study, score_name, study_lines, study_table

    place = join(namespace.out, "study.csv")
    check_place(place)
    recipe = load_recipe(namespace.recipe)
    kinds = namespace.model or (recipe.model.kind,)
    for kind in kinds:
        recipe.model.of_kind(kind)  # an unknown one before the features are read
    study = _study(namespace, recipe)
    rows = run_study(study, kinds, _log, every_fold=namespace.every_fold)
    table = study_table(rows)
    write_table(table, place)
    print(json.dumps(table.to_pylist()) if namespace.json else "\n".join(study_lines(rows, score_name(study))))
    _log(place)
    return 0


def run_evaluate(namespace: argparse.Namespace) -> int:
    """Evaluate, record the evaluation, print."""
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle)
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import evaluate_bundle
    from acoustic_env.store.source_check import read_clips_of

    bundle, store = Bundle.load(namespace.bundle), _store(namespace.store)
    found, hash_of_clips = evaluate_bundle(bundle, read_clips_of(store, namespace.clips, _log), store, _log)
    earlier = list(bundle.test_evaluations)
    bundle.record_evaluation(namespace.bundle, hash_of_clips, found)
    number, others = len(earlier) + 1, sum(one.weights != bundle.weights_sha256 for one in earlier)
    if earlier:
        same = sum(one.clips_hash == hash_of_clips for one in earlier)
        by_others = f", {others} of them of earlier weights at this path" if others else ""
        _log(
            f"test evaluation {number} of this bundle ({same} earlier on this set, the first of all {earlier[0].time})"
            f"{by_others}: a model chosen by these metrics needs other clips for an unbiased test"
        )
    if namespace.json:
        about = {"test_evaluation": number, "earlier_weights": others, "clips_hash": hash_of_clips}
        print(json.dumps({**about, **found.as_json()}))
    else:
        print(f"test evaluation {number}, {namespace.bundle}:" if earlier else f"{namespace.bundle}:")
        print("\n".join(found.lines()))
    return 0


def run_predict(namespace: argparse.Namespace) -> int:
    """Predict a list or files."""
    if bool(namespace.files) == bool(namespace.clips) or (namespace.clips and not namespace.store):
        msg = "predict takes either --clips with --store, or audio files"
        raise UsageError(msg)
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle, files=namespace.files)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.files import check_place
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.predict import predict, predict_files
    from acoustic_env.store.source_check import read_clips_of

    check_place(namespace.out)
    bundle = Bundle.load(namespace.bundle)
    if namespace.clips:
        store = _store(namespace.store)
        clips = read_clips_of(store, namespace.clips, _log)
        clip_ids = clips["clip_id"].to_pylist()
        if seen := int(bundle.seen(clip_ids, clips["group"].to_pylist()).sum()):
            _log(
                f"{seen:,} of {len(clip_ids):,} clips, or their recordings, trained the bundle: their probabilities "
                "are more extreme than those of new clips"
            )
        table = predict(bundle, clip_ids, store, _log)
    else:
        with tempfile.TemporaryDirectory(prefix="acoustic-env-") as scratch:
            table = predict_files(bundle, namespace.files, partial(_extract, store=scratch), _log)
    write_table(table, namespace.out)
    count = table.num_rows // len(bundle.classes)
    if namespace.json:
        print(json.dumps({"predictions": namespace.out, "clips": count, "classes": list(bundle.classes)}))
    else:
        print(f"{count:,} clips x {len(bundle.classes):,} classes: {namespace.out}")
    return 0


def _extract(clips: pa.Table, bundle: Bundle, *, store: str) -> FeatureStore:
    """Compute a bundle's features of audio files into a scratch store; log files that fail."""
    from acoustic_env.config import ExtractSettings
    from acoustic_env.pipeline.extract import extract

    signals: Any = tuple(dict.fromkeys(column.signal for column in bundle.preprocessor.feature_columns))
    blocks = tuple(bundle.fingerprints)
    settings = ExtractSettings(clips="command line", store=store, signals=signals, blocks=blocks, max_error_rate=1.0)
    extract(settings, _log, clips, bundle.recipe)
    found = _store(store)
    for error in found.errors().to_pylist():
        _log(f"{error['clip_id']}: {error['code']}: {error['message']}")
    return found
