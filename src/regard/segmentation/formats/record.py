"""What all formats are made from: the masks of one image, and how they are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from regard.masks import Mask

UNNAMED = "object"  # the class of masks that nobody named


class ImageMasks(NamedTuple):
    """The masks of one image.

    image: its name, POSIX, below the folder that all images share; height, width: in pixels, upright.
    """

    image: str
    height: int
    width: int
    masks: tuple[Mask, ...]


def class_names(found: Iterable[str], known: Sequence[str] = ()) -> tuple[str, ...]:
    """The classes of a data set: those `known` in their order, then others that were found, sorted; `UNNAMED` last,
    where there are masks without a name, or none at all.

    found: the names of masks, "" for those without.
    """
    names = set(found)
    others = sorted(names - {*known, "", UNNAMED})
    listed = (*dict.fromkeys(known), *others)
    unnamed = bool(names & {"", UNNAMED}) or not listed
    return (*listed, UNNAMED) if unnamed and UNNAMED not in listed else listed


def class_of(mask: Mask) -> str:
    """The class that a mask is of."""
    return mask.name or UNNAMED
