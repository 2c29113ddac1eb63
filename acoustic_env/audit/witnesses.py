"""The models that witness: quick, well-regularised classifiers that learn from labels they may doubt.

A witness is a function of training features, training labels as distributions over the classes, and the features to
judge; it returns probabilities. Soft labels are the point: after a first round each label is given the weight that the
other folds' models leave it, and the witnesses learn again. All are tuned to be cheap and hard to convince by a single
label (strong penalties, dropout of half the inputs, few shallow trees), which is what finding errors needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Features = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

Witness = Callable[[Features, Floats, Features, int], Floats]
"""(train [n, d], target [n, classes], judged [m, d], seed) -> probabilities [m, classes], rows sum to 1."""

PENALTY: Final = 0.03  # of the logistic regression, per row: scikit-learn's 1 / (C n)
LARGE: Final = 20_000  # rows beyond which one quick model is enough

# Up to so many rows: MLP members, passes over the rows, rows a step. More rows need fewer passes.
MLP_EFFORT: Final = ((5_000, 2, 25, 128), (LARGE, 1, 12, 256))
MLP_LEAST_EFFORT: Final = (1, 4, 512)

TREES: Final[dict[str, Any]] = {
    "eta": 0.06,
    "max_depth": 4,
    "subsample": 0.7,
    "colsample_bytree": 0.3,
    "min_child_weight": 5.0,
    "lambda": 5.0,
    "tree_method": "hist",
    "max_bin": 64,
}
ROUNDS: Final = 150
TREE_ROWS: Final = 25_000  # a tree learns from so many rows or more (up to twice as many), where there are as many


def logistic(train: Features, target: Floats, judged: Features, seed: int) -> Floats:
    """Ridge logistic (two classes) or softmax regression, by L-BFGS."""
    from scipy.special import expit, softmax

    from acoustic_env.models.logistic import fit_weights

    binary = target.shape[1] == 2
    outcomes = (target[:, 1:] if binary else target).astype(np.float32)
    weights = fit_weights(train, outcomes, "binary" if binary else "multiclass", PENALTY)
    scores = judged @ weights[:-1].astype(np.float32) + weights[-1]
    return _two(expit(scores[:, 0])) if binary else np.asarray(softmax(scores.astype(np.float64), axis=1))


def xgboost(train: Features, target: Floats, judged: Features, seed: int) -> Floats:
    """Shallow boosted trees; two classes learn the soft label, more learn the likeliest class weighted by its share.

    On many rows the trees take turns on random parts of them, so that a tree costs the same however many there are.
    """
    import xgboost as xgb

    binary = target.shape[1] == 2
    settings = TREES | {"seed": seed, "nthread": _threads()}
    settings["objective"] = "binary:logistic" if binary else "multi:softprob"
    if not binary:
        settings["num_class"] = target.shape[1]
    label, weight = (target[:, 1], None) if binary else (target.argmax(axis=1), target.max(axis=1))
    turns = max(1, len(train) // TREE_ROWS)
    order = np.random.default_rng(seed).permutation(len(train))
    parts: list[xgb.QuantileDMatrix] = []
    for turn in range(turns):
        rows = np.sort(order[turn::turns])
        weights = None if weight is None else weight[rows]
        bins = parts[0] if parts else None
        parts.append(xgb.QuantileDMatrix(train[rows], label[rows], weight=weights, max_bin=TREES["max_bin"], ref=bins))
    booster = xgb.Booster(settings, parts)
    for tree in range(ROUNDS):
        booster.update(parts[tree % turns], tree)
    found = np.asarray(booster.inplace_predict(judged), dtype=np.float64)
    return _two(found) if binary else found


def mlp(train: Features, target: Floats, judged: Features, seed: int) -> Floats:
    """One hidden layer of 128 with half of inputs and units dropped; two members on small sets."""
    import torch

    efforts = (effort for most, *effort in MLP_EFFORT if len(train) <= most)
    members, passes, batch = next(efforts, MLP_LEAST_EFFORT)
    inputs, wanted = torch.from_numpy(train), torch.from_numpy(target.astype(np.float32))
    scores = np.zeros((len(judged), target.shape[1]))
    for member in range(members):
        generator = torch.Generator().manual_seed(seed * 100 + member)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * 100 + member)
            network = torch.nn.Sequential(
                torch.nn.Dropout(0.5),
                torch.nn.Linear(train.shape[1], 128),
                torch.nn.ReLU(),
                torch.nn.Dropout(0.5),
                torch.nn.Linear(128, target.shape[1]),
            )
            optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
            for _ in range(passes):
                for rows in torch.randperm(len(train), generator=generator).split(batch):  # type: ignore[no-untyped-call]
                    loss = torch.nn.functional.cross_entropy(network(inputs[rows]), wanted[rows])
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        network.eval()
        with torch.no_grad():
            scores += torch.log_softmax(network(torch.from_numpy(judged)), dim=1).numpy()
    mean = np.exp(scores / members)
    return np.asarray(mean / mean.sum(axis=1, keepdims=True))


WITNESSES: Final[dict[str, Witness]] = {"mlp": mlp, "xgboost": xgboost, "logistic": logistic}


def out_of_fold(witness: Witness, features: Features, target: Floats, folds: Ints, seed: int) -> Floats:
    """[clips, classes] probabilities of each clip by a witness that learned from the other folds only.

    Args:
        witness: the model.
        features: float32 [clips, features], scaled.
        target: [clips, classes] labels as distributions.
        folds: [clips].
        seed: of the models.
    """
    found = np.empty(target.shape)
    for fold in np.unique(folds):
        held = folds == fold
        found[held] = witness(features[~held], target[~held], features[held], seed)
    return found


def _two(positive: npt.NDArray[Any]) -> Floats:
    return np.stack([1.0 - positive, positive], axis=1).astype(np.float64)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
