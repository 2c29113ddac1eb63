"""Confident learning: the labels that confident predictions contradict, and the joint of given and likely
labels (Northcutt, Jiang & Chuang 2021, JAIR 70).

The joint is no error rate: of errors on ambiguous clips it misses more than half.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from acoustic_env.audit.intervals import Floats

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def class_thresholds(given: Ints, probabilities: Floats) -> Floats:
    """Return [K] the mean of P(class k) over the clips given k; 1 for a class without clips."""
    classes = probabilities.shape[1]
    counts = np.bincount(given, minlength=classes)
    own = np.bincount(given, weights=probabilities[np.arange(len(given)), given], minlength=classes)
    return np.where(counts > 0, own / np.maximum(counts, 1), 1.0)


def confident_class(given: Ints, probabilities: Floats) -> Ints:
    """Return [clips] the likeliest class among those that reach their threshold; -1 where none does."""
    above = np.where(probabilities >= class_thresholds(given, probabilities) - 1e-6, probabilities, -1.0)
    chosen: Ints = above.argmax(axis=1)
    return np.where(above.max(axis=1) >= 0.0, chosen, -1)


def confident_joint(given: Ints, probabilities: Floats) -> Floats:
    """Return [K, K] the share of clips given i that are confidently k; calibrated to the counts given, sums to 1.

    Rows are given labels. A class in which nothing is confident stays on the diagonal.
    """
    classes = probabilities.shape[1]
    likely = confident_class(given, probabilities)
    kept = likely >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[kept], likely[kept]), 1.0)
    empty = joint.sum(axis=1) == 0
    joint[empty, empty] = 1.0
    counts = np.bincount(given, minlength=classes)
    calibrated = joint / joint.sum(axis=1, keepdims=True) * counts[:, None]
    return np.asarray(calibrated / calibrated.sum())


def confident_flags(given: Ints, probabilities: Floats) -> Bools:
    """Return [clips] whether the clip is confidently of another class, likelier than the given one."""
    likely = confident_class(given, probabilities)
    rows = np.arange(len(given))
    better = probabilities[rows, np.maximum(likely, 0)] > probabilities[rows, given]
    flags: Bools = (likely >= 0) & (likely != given) & better
    return flags
