"""What follows when clips are the same recording: links, groups that belong in one fold, contradictions.

Whatever is linked, over any number of links, is one group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Link:
    """One pair of duplicates.

    Attributes:
        first, second: clip numbers, first < second.
        kind: exact (the same samples), scaled (the same up to gain and silence around) or near.
        lag_s: second of the first at which the second starts; None where it is not known.
        correlation: of the log band energies; 1 for exact.
    """

    first: int
    second: int
    kind: str
    lag_s: float | None
    correlation: float


def same_digest(digests: Sequence[bytes]) -> list[tuple[int, int]]:
    """Links of every clip to the first one with its digest; empty digests are nobody's."""
    first: dict[bytes, int] = {}
    links = []
    for number, digest in enumerate(digests):
        if digest and first.setdefault(digest, number) != number:
            links.append((first[digest], number))
    return links


def components(count: int, links: Sequence[tuple[int, int]]) -> Ints:
    """[count] the smallest member of the component of each (union-find with path halving)."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for one, other in links:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(item) for item in range(count)], np.int64)


def merged_groups(groups: Sequence[str], links: Sequence[tuple[int, int]]) -> list[str]:
    """The clips' groups with linked ones made one; a merged group has the name its first clip had.

    Args:
        groups: [clips] of the clip list.
        links: pairs of clip numbers.
    """
    first: dict[str, int] = {}
    chained = [(first.setdefault(name, number), number) for number, name in enumerate(groups)]
    return [groups[root] for root in components(len(groups), [*chained, *links]).tolist()]


def spanning_links(count: int, links: Sequence[Link]) -> dict[int, Link]:
    """Clip -> the confirmed link by which it hangs on its set's first clip, over as few links as possible."""
    of: list[list[Link]] = [[] for _ in range(count)]
    for link in links:
        of[link.first].append(link)
        of[link.second].append(link)
    hangs: dict[int, Link] = {}
    seen = np.zeros(count, np.bool_)
    for start in range(count):
        if seen[start] or not of[start]:
            continue
        seen[start] = True
        waiting = deque([start])
        while waiting:
            clip = waiting.popleft()
            for link in sorted(of[clip], key=lambda one: (-one.correlation, one.first, one.second)):
                other = link.second if link.first == clip else link.first
                if not seen[other]:
                    seen[other] = True
                    hangs[other] = link
                    waiting.append(other)
    return hangs


def disagreeing(sets: Sequence[Sequence[int]], values: Sequence[object]) -> list[Sequence[int]]:
    """The sets whose members differ in a value (fold, source, labels); members with None take no part."""
    return [members for members in sets if len({values[clip] for clip in members if values[clip] is not None}) > 1]


def joined_folds(groups: Sequence[str], folds: Sequence[int | None]) -> list[int | None]:
    """The folds with every group in one: that of most of its clips, the lower one when even. None stays None."""
    count: dict[str, dict[int, int]] = {}
    for group, fold in zip(groups, folds, strict=True):
        if fold is not None:
            of = count.setdefault(group, {})
            of[fold] = of.get(fold, 0) + 1
    chosen = {group: min(of, key=lambda fold: (-of[fold], fold)) for group, of in count.items()}
    return [None if fold is None else chosen[group] for group, fold in zip(groups, folds, strict=True)]
