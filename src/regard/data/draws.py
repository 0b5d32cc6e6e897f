"""Draws that depend on names alone: images are ordered by a hash of (purpose, id), and bundles stay whole.

A bundle is a set of rows that may not be divided: one image, near-duplicates, the images of one group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from regard.data.groups import connected, rows_of_groups

if TYPE_CHECKING:
    from regard.data.sources import ImageSet


def draw_key(purpose: str, ids: Iterable[str]) -> bytes:
    """Where a bundle stands in the order of a purpose: by its smallest id."""
    return hashlib.blake2b(f"{purpose}\0{min(ids)}".encode(), digest_size=8).digest()


def bundles_of(images: ImageSet, groups: Iterable[Sequence[str]] = ()) -> list[np.ndarray]:
    """All rows in bundles: those of one of the set's own groups or of one of `groups` (ids; unknown ones are skipped).

    Where groups overlap, their union is one bundle.
    """
    number = {id_: row for row, id_ in enumerate(images.ids)}
    together = [*rows_of_groups(images.groups).values()]
    together += [[number[id_] for id_ in group if id_ in number] for group in groups]
    pairs = [(rows[0], row) for rows in together for row in rows[1:]]
    joined = connected(np.array(pairs, dtype=np.int64).reshape(-1, 2), len(images))
    alone = np.ones(len(images), dtype=bool)
    for bundle in joined:
        alone[list(bundle)] = False
    return [*(np.array(bundle) for bundle in joined), *np.flatnonzero(alone)[:, None]]


def together(images: ImageSet, groups: Iterable[Sequence[str]] = ()) -> tuple[tuple[str, ...], ...]:
    """Ids of the images that belong together, two or more each: bundles as in `bundles_of`."""
    return tuple(tuple(images.ids[row] for row in rows) for rows in bundles_of(images, groups) if len(rows) > 1)


def bundles_by_stratum(
    images: ImageSet, rows: np.ndarray, bundles: Iterable[np.ndarray], purpose: str
) -> dict[int, list[np.ndarray]]:
    """Bundles cut down to `rows`, under the stratum that most of their images have, in the order of the purpose."""
    labels = images.strata
    inside = np.zeros(len(images), dtype=bool)
    inside[rows] = True
    strata: dict[int, list[np.ndarray]] = {}
    for bundle in bundles:
        present = bundle[inside[bundle]]
        if len(present):
            stratum = labels[present[0]] if len(present) == 1 else np.bincount(labels[present]).argmax()
            strata.setdefault(int(stratum), []).append(present)
    for stratum in strata.values():
        stratum.sort(key=lambda bundle: draw_key(purpose, (images.ids[row] for row in bundle)))
    return dict(sorted(strata.items()))


def cut(images: ImageSet, rows: np.ndarray, bundles: list[np.ndarray], share: float, purpose: str) -> np.ndarray:
    """A stratified share of the rows, sorted, in whole bundles.

    Each stratum gives its quota as nearly as whole bundles allow, and keeps at least one bundle. A class or a label
    gives at least one image, a bin of numbers need not. Where labels are several or numbers, what strata of single
    bundles could not give comes from the others; classes are never left without training images for that.
    """
    strata = bundles_by_stratum(images, rows, bundles, purpose)
    least = 0 if images.problem == "regression" else 1
    quotas = _quotas({label: sum(map(len, stratum)) for label, stratum in strata.items()}, share, least)
    taken = [bundle for label, stratum in strata.items() for bundle in _fill(stratum, quotas[label])]
    if images.problem != "single_label":
        chosen = {bundle[0] for bundle in taken}
        rest = [bundle for stratum in strata.values() for bundle in stratum if bundle[0] not in chosen]
        rest.sort(key=lambda bundle: draw_key(purpose, (images.ids[row] for row in bundle)))
        missing = int(share * len(rows) + 0.5) - sum(map(len, taken))
        taken += _fitting(rest, missing) if taken else _fill(rest, missing)
    return np.sort(np.concatenate(taken)) if taken else np.empty(0, dtype=np.int64)


def _quotas(counts: dict[int, int], share: float, least: int) -> dict[int, int]:
    """Images per stratum that add up to the share of all (largest remainders); of two or more at least `least`."""
    exact = {label: share * count for label, count in counts.items()}
    quotas = {label: int(value) for label, value in exact.items()}
    missing = int(sum(exact.values()) + 0.5) - sum(quotas.values())
    for label in sorted(exact, key=lambda label: (quotas[label] - exact[label], label))[:missing]:
        quotas[label] += 1
    return {label: max(quotas[label], least) if counts[label] > 1 else 0 for label in counts}


def _fill(stratum: list[np.ndarray], quota: int) -> list[np.ndarray]:
    """Bundles that come nearest to the quota, or the smallest where all are too large; one is always left."""
    taken = _fitting(stratum, quota)
    if not taken and quota and len(stratum) > 1:
        taken = [min(stratum, key=len)]
    return taken


def _fitting(stratum: list[np.ndarray], quota: int) -> list[np.ndarray]:
    """Bundles that, taken in order, come nearest to the quota; one is always left."""
    taken: list[np.ndarray] = []
    missing = quota
    for bundle in stratum:
        if len(taken) < len(stratum) - 1 and len(bundle) < 2 * missing:
            taken.append(bundle)
            missing -= len(bundle)
    return taken


def deal(images: ImageSet, bundles: list[np.ndarray], hands: int, purpose: str) -> list[np.ndarray]:
    """All rows dealt into `hands` parts of nearly the same size and strata, in whole bundles, sorted.

    Stratum by stratum, the largest bundles first, each goes where its stratum has the fewest images so far, and of
    those to the smallest part. No part stays empty where there are bundles enough.
    """
    parts: list[list[int]] = [[] for _ in range(hands)]
    for stratum in bundles_by_stratum(images, np.arange(len(images)), bundles, purpose).values():
        given = [0] * hands
        for bundle in sorted(stratum, key=len, reverse=True):
            hand = min(range(hands), key=lambda hand: (given[hand], len(parts[hand])))
            given[hand] += len(bundle)
            parts[hand] += bundle.tolist()
    return [np.array(sorted(part), dtype=np.int64) for part in parts]
