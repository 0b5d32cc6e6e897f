"""The images that figures are measured on: found, thinned out to a limit, decoded once for each model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent

if TYPE_CHECKING:
    from torch import Tensor

    from regard.data.transforms import Preprocess
    from regard.inference.loaded import LoadedModel

NAMED = 5  # unreadable photos named in a note


@dataclass(frozen=True)
class Shown:
    """N images. labels: (N,) int64 into `classes`, None where nothing says them; pixels: by preprocessing, decoded."""

    ids: tuple[str, ...]
    sources: Sequence[Any]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    pixels: dict[Preprocess, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, loaded: LoadedModel, batch_size: int, most: int | None = None) -> Iterator[Tensor]:
        """(B, 3, S, S) normalised, on the CPU, of the first `most`, or of all."""
        preprocess = loaded.preprocess
        if preprocess not in self.pixels:
            import torch

            self.pixels[preprocess] = torch.stack([preprocess.pixels(source) for source in self.sources])
        for part in self.pixels[preprocess][:most].split(batch_size):
            yield preprocess.normalise(part)


def find(images: Any, limit: int) -> Shown:
    """The images that the user names, no more than `limit` of them, evenly spread over what there is.

    Of class folders, a table or a data set by name the classes are known; images may also lie in memory. Raises
    RegardError for what does not exist.
    """
    if limit < 1:
        raise RegardError(f"limit={limit}: expected at least 1 image")
    named = [images] if isinstance(images, str | Path) else images
    if not len(named):
        return Shown((), ())
    if not all(isinstance(one, str | Path) for one in named):
        from regard.inference.loaded import named_images

        found = Shown(*named_images(images))
    else:
        found = _listed(named)
    if len(found) <= limit:
        return found
    step = len(found) / limit
    rows = [math.floor((number + 0.5) * step) for number in range(limit)]
    return _select(found, rows)


def _listed(named: Sequence[str | Path]) -> Shown:
    from regard.data.sources import list_photos, open_images
    from regard.data.tables import TABLE_SUFFIXES

    if len(named) == 1:
        path = Path(named[0])
        by_name = not path.exists() and (str(path) == "digits" or str(path).startswith("torchvision:"))
        if by_name or (path.is_file() and path.suffix.lower() in TABLE_SUFFIXES):
            return _labelled(open_images(named[0]))
        if path.is_dir():
            try:
                return _labelled(open_images(path))
            except RegardError:  # photos without class folders
                pass
    return Shown(*list_photos(named))


def _labelled(images: Any) -> Shown:
    single = images.problem == "single_label"
    return Shown(images.ids, images.sources, images.labels if single else None, images.classes if single else ())


def _select(shown: Shown, rows: Sequence[int]) -> Shown:
    return replace(
        shown,
        ids=tuple(shown.ids[row] for row in rows),
        sources=[shown.sources[row] for row in rows],
        labels=None if shown.labels is None else shown.labels[np.asarray(rows, np.int64)],
        pixels={},
    )


def readable(shown: Shown, loaded: LoadedModel, on_event: OnEvent) -> Shown:
    """Those that can be read, decoded for this model; the others are named. Raises RegardError where none can."""
    import torch

    from regard.inference.rows import decoded_batches

    rows, parts, errors = [], [], []
    start = 0
    for decoded in decoded_batches(shown.sources, loaded.preprocess, 32):
        rows += [start + place for place in decoded.good]
        parts.append(decoded.pixels)
        errors += decoded.errors.values()
        start += len(decoded)
    if not rows:
        raise RegardError(f"images: none of {len(shown):,} can be read (first: {errors[0]})")
    for error in errors[:NAMED]:
        on_event({"event": "note", "text": f"left out: {error}"})
    if len(errors) > NAMED:
        on_event({"event": "note", "text": f"left out: {len(errors) - NAMED:,} more that cannot be read"})
    kept = _select(shown, rows) if errors else shown
    return replace(kept, pixels={loaded.preprocess: torch.cat(parts)})
