"""Estimators of a share (or mean) of a finite frame from a probability sample of it.

A frame is all N clip-label rows; `proxy` f is a guess for every row, such as the ranking's quality. A wrong guess costs
precision, never validity. `intervals.from_variance` makes an interval of the estimates and variances returned here.

Sources: Cassel et al. 1976 and Sarndal (difference and GREG); Angelopoulos et al. 2023 (PPI, PPI++); Hajek 1964
(variance for fixed-size unequal-probability samples); Zrnic & Candes 2024 (active inference).
"""

from __future__ import annotations

import numpy as np

from acoustic_env.audit.intervals import Floats, Ints


def stratified(sizes: Floats, answers: Floats, right: Floats) -> tuple[float, float]:
    """Return the estimate sum W_h p_h and its variance.

    The variance is sum W_h^2 (1 - n_h/N_h) p~_h (1 - p~_h) / n_h with p~ = (k + 1/2) / (n + 1). A stratum
    without answers adds the widest it can: share 1/2, variance W_h^2 / 4.

    Args:
        sizes: [strata] rows N_h in the frame.
        answers: [strata] n_h, at most the rows drawn.
        right: [strata] right answers k_h, fractional where several votes were weighted.

    >>> estimate, variance = stratified(np.array([900.0, 100.0]), np.array([30.0, 10.0]), np.array([27.0, 2.0]))
    >>> round(estimate, 3), round(variance**0.5, 3)
    (0.83, 0.053)
    """
    n, answered = np.maximum(answers, 1.0), answers > 0
    smoothed = (right + 0.5) / (answers + 1.0)
    share = np.where(answered, right / n, 0.5)
    variance = np.where(answered, (1.0 - answers / sizes) * smoothed * (1.0 - smoothed) / n, 0.25)
    weight = sizes / sizes.sum()
    return float(weight @ share), float(weight**2 @ variance)


def stratified_ratio(numerator: Floats, denominator: Floats, strata: Ints, sizes: Floats) -> tuple[float, float]:
    """Return the ratio of two frame totals from a stratified sample, with its linearized variance.

    R = sum N_h mean_h(a) / sum N_h mean_h(b), variance sum N_h^2 (1 - n_h/N_h) var_h(a - R b) / n_h over the
    denominator's square (Cochran 1977, section 6.11). A share within a part of the frame that crosses strata is one:
    a = y 1[part], b = 1[part].

    Args:
        numerator: [n] a.
        denominator: [n] b.
        strata: [n] number of each answer's stratum.
        sizes: [strata] rows N_h in the frame.

    Returns:
        Estimate and variance; NaN and 0 when the denominator's total is 0. A stratum without answers is left out, one
        with a single answer adds no variance.

    >>> right, in_part = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    >>> share, variance = stratified_ratio(right, in_part, np.array([0, 0, 1, 1]), np.array([20.0, 60.0]))
    >>> round(share, 3), round(variance**0.5, 3)
    (0.8, 0.223)
    """
    answers = np.bincount(strata, minlength=len(sizes))
    weight = (sizes / np.maximum(answers, 1))[strata]
    total = float(weight @ denominator)
    if total == 0.0:
        return float("nan"), 0.0
    estimate = float(weight @ numerator) / total
    residual = numerator - estimate * denominator
    mean = np.bincount(strata, residual, len(sizes)) / np.maximum(answers, 1)
    squares = np.bincount(strata, (residual - mean[strata]) ** 2, len(sizes)) / np.maximum(answers - 1, 1)
    variance = sizes**2 * (1.0 - answers / sizes) * squares / np.maximum(answers, 1)
    return estimate, float(variance.sum()) / total**2


def difference(values: Floats, proxy: Floats, frame_mean: float, size: int) -> tuple[float, float]:
    """Return the regression (difference) estimate of the frame's mean from a simple random sample.

    lambda f_frame + mean(y - lambda f), lambda = Cov(y, f) / Var(f), variance (1 - n/N) Var(y - lambda f) / n.

    Args:
        values: [n] answers y.
        proxy: [n] proxy f of the same rows.
        frame_mean: mean of f over the frame.
        size: rows N of the frame.

    >>> answers, proxy = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.9, 0.8, 0.2, 0.7])
    >>> mean, variance = difference(answers, proxy, frame_mean=0.7, size=1000)  # the sample's mean proxy is 0.65
    >>> round(mean, 3), round(variance**0.5, 3)
    (0.828, 0.08)
    """
    n = len(values)
    spread = float(proxy.var(ddof=1)) if n > 2 else 0.0
    slope = float(np.cov(values, proxy)[0, 1]) / spread if spread > 0.0 else 0.0
    residuals = values - slope * proxy
    freedom = n - 2 if spread > 0.0 else n - 1
    variance = float(((residuals - residuals.mean()) ** 2).sum()) / max(freedom, 1) / n
    return slope * frame_mean + float(residuals.mean()), (1.0 - n / size) * variance


def ppi_plus_plus(
    values: Floats, proxy: Floats, unlabeled_mean: float, unlabeled_variance: float, unlabeled: int
) -> tuple[float, float]:
    """Return the prediction-powered estimate of a population mean from n answers and N further rows with a proxy only.

    lambda f_N + mean(y - lambda f), lambda = Cov(y, f) / ((1 + n/N) Var f),
    variance lambda^2 Var(f)/N + Var(y - lambda f)/n.

    Args:
        values: [n] answers y.
        proxy: [n] proxy f of the same rows.
        unlabeled_mean: mean of f over the N rows.
        unlabeled_variance: variance of f over the N rows.
        unlabeled: N.

    >>> answers, proxy = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.9, 0.8, 0.2, 0.7])
    >>> mean, variance = ppi_plus_plus(answers, proxy, unlabeled_mean=0.7, unlabeled_variance=0.07, unlabeled=996)
    >>> round(mean, 3), round(variance**0.5, 3)
    (0.857, 0.113)
    """
    n = len(values)
    pooled = (n * float(proxy.var()) + unlabeled * unlabeled_variance) / (n + unlabeled)
    covariance = float(np.cov(values, proxy)[0, 1]) if n > 1 else 0.0
    weight = covariance / ((1.0 + n / unlabeled) * pooled) if pooled > 0.0 else 0.0
    residuals = values - weight * proxy
    variance = weight**2 * unlabeled_variance / unlabeled + float(residuals.var(ddof=1)) / n
    return weight * unlabeled_mean + float(residuals.mean()), variance


def ratio(numerator: Floats, denominator: Floats, inclusion: Floats) -> tuple[float, float]:
    """Return the ratio of two frame totals, sum(a/pi) / sum(b/pi), with the linearized Hajek variance.

    A share within a part of the frame is a ratio: a = y 1[part], b = 1[part]; so are recall and precision.

    Args:
        numerator: [n] a.
        denominator: [n] b.
        inclusion: [n] inclusion probabilities.

    Returns:
        Estimate and variance; NaN and 0 when the denominator's total is 0.

    >>> answers, inclusion = np.array([1.0, 0.0, 1.0]), np.array([0.1, 0.5, 0.1])  # the wrong one stands for 2 rows
    >>> share, variance = ratio(answers, np.ones(3), inclusion)
    >>> round(share, 3), round(variance**0.5, 3)
    (0.909, 0.095)
    """
    total = float((denominator / inclusion).sum())
    if total == 0.0:
        return float("nan"), 0.0
    estimate = float((numerator / inclusion).sum()) / total
    return estimate, hajek_variance((numerator - estimate * denominator) / inclusion, inclusion) / total**2


def hajek_variance(expanded: Floats, inclusion: Floats) -> float:
    """Return Hajek's approximate variance of sum(expanded) in a fixed-size unequal-probability design.

    >>> hajek_variance(np.array([10.0, 0.0, 10.0, 0.0]), np.full(4, 0.1)), hajek_variance(np.ones(4), np.ones(4))
    (120.0, 0.0)
    """
    n = len(expanded)
    slack = 1.0 - inclusion
    if n < 2 or slack.sum() <= 0.0:
        return 0.0
    center = float((slack * expanded).sum() / slack.sum())
    return float((slack * (expanded - center) ** 2).sum()) * n / (n - 1)
