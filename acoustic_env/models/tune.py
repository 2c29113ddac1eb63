"""Search of the MLP's settings with Ray Tune and Optuna: the source system's space, parallel, resumable.

The data are reduced once and put once into Ray's object store; every trial is the training loop of `mlp` in a process
of one CPU, and reports its validation score. Test rows are not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acoustic_env.config import ModelSettings, Task, from_mapping
from acoustic_env.io.arrow import arrow_filesystem
from acoustic_env.models.classifier import Examples
from acoustic_env.models.mlp import Job, LocalSession, Progress, train_network
from acoustic_env.models.search_state import Batch, SearchState

if TYPE_CHECKING:
    from acoustic_env.models.learn import Study

log = logging.getLogger("acoustic_env.models.tune")

STUDY: Final = "optuna"
METRIC: Final = "best_score"
MAX_LAYERS: Final = 5
# What a search's record says of the space; change it with `_Space`.
SPACE: Final = (
    "16 to 256 (512 above 600 inputs) units by 16, relu or tanh, dropout 0 to 0.5, learning rate 1e-4 to 1e-2"
)
# Above this many inputs the source system allowed wider layers (its three signals side by side).
WIDE_INPUTS: Final = 600
# Random trials before the searcher models anything: the source system's 25 of 100.
RANDOM_SHARE: Final = 0.25
MAX_EPOCHS: Final = 50
PATIENCE: Final = 5
# A report waits for the driver, longer than an epoch on small data takes.
REPORT_S: Final = 2.0


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: in the order of the suggestions, from 0.
        settings: of the model.
        score: best validation score; None when the trial failed.
        epochs: run.
        seconds: taken.
        error: what failed, or an empty string.
    """

    number: int
    settings: ModelSettings
    score: float | None
    epochs: int
    seconds: float
    error: str


class _Reporting(LocalSession):
    """A session that tells Ray Tune how a trial stands."""

    def __init__(self) -> None:
        self._due = time.monotonic() + REPORT_S

    def report(self, metrics: Mapping[str, float], progress: Callable[[], Progress], *, last: bool) -> None:
        """The epoch's figures, without a checkpoint: a trial takes seconds and is run again instead."""
        from ray import tune

        if last or time.monotonic() >= self._due:
            tune.report(dict(metrics))
            self._due = time.monotonic() + REPORT_S


def search_identity(study: Study) -> dict[str, str]:
    """Describe everything that determines a trial's score, name -> value.

    Feature values are taken as the store has them, before any reduction, so that the same data are the same on every
    machine.
    """
    train, validation = study.split.train, study.split.validation
    model, matrix, targets = study.recipe.model, study.matrix, study.targets
    columns = [str(column) for column in matrix.columns]

    def clips(rows: npt.NDArray[Any]) -> str:
        ids = [targets.clip_ids[row] for row in rows]
        return f"{len(rows):,} clips, {_digest(ids, targets.y[rows], study.groups[rows])}"

    return {
        "training clips, labels and groups": clips(train),
        "validation clips, labels and groups": clips(validation),
        "task and classes": f"{study.recipe.task}, {len(targets.classes)} classes, {_digest(list(targets.classes))}",
        "blocks": ", ".join(
            f"{block} {signal} {version}"
            for block, versions in sorted(matrix.fingerprints.items())
            for signal, version in sorted(versions.items())
        ),
        "features": f"{len(columns):,} columns, {_digest(columns, matrix.values[train], matrix.values[validation])}",
        "reduction": json.dumps(study.recipe.reduction.as_json(), sort_keys=True),
        "fixed settings": f"weight_decay {model.weight_decay}, batch_size {model.batch_size}, seed {model.seed}",
        "search": f"{MAX_LAYERS} layers, {SPACE}, {MAX_EPOCHS} epochs, patience {PATIENCE}, by {METRIC}",
    }


def _digest(*parts: list[str] | npt.NDArray[Any]) -> str:
    """16 hex digits of names and arrays, in their order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode() if isinstance(part, list) else np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def search(
    task: Task,
    classes: int,
    base: ModelSettings,
    train: Examples,
    validation: Examples,
    state: SearchState,
    *,
    at_once: int | None = None,
) -> list[Trial]:
    """Run the trials of `state` that are left: those of an interrupted batch, then those of a new one.

    Args:
        task, classes: of the study.
        base: settings that are not searched (weight decay, batch size, seed).
        train, validation: reduced rows.
        state: from `SearchState.open` with this study's `search_identity`; its folder keeps Ray Tune's state, too.
        at_once: trials running together; None for one a CPU.

    Returns:
        Every trial of every batch, best first.
    """
    import ray
    from ray import tune

    state.write()
    base = base.replace(max_epochs=MAX_EPOCHS, patience=PATIENCE, ensemble=1, workers=0)
    found: list[Trial] = []
    trainable = None
    for batch in state.batches:
        if batch.done is None:
            if trainable is None:
                job = {"base": base.as_json(), "task": task, "classes": classes}
                data = ray.put((train, validation))
                trainable = tune.with_resources(tune.with_parameters(_run_trial, data=data, job=job), {"cpu": 1})
            trials = _run_batch(state.folder, batch, trainable, found, base, train.x.shape[1], at_once)
            if all(not trial.error for trial in trials):  # failed ones are tried again by the next command
                batch.done = [{**asdict(trial), "settings": trial.settings.as_json()} for trial in trials]
                state.write()
        else:
            trials = [_stored(done) for done in batch.done]
        found += trials
    return sorted(found, key=lambda trial: (trial.score is None, -(trial.score or 0.0), trial.number))


def _run_batch(
    folder: str,
    batch: Batch,
    trainable: Any,
    earlier: Sequence[Trial],
    base: ModelSettings,
    inputs: int,
    at_once: int | None,
) -> list[Trial]:
    """Run a batch, or what an interruption left of it; suggestions follow from the seed and the earlier trials."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    filesystem, place = arrow_filesystem(folder)
    if tune.Tuner.can_restore(f"{place}/{batch.name}", storage_filesystem=filesystem):
        log.info("going on with the search in %s", folder)
        tuner = tune.Tuner.restore(
            f"{place}/{batch.name}",
            trainable,
            resume_unfinished=True,
            restart_errored=True,
            storage_filesystem=filesystem,
        )
    else:
        space = _Space(inputs)
        searcher = OptunaSearch(
            space=space,
            metric=METRIC,
            mode="max",
            sampler=_sampler(base.seed + batch.first, batch.first + batch.trials),
            storage=_earlier_scores(space, earlier),
            study_name=STUDY,
        )
        config = tune.TuneConfig(
            num_samples=batch.trials,
            metric=METRIC,
            mode="max",
            reuse_actors=True,  # or every trial would load torch anew
            search_alg=tune.search.ConcurrencyLimiter(searcher, max_concurrent=at_once or _cpus()),
        )
        run = tune.RunConfig(name=batch.name, storage_path=place, storage_filesystem=filesystem, verbose=0)
        tuner = tune.Tuner(trainable, tune_config=config, run_config=run)
    with contextlib.redirect_stdout(sys.stderr):  # Ray's tables are no result
        results = tuner.fit()
    return [_trial(results[index], base, batch.first) for index in range(len(results))]


def _earlier_scores(space: _Space, trials: Sequence[Trial]) -> Any:
    """An Optuna storage that knows the trials of earlier batches, so that suggestions go on from them."""
    import optuna

    storage = optuna.storages.InMemoryStorage()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.score is None:
            continue
        fixed = optuna.trial.FixedTrial(_point(trial.settings))
        space(fixed)
        study.add_trial(
            optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=trial.score)
        )
    return storage


def _point(settings: ModelSettings) -> dict[str, Any]:
    """The point of the space that has these settings: the reverse of `settings_of`."""
    return {
        "layers": len(settings.layers),
        **{f"units_{layer}": units for layer, units in enumerate(settings.layers)},
        "activation": settings.activation,
        "dropout": settings.dropout,
        "learning_rate": settings.learning_rate,
    }


def _stored(done: Mapping[str, Any]) -> Trial:
    return Trial(**{**done, "settings": from_mapping(ModelSettings, done["settings"], "search.json")})


def _cpus() -> int:
    from acoustic_env.pipeline.cluster import cluster_resources

    return max(1, int(cluster_resources().cpus))


def _sampler(seed: int, trials: int) -> Any:
    import optuna

    return optuna.samplers.TPESampler(n_startup_trials=max(1, round(RANDOM_SHARE * trials)), seed=seed)


class _Space:
    """The source system's space: 1 to 5 layers of 16 to 256 (or 512) units in steps of 16, relu or tanh, one dropout of
    0 to 0.5, learning rate 1e-4 to 1e-2 on a logarithmic scale."""

    def __init__(self, inputs: int) -> None:
        self.widest = 512 if inputs > WIDE_INPUTS else 256

    def __call__(self, trial: Any) -> None:
        layers = trial.suggest_int("layers", 1, MAX_LAYERS)
        for layer in range(layers):
            trial.suggest_int(f"units_{layer}", 16, self.widest, step=16)
        trial.suggest_categorical("activation", ["relu", "tanh"])
        trial.suggest_float("dropout", 0.0, 0.5)
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)


def settings_of(base: ModelSettings, chosen: Mapping[str, Any]) -> ModelSettings:
    """Model settings of a point of the space."""
    units = tuple(int(chosen[f"units_{layer}"]) for layer in range(int(chosen["layers"])))
    return base.replace(
        kind="mlp",
        layers=units,
        activation=chosen["activation"],
        dropout=float(chosen["dropout"]),
        learning_rate=float(chosen["learning_rate"]),
    )


def _run_trial(config: Mapping[str, Any], data: Any, job: Mapping[str, Any]) -> None:
    import warnings

    import ray
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    train, validation = ray.get(data) if isinstance(data, ray.ObjectRef) else data
    settings = settings_of(from_mapping(ModelSettings, job["base"], "tune"), config)
    train_network(Job(settings, job["task"], job["classes"]), train, validation, _Reporting())


def _trial(result: Any, base: ModelSettings, first: int = 0) -> Trial:
    metrics = result.metrics or {}
    return Trial(
        number=first + _number(result.path),
        settings=settings_of(base, result.config),
        score=None if result.error or METRIC not in metrics else float(metrics[METRIC]),
        epochs=int(metrics.get("epoch", 0)),
        seconds=float(metrics.get("time_total_s", 0.0)),
        error=str(result.error).splitlines()[-1] if result.error else "",
    )


def _number(path: str) -> int:
    """Place among the suggestions of its batch, from 0: the folder's name is `<function>_<id>_<number>_<settings>`.

    The place among the results would not do: a resumed search gives its trials back in another order.
    """
    return int(Path(path).name.removeprefix(f"{_run_trial.__name__}_").split("_")[1]) - 1


def trial_table(trials: list[Trial]) -> pa.Table:
    """Trials as a table, in the order given."""
    return pa.table(
        {
            "trial": [trial.number for trial in trials],
            "score": pa.array([trial.score for trial in trials], pa.float64()),
            "layers": ["-".join(map(str, trial.settings.layers)) for trial in trials],
            "activation": [trial.settings.activation for trial in trials],
            "dropout": [trial.settings.dropout for trial in trials],
            "learning_rate": [trial.settings.learning_rate for trial in trials],
            "epochs": [trial.epochs for trial in trials],
            "seconds": [trial.seconds for trial in trials],
            "error": [trial.error for trial in trials],
        }
    )


# Beside the panel's title, where no trial can lie.
_ABOVE: Final[Any] = {"frameon": False, "loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 2}


def plot_trials(trials: list[Trial]) -> bytes:
    """Return a PNG: validation score of each trial in order, with the best so far, and against each setting."""
    from matplotlib.figure import Figure

    done = sorted((trial for trial in trials if trial.score is not None), key=lambda trial: trial.number)
    scores = [trial.score or 0.0 for trial in done]
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 2)
    axes = panels[0, 0]
    axes.plot(range(1, len(done) + 1), scores, "o", color="#0072B2", ms=4, label="trial")
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    axes.step(range(1, len(done) + 1), best, where="post", color="#D55E00", label="best so far")
    axes.set(xlabel="trial", ylabel="validation score")
    axes.legend(**_ABOVE)
    views: list[tuple[Any, str, Callable[[ModelSettings], float], str]] = [
        (panels[0, 1], "learning rate", lambda s: s.learning_rate, "log"),
        (panels[1, 0], "dropout", lambda s: s.dropout, "linear"),
        (panels[1, 1], "hidden units in all", lambda s: float(sum(s.layers)), "linear"),
    ]
    for axes, label, value, scale in views:
        for activation, marker, color in (("relu", "o", "#0072B2"), ("tanh", "^", "#D55E00")):
            own = [trial for trial in done if trial.settings.activation == activation]
            axes.plot(
                [value(trial.settings) for trial in own],
                [trial.score for trial in own],
                marker,
                color=color,
                ms=4,
                ls="",
                label=activation,
            )
        axes.set(xlabel=label, ylabel="validation score", xscale=scale)
        axes.legend(**_ABOVE)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()
