"""Classifiers as scorers: quick, strongly regularized, so hard to convince by a single label."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

if TYPE_CHECKING:
    import torch

    from acoustic_env.audit.scorers import Bools, Features, LabeledClips

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


def logistic(train: Features, target: Floats, judged: Features, seed: int, exclusive: bool) -> Floats:
    """Ridge logistic regressions, all labels together, or softmax regression of three classes or more."""
    from scipy.special import expit, softmax

    from acoustic_env.models.classifiers.logistic import fit_weights
    from acoustic_env.models.sigmoids import fit_sigmoids

    if exclusive and target.shape[1] > 2:
        weights = fit_weights(train, target.astype(np.float32), "multiclass", PENALTY).astype(np.float32)
        return np.asarray(softmax((judged @ weights[:-1] + weights[-1]).astype(np.float64), axis=1))
    labels = fit_sigmoids(train, target[:, 1:] if exclusive else target, PENALTY)
    positive = expit((judged @ labels[:-1] + labels[-1]).astype(np.float64))
    return _two(positive[:, 0]) if exclusive else np.asarray(positive)


def xgboost(train: Features, target: Floats, judged: Features, seed: int, exclusive: bool) -> Floats:
    """Shallow boosted trees of the classes, or of one label after the other.

    On many rows the trees take turns on random parts of them, so that a tree costs the same however many there are.
    """
    if not exclusive:
        labels = [_two(column) for column in target.T]
        return np.stack([xgboost(train, label, judged, seed, True)[:, 1] for label in labels], axis=1)
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


def mlp(train: Features, target: Floats, judged: Features, seed: int, exclusive: bool) -> Floats:
    """One hidden layer of 128 for all classes, with half of inputs and units dropped; two members on small sets."""
    import torch
    from scipy.special import expit, softmax

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
                    loss = _mlp_loss(network(inputs[rows]), wanted[rows], exclusive)
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        network.eval()
        with torch.no_grad():
            scores += network(torch.from_numpy(judged)).numpy()
    mean = scores / members
    return np.asarray(softmax(mean, axis=1) if exclusive else expit(mean))


def _mlp_loss(scores: torch.Tensor, wanted: torch.Tensor, exclusive: bool) -> torch.Tensor:
    from torch.nn import functional

    if exclusive:
        return functional.cross_entropy(scores, wanted)
    return functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum") / len(wanted)


def score_by_logistic(clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Score by ridge logistic regression."""
    x, y = clips.features, clips.target
    return logistic(x[train], y[train], x[held_out], clips.seed, clips.exclusive)


def score_by_xgboost(clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Score by boosted trees."""
    x, y = clips.features, clips.target
    return xgboost(x[train], y[train], x[held_out], clips.seed, clips.exclusive)


def score_by_mlp(clips: LabeledClips, train: Bools, held_out: Bools) -> Floats:
    """Score by a small network."""
    x, y = clips.features, clips.target
    return mlp(x[train], y[train], x[held_out], clips.seed, clips.exclusive)


def _two(positive: npt.NDArray[Any]) -> Floats:
    return np.stack([1.0 - positive, positive], axis=1).astype(np.float64)


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
