"""Which images belong together: by what their ids have in common, and by links between rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from regard.errors import RegardError


def connected(pairs: np.ndarray, count: int) -> tuple[tuple[int, ...], ...]:
    """Rows out of `count` that pairs (E, 2) connect, in sorted groups of two or more."""
    if not count:
        return ()
    links = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return tuple(sorted(tuple(group.tolist()) for group in groups if len(group) > 1))


def rows_of_groups(groups: Sequence[str]) -> dict[str, list[int]]:
    """group -> its rows, in order of first occurrence."""
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return rows


def groups_by_pattern(name: str, ids: Sequence[str], pattern: str, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """The group of each id: the pattern's first parenthesis, else all that it matches, wherever in the id.

    name, columns: of the data set, for the error where the pattern is none or leaves an id without a group.
    """
    known = f"; columns: {', '.join(columns)}" if columns else ""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise RegardError(
            f"--group {pattern}: neither a column of {name} nor a regular expression ({error}){known}"
        ) from None
    found = []
    missed = []
    for id_ in ids:
        match = expression.search(id_)
        text = (match.group(1) if expression.groups else match.group()) if match else None
        found.append(text or "")
        if not text:
            missed.append(id_)
    if missed:
        what = "no column of that name, and as a pattern it" if columns else "it"
        raise RegardError(
            f"--group {pattern}: {what} finds a group in {len(ids) - len(missed):,} of {len(ids):,} ids of {name} "
            f"(not in {missed[0]!r}, for example); every image needs one{known}"
        )
    return tuple(found)


def describe_groups(groups: Sequence[str], origin: str) -> str:
    """One line: how many groups there are, how large, and where they come from."""
    sizes = Counter(groups).values()
    if max(sizes) == 1:
        return f"groups: every image is a group of its own by {origin}, so nothing is kept together"
    span = f"{min(sizes):,} to {max(sizes):,}" if min(sizes) < max(sizes) else f"{max(sizes):,}"
    return f"groups: {len(sizes):,} by {origin}, of {span} images; each stays on one side of every cut"
