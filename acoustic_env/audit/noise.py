"""Identities of label noise for two classes: each function is one closed form, exact for exact inputs.

Notation: Y the true label, G the given label, P a prediction. Contamination is what annotation measures,
alpha = P(Y=0 | G=1) and beta = P(Y=1 | G=0); flip rates, P(G=0 | Y=1) and P(G=1 | Y=0), are other numbers. The
correction holds only if P and G are independent given Y and every true label is in the vocabulary; `audit.adjusted`
decides whether its result may be shown. Nothing here divides by a label accuracy.

Sources: Menon et al. 2015 (ICML 37:125-134); Lam & Stork 2003 (bounds).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contamination:
    """Share of given labels that are wrong, by given class, each in [0, 1].

    Attributes:
        alpha: P(Y=0 | G=1).
        beta: P(Y=1 | G=0).

    >>> round(Contamination(alpha=0.16, beta=0.36).information, 2)
    0.48
    """

    alpha: float
    beta: float

    @property
    def information(self) -> float:
        """1 - alpha - beta, the factor by which noise shrinks AUC - 1/2; 0 for labels without information."""
        return 1.0 - self.alpha - self.beta


def label_accuracy(contamination: Contamination, prior_given: float) -> float:
    """Return P(G = Y) = (1 - alpha) P(G=1) + (1 - beta) P(G=0), with `prior_given` = P(G=1).

    >>> round(label_accuracy(Contamination(0.16, 0.36), 0.5), 2)
    0.74
    """
    return (1.0 - contamination.alpha) * prior_given + (1.0 - contamination.beta) * (1.0 - prior_given)


def adjusted_auc(auc: float, contamination: Contamination) -> float:
    """Return the AUC against true labels from the AUC against given ones; above 1 when the assumption is broken.

    P(score | Y=1 above score | Y=0) = 1/2 + (AUC - 1/2) / (1 - alpha - beta). The same identity turns balanced accuracy
    against given labels into balanced accuracy against true ones.

    Raises:
        ValueError: labels without information (alpha + beta = 1).

    >>> round(adjusted_auc(0.766, Contamination(0.16, 0.36)), 3)
    1.054
    """
    if abs(contamination.information) < 1e-12:
        msg = f"alpha + beta = 1 (alpha {contamination.alpha:g}): the given labels hold no information about the truth"
        raise ValueError(msg)
    return 0.5 + (auc - 0.5) / contamination.information


def frechet_bounds(agreement: float, accuracy_of_labels: float) -> tuple[float, float]:
    """Return the range of P(P = Y), whatever the dependence, from A = P(P = G) and B = P(G = Y), for two classes.

    [|A + B - 1|, 1 - |A - B|]: two wrongs make a right.

    >>> frechet_bounds(0.75, 0.5)
    (0.25, 0.75)
    """
    return abs(agreement + accuracy_of_labels - 1.0), 1.0 - abs(agreement - accuracy_of_labels)
