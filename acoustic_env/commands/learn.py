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

    from acoustic_env.config import ModelSettings, Recipe
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import Study
    from acoustic_env.store.feature_store import FeatureStore

MODELS: Final = ("mlp", "xgboost", "logistic")

TRAIN: Final = """\
Train a classifier on the clips of a list with the features of a store, by a recipe.

Folds given in the list are kept; other clips are split by class with groups kept whole. Reduction, stopping, threshold
and calibration see training and validation folds only. Test folds are left for `acoustic-env evaluate`.

Calibration, thresholds and the figures printed are of the whole ensemble that is shipped: it is trained again without
each of up to five parts of the clips, which it then judges. This takes up to four times the training of the bundle."""
TRAIN_EXAMPLES: Final = """\
examples:
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --out bundle
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --model logistic --out baseline
  acoustic-env train --clips clips.parquet --store features --recipe urban-nature --settings tuned/best.json --out best
  acoustic-env train --clips clips.parquet --store s3://bucket/features --recipe urban-nature --workers 4 \\
      --checkpoints s3://bucket/checkpoints --out bundle"""
TUNE: Final = """\
Search the MLP's settings (layers, units, activation, dropout, learning rate) for the best validation score.

Trials run in parallel, one a CPU, suggested by Optuna. Run the same command again to go on after an interruption;
with more --trials it runs only those that are missing. A search of other clips, features or settings in OUT is refused,
since its scores are not comparable. Writes OUT/trials.csv, OUT/trials.png and OUT/best.json, which `train --settings`
takes."""
STUDY: Final = """\
Which features tell the classes apart: every block alone, every embedder beside indices and mps, and all blocks, for
each signal and all signals together, judged out of fold on training and validation clips. Test clips are not looked at,
unless --every-fold asks for them: the protocol of data sets that were published with folds.

Prints the table, best first, with 95 % intervals and the paired difference from the best; writes OUT/study.csv. The
intervals of the differences allow for the choice of the best among all rows (multiple comparisons with the best): the
truly best row is the first or "within noise" of it in at least 95 % of studies."""
EVALUATE: Final = """\
HeldOutScorer a bundle on clips it was not trained on. Clips it was trained on, or whose group it was, are left out.

A test set answers honestly once: choosing between models by looking again makes it a validation set. The bundle
records every look, and a second one is marked as such. `train --out` over the bundle keeps the record."""
PREDICT: Final = """\
Calibrated probabilities of every class, for the clips of a list or for audio files whose features are computed first.
Writes a table with clip_id, label, posterior: a row per clip and class."""
PREDICT_EXAMPLES: Final = """\
examples:
  acoustic-env predict --bundle bundle --clips new.parquet --store features --out predictions.parquet
  acoustic-env predict --bundle bundle park.wav street.flac --out predictions.parquet"""


def add_parsers(subparsers: Any) -> None:
    """The commands of learning."""
    train = _command(subparsers, "train", TRAIN, TRAIN_EXAMPLES, run_train)
    _add_study_options(train)
    train.add_argument("--model", choices=MODELS, help="instead of the recipe's (mlp)")
    train.add_argument("--ensemble", type=int, metavar="N", help="models averaged, instead of the recipe's")
    train.add_argument("--workers", type=int, metavar="N", help="Ray Train workers; 0 trains in this process")
    train.add_argument(
        "--settings", type=url, metavar="FILE.json", help="model settings over the recipe's, as `tune` writes them"
    )
    train.add_argument(
        "--checkpoints", type=url, metavar="URL", help="where workers keep checkpoints; a place every node sees"
    )
    train.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to join (default: RAY_ADDRESS, else this machine)"
    )
    train.add_argument("--json", action="store_true", help="print the held-out figures as JSON")
    train.add_argument("--out", type=url, metavar="BUNDLE", required=True, help="folder of the bundle")

    tune = _command(subparsers, "tune", TUNE, "", run_tune)
    _add_study_options(tune)
    tune.add_argument("--trials", type=int, default=100, metavar="N", help="trials in all (default: 100)")
    tune.add_argument(
        "--address", metavar="ADDRESS", help="Ray cluster to join (default: RAY_ADDRESS, else this machine)"
    )
    tune.add_argument("--out", type=url, metavar="DIR", required=True, help="folder of the search and its table")

    study = _command(subparsers, "study", STUDY, "", run_study_command)
    _add_study_options(study)
    study.add_argument("--model", type=_names, default=("mlp",), metavar="M,M", help="kinds to compare (default: mlp)")
    study.add_argument(
        "--every-fold", action="store_true", help="judge test folds too; nothing chosen by it has a test any more"
    )
    study.add_argument("--json", action="store_true", help="print the table as JSON")
    study.add_argument("--out", type=url, metavar="DIR", required=True, help="folder of the table")

    evaluate = _command(subparsers, "evaluate", EVALUATE, "", run_evaluate)
    evaluate.add_argument("--bundle", type=url, metavar="BUNDLE", required=True)
    evaluate.add_argument("--clips", type=url, metavar="LIST", required=True, help="clip list with labels")
    evaluate.add_argument("--store", type=url, metavar="URL", required=True, help="feature store")
    evaluate.add_argument("--json", action="store_true", help="print everything, curves included, as JSON")

    predict = _command(subparsers, "predict", PREDICT, PREDICT_EXAMPLES, run_predict)
    predict.add_argument("--bundle", type=url, metavar="BUNDLE", required=True)
    predict.add_argument("--clips", type=url, metavar="LIST", help="clip list; needs --store")
    predict.add_argument("--store", type=url, metavar="URL", help="feature store")
    predict.add_argument("--out", type=url, metavar="FILE.parquet", required=True)
    predict.add_argument("files", type=url, nargs="*", metavar="FILE", help="audio files instead of a list")


def _command(subparsers: Any, name: str, description: str, epilog: str, run: Any) -> Any:
    parser = subparsers.add_parser(
        name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clips", type=url, metavar="LIST", required=True, help="clip list, Parquet or CSV, at any fsspec URL"
    )
    parser.add_argument(
        "--store", type=url, metavar="URL", required=True, help="feature store: a folder or s3://bucket/prefix"
    )
    parser.add_argument("--recipe", type=url, metavar="R", required=True, help="recipe: a name or a YAML file")
    parser.add_argument(
        "--blocks", type=_names, default=(), metavar="B,B", help="feature blocks, instead of the recipe's"
    )
    parser.add_argument("--signals", type=_names, default=(), metavar="S,S", help="signals, instead of the recipe's")
    parser.add_argument(
        "--version",
        type=_version,
        action="append",
        default=[],
        metavar="BLOCK=FINGERPRINT",
        help="which version of a block the store has in several",
    )


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


def _study(namespace: argparse.Namespace, recipe: Recipe) -> Study:
    from acoustic_env.audio.signals import SIGNALS
    from acoustic_env.models.learn import prepare
    from acoustic_env.store.source_check import read_clips_of

    for signal in namespace.signals:
        SIGNALS.check(signal)
    store = _store(namespace.store)
    return prepare(
        read_clips_of(store, namespace.clips, _log),
        store,
        recipe,
        blocks=namespace.blocks,
        signals=namespace.signals,
        fingerprints={
            block: [found for name, found in namespace.version if name == block] for block, _ in namespace.version
        },
        say=_log,
    )


def _store(url: str) -> FeatureStore:
    from acoustic_env.store.feature_store import FeatureStore

    return FeatureStore(url)


def run_train(namespace: argparse.Namespace) -> int:
    """Train and save a bundle."""
    check_inputs(clips=namespace.clips, store=namespace.store, recipe=namespace.recipe)
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.io.files import check_place
    from acoustic_env.io.location import join
    from acoustic_env.models.bundle import FACTS
    from acoustic_env.models.learn import train
    from acoustic_env.pipeline.cluster import cluster

    check_place(join(namespace.out, FACTS))
    recipe = load_recipe(namespace.recipe)
    recipe = recipe.replace(model=model_settings(recipe.model, namespace))
    study = _study(namespace, recipe)
    on_ray = recipe.model.workers > 0 and recipe.model.kind == "mlp"
    with tempfile.TemporaryDirectory(prefix="acoustic-env-") as scratch:
        trainer = None
        if on_ray:
            from acoustic_env.models.train import train_on_ray

            trainer = partial(train_on_ray, storage=namespace.checkpoints or scratch)
        with cluster(namespace.address) if on_ray else nullcontext():
            bundle, judged = train(study, _log, trainer)
    bundle.save(namespace.out)
    if earlier := len(bundle.looks) - len(bundle.own_looks):
        kept = "evaluation of earlier weights at this path is" if earlier == 1 else "evaluations of earlier weights are"
        _log(f"{earlier} test {kept} kept on record: clips that helped to choose are no test any more")
    if namespace.json:
        print(json.dumps({"bundle": namespace.out, **judged.as_json()}))
    else:
        print(f"held-out clips of training and validation folds, {recipe.model.kind}:")
        print("\n".join(judged.lines()))
    _log(f"bundle: {namespace.out}")
    return 0


def model_settings(base: ModelSettings, namespace: argparse.Namespace) -> ModelSettings:
    """The recipe's model settings under those of --settings and of the options.

    Raises:
        UsageError: the file is not there or not settings, or a number is out of range.
    """
    from acoustic_env.config import ModelSettings, from_mapping
    from acoustic_env.io.documents import read_mapping

    given: dict[str, Any] = {}
    if namespace.settings:
        given = read_mapping(namespace.settings, "--settings")
    options = {"kind": namespace.model, "ensemble": namespace.ensemble, "workers": namespace.workers}
    given |= {name: value for name, value in options.items() if value is not None}
    return from_mapping(ModelSettings, base.as_json() | given, namespace.settings or "options")


def run_tune(namespace: argparse.Namespace) -> int:
    """Search, then write the table, the plot and the best settings."""
    check_inputs(clips=namespace.clips, store=namespace.store, recipe=namespace.recipe)
    from acoustic_env.audit.table import write_table
    from acoustic_env.io.documents import load_recipe
    from acoustic_env.io.files import check_place, write_bytes
    from acoustic_env.io.location import join
    from acoustic_env.models.classifier import Examples
    from acoustic_env.models.learn import fit_reducer
    from acoustic_env.models.search_state import SearchState
    from acoustic_env.models.tune import plot_trials, search, search_identity, trial_table
    from acoustic_env.pipeline.cluster import cluster

    check_place(join(namespace.out, "trials.csv"))
    recipe = load_recipe(namespace.recipe)
    recipe = recipe.replace(model=recipe.model.replace(kind="mlp", ensemble=1))
    study = _study(namespace, recipe)
    state = SearchState.open(namespace.out, search_identity(study), namespace.trials)
    reducer = fit_reducer(study)
    parts = [
        Examples(reducer.transform(study.matrix.values[rows]), study.targets.y[rows], study.groups[rows])
        for rows in (study.split.train, study.split.validation)
    ]
    classes = len(study.targets.classes)
    with cluster(namespace.address) if state.unfinished else nullcontext():
        trials = search(recipe.task, classes, recipe.model, parts[0], parts[1], state)
    write_table(trial_table(trials), join(namespace.out, "trials.csv"))
    write_bytes(join(namespace.out, "trials.png"), plot_trials(trials))
    best = trials[0]
    if best.score is None:
        msg = f"every trial failed, the first with: {best.error}"
        raise UsageError(msg)
    searched = {name: getattr(best.settings, name) for name in ("layers", "activation", "dropout", "learning_rate")}
    write_bytes(join(namespace.out, "best.json"), json.dumps(searched, indent=1).encode())
    print(f"best of {len(trials)} trials: validation score {best.score:.4f}")
    print("\n".join(f"{name:<14} {value}" for name, value in searched.items()))
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

    unknown = [kind for kind in namespace.model if kind not in MODELS]
    if unknown:
        msg = f"--model: no model {unknown[0]!r}; there are {', '.join(MODELS)}"
        raise UsageError(msg)
    check_place(join(namespace.out, "study.csv"))
    study = _study(namespace, load_recipe(namespace.recipe))
    rows = run_study(study, namespace.model, _log, every_fold=namespace.every_fold)
    table, place = study_table(rows), join(namespace.out, "study.csv")
    write_table(table, place)
    print(json.dumps(table.to_pylist()) if namespace.json else "\n".join(study_lines(rows, score_name(study))))
    _log(place)
    return 0


def run_evaluate(namespace: argparse.Namespace) -> int:
    """HeldOutScorer, record the look, print."""
    check_inputs(clips=namespace.clips, store=namespace.store, bundle=namespace.bundle)
    from acoustic_env.models.bundle import Bundle
    from acoustic_env.models.learn import evaluate_bundle
    from acoustic_env.store.source_check import read_clips_of

    bundle, store = Bundle.load(namespace.bundle), _store(namespace.store)
    judged, hash_of_clips = evaluate_bundle(bundle, read_clips_of(store, namespace.clips, _log), store, _log)
    earlier = list(bundle.looks)
    bundle.record_look(namespace.bundle, hash_of_clips, judged)
    number, others = len(earlier) + 1, sum(look.weights != bundle.weights_sha256 for look in earlier)
    if earlier:
        same = sum(look.clips_hash == hash_of_clips for look in earlier)
        by_others = f", {others} of them of earlier weights at this path" if others else ""
        _log(
            f"look {number} at test clips with this bundle, {same} before at these (first {earlier[0].time})"
            f"{by_others}: a model chosen by these figures needs other clips for an honest one"
        )
    if namespace.json:
        print(json.dumps({"look": number, "earlier_weights": others, "clips_hash": hash_of_clips, **judged.as_json()}))
    else:
        print(f"look {number}, {namespace.bundle}:" if earlier else f"{namespace.bundle}:")
        print("\n".join(judged.lines()))
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
                "are surer than those of new clips"
            )
        table = predict(bundle, clip_ids, store, _log)
    else:
        with tempfile.TemporaryDirectory(prefix="acoustic-env-") as scratch:
            table = predict_files(bundle, namespace.files, partial(_extract, store=scratch), _log)
    write_table(table, namespace.out)
    count = table.num_rows // len(bundle.classes)
    print(f"{count:,} clips x {len(bundle.classes):,} classes: {namespace.out}")
    return 0


def _extract(clips: pa.Table, bundle: Bundle, *, store: str) -> FeatureStore:
    """Compute a bundle's features of audio files into a scratch store; files that fail are said, not fatal."""
    from acoustic_env.config import ExtractSettings
    from acoustic_env.pipeline.extract import extract

    signals: Any = tuple(dict.fromkeys(column.signal for column in bundle.reducer.columns))
    settings = ExtractSettings(
        clips="command line",
        store=store,
        signals=signals,
        blocks=tuple(bundle.fingerprints),
        max_error_rate=1.0,
    )
    extract(settings, _log, clips, bundle.recipe)
    found = _store(store)
    for error in found.errors().to_pylist():
        _log(f"{error['clip_id']}: {error['code']}: {error['message']}")
    return found
