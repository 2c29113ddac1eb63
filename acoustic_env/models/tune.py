"""Search of a classifier's settings with Ray Tune and Optuna: the search space of its kind, parallel, resumable.

The data are preprocessed once and put once into Ray's object store; every trial fits one estimator in a process of one
CPU, with a GPU of its own where the kind is worth one and the cluster has some, and reports its validation score. Test
rows are not there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.preprocessing import FunctionTransformer

from acoustic_env.config import ClassifierSettings
from acoustic_env.models.data.examples import Examples
from acoustic_env.models.data.frames import Sequences
from acoustic_env.models.data.windows import per_row
from acoustic_env.models.estimators.fitting import fit_model, predict_proba
from acoustic_env.models.search_state import SearchState
from acoustic_env.models.validation.cross_fitting import out_of_fold
from acoustic_env.models.validation.thresholds import main_score
from acoustic_env.pipeline.plan import Node
from acoustic_env.stats.intervals import Floats

if TYPE_CHECKING:
    from acoustic_env.models.learn import Study

STUDY: Final = "optuna"
METRIC: Final = "score"
# Random trials before the searcher models anything: the source system's 25 of 100.
RANDOM_SHARE: Final = 0.25


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: in the order in which the trials ended, from 0.
        point: of the search space.
        chosen: the searched settings at this point.
        score: validation score; None when the trial failed.
        seconds: taken.
        error: what failed, or an empty string.
    """

    number: int
    point: dict[str, Any]
    chosen: dict[str, Any]
    score: float | None
    seconds: float
    error: str


def search_identity(study: Study, inner_folds: int | None = None) -> dict[str, str]:
    """Describe everything that determines a trial's score, name -> value.

    Feature values are taken as the store has them, before any reduction, so that the same data are the same on every
    machine.
    """
    train, validation = study.split.train, study.split.validation
    model, matrix, targets = study.recipe.model, study.matrix, study.targets
    columns = [str(column) for column in matrix.columns]
    example = optuna_study(sampler(model.seed, trials=1)).ask()
    model.search_space(example, len(columns))
    searched = changed_settings(model, example.params)
    fixed = {name: value for name, value in search_settings(model).as_json().items() if name not in searched}

    def clips(rows: npt.NDArray[Any]) -> str:
        ids = [targets.clip_ids[row] for row in rows]
        return f"{len(rows):,} clips, {_digest(ids, targets.y[rows], study.groups[rows])}"

    copies = _digest(*(variant.values[study.learning] for variant in study.variants))
    return {
        **({"inner folds": str(inner_folds)} if inner_folds else {}),
        "training clips, labels and groups": clips(train),
        "validation clips, labels and groups": clips(validation),
        "task and classes": f"{study.recipe.task}, {len(targets.classes)} classes, {_digest(list(targets.classes))}",
        "blocks": ", ".join(
            f"{block} {signal} {version}"
            for block, versions in sorted(matrix.fingerprints.items())
            for signal, version in sorted(versions.items())
        ),
        "features": f"{len(columns):,} columns, {_digest(columns, matrix.values[train], matrix.values[validation])}",
        **({"variants": f"{', '.join(study.recipe.variants)}, {copies}"} if study.variants else {}),
        "reduction": json.dumps(study.recipe.reduction.as_json(), sort_keys=True),
        **({"windows": study.recipe.windows.model_dump_json()} if study.recipe.windows else {}),
        "fixed settings": ", ".join(f"{name} {value}" for name, value in fixed.items()),
        "search": ", ".join(f"{name} {values}" for name, values in example.distributions.items()),
    }


def _digest(*parts: list[str] | npt.NDArray[Any] | Sequences) -> str:
    """Return 16 hex digits of names, arrays and sequences, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        match part:
            case list():
                digest.update(json.dumps(part).encode())
            case Sequences():
                digest.update(part.digest())
            case _:
                digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def search_settings(settings: ClassifierSettings) -> ClassifierSettings:
    """Return the settings that every trial starts from: one model in one process, an MLP with fewer epochs."""
    fixed = {"ensemble": 1, "workers": 0, **settings.trial_settings}
    return settings.replace(**{name: value for name, value in fixed.items() if name in type(settings).model_fields})


def changed_settings(base: ClassifierSettings, point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, as plain data, that a point of the search space sets.

    >>> from acoustic_env.config import classifier_settings
    >>> changed_settings(classifier_settings({"kind": "logistic"}), {"penalty": 0.01, "l1_ratio": 0.5})
    {'penalty': 0.01, 'l1_ratio': 0.5}
    """
    plain = base.at(point).as_json()
    nested = {"layers" if name.startswith("units_") else "augment" for name in point if name not in plain}
    return {name: plain[name] for name in plain if name in point or name in nested}


def optuna_study(sampler: Any = None, storage: Any = None) -> Any:
    """Return an empty study of Optuna that maximizes, and have Optuna say no more than warnings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name=STUDY, direction="maximize", sampler=sampler, storage=storage)


def validation_score(found: Floats, y: npt.NDArray[Any]) -> float:
    """Return AUC (binary), macro F1 (multiclass) or mAP (multilabel) of probabilities, as `compare` does them.

    Rows of one class only have no AUC; their score is minus the log loss.

    >>> validation_score(np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4]]), np.array([0, 1, 1]))
    1.0
    """
    y = per_row(y, found)
    score = main_score(y, found)(None)
    if np.isfinite(score):
        return score
    truth = y if y.ndim == 2 else np.eye(found.shape[1], dtype=bool)[y]
    return float(np.log(np.clip(np.where(truth, found, 1 - found), 1e-7, None)).sum(axis=1).mean())


def search(
    base: ClassifierSettings,
    classes: int,
    train: Examples,
    validation: Examples | int,
    state: SearchState,
) -> list[Trial]:
    """Run the trials of `state` that are left; each is recorded when it ends.

    Args:
        base: settings; what the kind's search space does not name stays as it is.
        classes: number of classes.
        train: preprocessed rows.
        validation: preprocessed rows to score on; or the number of grouped folds of `train` that are predicted in turn.
        state: from `SearchState.open` with this study's `search_identity`.

    Returns:
        Every trial, best first. Failed ones are not in the record: the next command tries as many again.
    """
    base = search_settings(base)
    state.write()
    failed = _run_trials(base, classes, train, validation, state) if state.left else []
    trials = [Trial(**ended) for ended in state.ended]
    trials += [dataclasses.replace(trial, number=len(trials) + place) for place, trial in enumerate(failed)]
    return sorted(trials, key=lambda trial: (trial.score is None, -(trial.score or 0.0), trial.number))


def _run_trials(
    base: ClassifierSettings,
    classes: int,
    train: Examples,
    validation: Examples | int,
    state: SearchState,
) -> list[Trial]:
    """Run and record the trials that are left, suggested from the seed and the recorded ones; return what failed.

    Ray Tune's own state is not kept: its snapshot and its searcher's can be of different moments, so that a search
    restored from them may end early.

    Raises:
        KeyboardInterrupt: before all had run; what ended is recorded.
    """
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from acoustic_env.pipeline.cluster import cluster_resources

    class Record(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            state.ended.append(asdict(_trial(len(state.ended), base, trial.config, trial.last_result)))
            state.write()

    earlier = [Trial(**ended) for ended in state.ended]
    space = partial(base.search_space, features=train.x.shape[1])
    searcher = OptunaSearch(
        space=space,
        metric=METRIC,
        mode="max",
        sampler=sampler(base.seed + len(earlier), state.trials),
        storage=_earlier_scores(space, earlier),
        study_name=STUDY,
    )
    wanted, together = trial_resources(base, cluster_resources())
    data = ray.put((train, validation))
    trainable = tune.with_parameters(_run_trial, data=data, base=base, classes=classes)
    config = tune.TuneConfig(
        num_samples=state.left,
        metric=METRIC,
        mode="max",
        reuse_actors=True,  # or every trial would load torch anew
        search_alg=tune.search.ConcurrencyLimiter(searcher, max_concurrent=together),
    )
    with (
        tempfile.TemporaryDirectory(prefix="acoustic-env-tune-") as scratch,
        contextlib.redirect_stdout(sys.stderr),  # Ray's tables are no result
    ):
        run = tune.RunConfig(storage_path=scratch, callbacks=[Record()], verbose=0)
        tuner = tune.Tuner(tune.with_resources(trainable, wanted), tune_config=config, run_config=run)
        results = tuner.fit()
    failed = [result for result in (results[place] for place in range(len(results))) if result.error]
    if len(failed) < state.left:
        raise KeyboardInterrupt  # which Ray Tune takes for an end of the search
    return [_trial(0, base, result.config, {}, result.error) for result in failed]


def trial_resources(settings: ClassifierSettings, offered: Node) -> tuple[dict[str, float], int]:
    """Return what a trial reserves in a cluster, and how many fit at once: no two share a GPU.

    >>> from acoustic_env.config import classifier_settings
    >>> offered = Node("", "two GPUs", cpus=8, gpus=2, memory=2**34)
    >>> [trial_resources(classifier_settings({"kind": kind}), offered) for kind in ("cnn", "mlp")]
    [({'cpu': 1.0, 'gpu': 1.0}, 2), ({'cpu': 1.0}, 8)]
    """
    if getattr(settings, "uses_gpu", False) and offered.gpus >= 1:
        return {"cpu": 1.0, "gpu": 1.0}, max(1, int(min(offered.cpus, offered.gpus)))
    return {"cpu": 1.0}, max(1, int(offered.cpus))


def _earlier_scores(space: Callable[[Any], None], trials: Sequence[Trial]) -> Any:
    """Return an Optuna storage that knows the trials of earlier batches, so that suggestions go on from them."""
    import optuna

    storage = optuna.storages.InMemoryStorage()
    study = optuna_study(storage=storage)
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.score is None:
            continue
        fixed = optuna.trial.FixedTrial(trial.point)
        space(fixed)
        study.add_trial(
            optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=trial.score)
        )
    return storage


def sampler(seed: int, trials: int) -> Any:
    """Return Optuna's sampler for a search of so many trials."""
    import optuna

    return optuna.samplers.TPESampler(n_startup_trials=max(1, round(RANDOM_SHARE * trials)), seed=seed)


def _run_trial(point: Mapping[str, Any], data: Any, base: ClassifierSettings, classes: int) -> None:
    import warnings

    import ray
    from ray import tune
    from threadpoolctl import threadpool_limits

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    train, validation = ray.get(data) if isinstance(data, ray.ObjectRef) else data
    with threadpool_limits(1):
        tune.report({METRIC: score_settings(base.at(point), train, validation, classes)})


def score_settings(settings: ClassifierSettings, train: Examples, validation: Examples | int, classes: int) -> float:
    """Return the validation score of settings.

    Args:
        settings: of a kind.
        train: preprocessed rows.
        validation: rows to score on, and to stop on; or the number of grouped folds of `train` predicted in turn.
        classes: how many.
    """
    if isinstance(validation, int):
        unchanged = FunctionTransformer()
        found = out_of_fold(train, settings, validation, settings.seed, classes=classes, preprocessor=unchanged)
        return validation_score(found.probabilities, train.y)
    model = fit_model(settings, train, validation, settings.seed)
    return validation_score(predict_proba(model, validation.x, classes), validation.y)


def _trial(
    number: int,
    base: ClassifierSettings,
    point: Mapping[str, Any] | None,
    metrics: Mapping[str, Any],
    error: Exception | None = None,
) -> Trial:
    point = dict(point or {})
    return Trial(
        number=number,
        point=point,
        chosen=changed_settings(base, point),
        score=None if error else float(metrics[METRIC]),
        seconds=float(metrics.get("time_total_s", 0.0)),
        error=str(error).splitlines()[-1] if error else "",
    )


def trial_table(trials: list[Trial]) -> pa.Table:
    """Return trials as a table, in the order given: number, score, each searched setting, seconds, error."""
    shown = [_searched(trial) for trial in trials]
    names = list(dict.fromkeys(name for settings in shown for name in settings))

    def column(name: str) -> list[Any]:
        values = [settings.get(name) for settings in shown]
        return ["-".join(map(str, value)) if isinstance(value, list | tuple) else value for value in values]

    return pa.table(
        {
            "trial": [trial.number for trial in trials],
            "score": pa.array([trial.score for trial in trials], pa.float64()),
            **{name: column(name) for name in names},
            "seconds": [trial.seconds for trial in trials],
            "error": [trial.error for trial in trials],
        }
    )


def _searched(trial: Trial) -> dict[str, Any]:
    """Return the settings of a trial, of a group of settings (augment) those that were searched."""
    found: dict[str, Any] = {}
    for name, value in trial.chosen.items():
        own = {inner: value[inner] for inner in value if inner in trial.point} if isinstance(value, dict) else None
        found.update({name: value} if own is None else own)
    return found
