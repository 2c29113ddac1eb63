"""Combine the answers of several annotators into one probability per row, the same for all commands.

* The last answer of an annotator replaces that annotator's earlier ones on the same row, never another annotator's.
* Where annotators answered the same rows, their answers are weighed by Dawid-Skene, fitted to the whole file; an
  annotator who errs more counts less.
* A gold row is known: its truth trains the weights, and no majority overrules it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from acoustic_env.audit.annotations import latest, vote_table
from acoustic_env.audit.table import fill_columns, key_pairs
from acoustic_env.audit.votes import dawid_skene

Key = tuple[str, str]


@dataclass(frozen=True)
class RowConsensus:
    """The combined answers to one row.

    Attributes:
        applies: probability in [0, 1] that the label applies; None when every answer is unsure.
        votes: "annotator: answer", sorted by annotator; "gold: right" or "gold: wrong" first where the truth is known.
        gold: whether the truth was known beforehand.
    """

    applies: float | None
    votes: list[str]
    gold: bool = False

    @property
    def answered(self) -> bool:
        """Whether an annotator answered, rather than the truth alone being known."""
        return len(self.votes) > int(self.gold)


def consensus(annotations: pa.Table | None, gold: Mapping[Key, bool]) -> dict[Key, RowConsensus]:
    """Return the combined answers to every (clip_id, label) that has an answer or a known truth, sorted by key.

    Args:
        annotations: from `check_annotations`, all of them; answers to repeated rows only check an annotator and are
            left out. None for no annotations.
        gold: from `gold_truths`.

    >>> row = {"label": "rain", "role": "sample", "time_utc": 1}
    >>> answers = [row | {"clip_id": "a", "annotator": "Ada", "answer": "right"},
    ...            row | {"clip_id": "b", "annotator": "Ada", "answer": "unsure"}]
    >>> found = consensus(pa.Table.from_pylist(answers), gold={("c", "rain"): False})
    >>> [(key[0], row.applies, row.votes) for key, row in found.items()]
    [('a', 1.0, ['Ada: right']), ('b', None, ['Ada: unsure']), ('c', 0.0, ['gold: wrong'])]
    """
    if annotations is None:
        return {key: RowConsensus(float(gold[key]), [_gold_vote(gold[key])], True) for key in sorted(gold)}
    answers = _last_of_each(annotations)
    given: dict[Key, list[str]] = {key: [_gold_vote(truth)] for key, truth in gold.items()}
    by_annotator = answers.sort_by([("annotator", "ascending")])
    said = (by_annotator[name].to_pylist() for name in ("annotator", "answer"))
    for key, annotator, answer in zip(key_pairs(by_annotator), *said, strict=True):
        given.setdefault(key, []).append(f"{annotator}: {answer}")
    keys = sorted(given)
    votes = vote_table(answers, keys).votes
    known = np.array([int(gold.get(key, -1)) for key in keys], dtype=np.int64)
    if ((votes >= 0).sum(axis=1) >= 2).any():
        applies = dawid_skene(votes, 2, known).posterior[:, 1]
    else:
        applies = np.where(known >= 0, known, votes.max(axis=1, initial=-1)).astype(np.float64)
    sure = (votes >= 0).any(axis=1) | (known >= 0)
    return {
        key: RowConsensus(float(applies[row]) if sure[row] else None, given[key], bool(known[row] >= 0))
        for row, key in enumerate(keys)
    }


def gold_truths(sample: pa.Table | None) -> dict[Key, bool]:
    """Return whether the label applies for every gold row of a sample; nothing without a sample.

    >>> rows = {"clip_id": ["a", "b"], "label": ["rain", "rain"], "role": ["gold", "sample"], "truth": ["wrong", None]}
    >>> gold_truths(pa.table(rows))
    {('a', 'rain'): False}
    """
    if sample is None or "truth" not in sample.column_names:
        return {}
    rows = sample.filter(pc.equal(sample["role"], "gold"))
    return {key: truth == "right" for key, truth in zip(key_pairs(rows), rows["truth"].to_pylist(), strict=True)}


def _last_of_each(annotations: pa.Table) -> pa.Table:
    """Return the last answer of each annotator to each row, whether it was shown as a sampled or as a gold row."""
    answers = annotations.filter(pc.not_equal(annotations["role"], "repeat"))
    return latest(fill_columns(answers, role="sample"))


def _gold_vote(applies: bool) -> str:
    return f"gold: {'right' if applies else 'wrong'}"
