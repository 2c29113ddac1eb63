"""Links between clips of the same recording, the groups and folds they join, and contradictions.

Whatever is linked, over any number of links, is one group.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Link:
    """One pair of duplicates."""

    first: int  # clip numbers, first < second
    second: int
    kind: str  # exact (the same samples), scaled (the same up to gain and silence around) or near
    lag_s: float | None  # second of the first at which the second starts; None where it is not known
    correlation: float  # of the log band energies; 1 for exact


def same_value(values: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Link every clip to the first one with its value (digest, group); empty ones are excluded."""
    first: dict[Hashable, int] = {}
    every = [(first.setdefault(value, number), number) for number, value in enumerate(values) if value]
    return [(earlier, number) for earlier, number in every if earlier != number]


def components(count: int, links: Sequence[tuple[int, int]]) -> Ints:
    """Return [count] the smallest member of the component of each.

    >>> components(4, [(3, 1)])
    array([0, 1, 2, 1])
    """
    if not links:
        return np.arange(count)
    ends = np.array(links).T
    graph = sparse.coo_array((np.ones(len(links)), (ends[0], ends[1])), shape=(count, count))
    _, component = csgraph.connected_components(graph, directed=False)
    return np.unique(component, return_index=True)[1][component]


def merged_groups(groups: Sequence[str], links: Sequence[tuple[int, int]]) -> list[str]:
    """Merge the groups [clips] of linked clip numbers; a merged group has the name its first clip had."""
    return [groups[root] for root in components(len(groups), [*same_value(groups), *links]).tolist()]


def spanning_links(links: Sequence[Link]) -> dict[int, Link]:
    """Return clip -> the confirmed link towards its set's first clip, over as few links as possible."""
    of: dict[int, list[Link]] = {}
    for link in sorted(links, key=lambda one: (-one.correlation, one.first, one.second)):
        for clip in (link.first, link.second):
            of.setdefault(clip, []).append(link)
    towards: dict[int, Link | None] = {}
    for start in sorted(of):
        waiting = deque([start] if towards.setdefault(start, None) is None else [])
        while waiting:
            clip = waiting.popleft()
            for link in of[clip]:
                other = link.first + link.second - clip
                if other not in towards:
                    towards[other] = link
                    waiting.append(other)
    return {clip: link for clip, link in towards.items() if link is not None}


def disagreeing(sets: Sequence[Sequence[int]], values: Sequence[object]) -> list[Sequence[int]]:
    """Return the sets whose members differ in a value (fold, source, labels); None is ignored."""
    return [members for members in sets if len({values[clip] for clip in members if values[clip] is not None}) > 1]


def joined_folds(groups: Sequence[str], folds: Sequence[int | None]) -> list[int | None]:
    """Move every group into one fold: that of most of its clips, the lower one when even. None stays None.

    >>> joined_folds(["a", "a", "a", "b"], [1, 0, 1, None])
    [1, 1, 1, None]
    """
    count: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for group, fold in zip(groups, folds, strict=True):
        if fold is not None:
            count[group][fold] += 1
    chosen = {group: min(of, key=lambda fold: (-of[fold], fold)) for group, of in count.items()}
    return [None if fold is None else chosen[group] for group, fold in zip(groups, folds, strict=True)]
