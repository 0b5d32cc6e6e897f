"""`regard check --suspects`: a worklist of labels that are likely wrong, as a table and as a page of photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regard.errors import RegardError
from regard.results import Finding
from regard.verbs.events import OnEvent
from regard.verbs.tables import atomic_file, table_writer

if TYPE_CHECKING:
    from regard.data.sources import ImageSet
    from regard.inference.loaded import LoadedModel
    from regard.reporting.records import Suspect

# Published backbones whose features are used where their weights are on this machine already, the best first.
BACKBONES = (
    "vit_base_patch16_224",
    "vit_small_patch16_224",
    "resnet50",
    "resnet34",
    "resnet18",
    "vit_tiny_patch16_224",
)
COLUMNS: dict[str, type] = {"id": str, "given": str, "suggested": str, "confidence": float}


def write_worklist(
    images: ImageSet, unreadable: frozenset[str], out: Path, weights: str | Path | None, on_event: OnEvent
) -> Finding:
    """Write OUT.csv (id, given, suggested, confidence; the surest first) and OUT.html with the photos.

    The labels are disputed by a head on frozen features, each photo judged by heads that were fitted without it
    (`comparison.suspects`). Of several labels each is disputed by itself. weights: a file of published weights for the
    features; else those of BACKBONES in the cache; else HOG, which needs no weights and finds less. Raises RegardError
    for numbers, and where the disk refuses.
    """
    from regard.comparison.classical import Reference
    from regard.comparison.details import pixels_of
    from regard.inference.features import default_cache, extract_features
    from regard.reporting.worklist import render_worklist

    if images.problem == "regression":
        raise RegardError(f"{images.name}: its labels are numbers; --suspects looks for wrong classes or labels")
    rows = np.array([row for row, id_ in enumerate(images.ids) if id_ not in unreadable], dtype=np.int64)
    loaded = backbone(images, weights, on_event)
    body = loaded.name if loaded else "histograms of gradients (HOG, no weights at hand)"
    source = f"Disputed by a head on frozen features of {body}, out of fold"
    on_event({"event": "note", "text": source})
    if loaded is not None:
        features = extract_features(loaded, images, rows, (0,), default_cache(), on_event=on_event)[0]
    else:
        features = Reference(images.select(rows), on_event=on_event).features
    found = disputes(images, rows, features)
    with table_writer(out, COLUMNS) as write:
        for one in found:
            write({"id": one.id, "given": one.given, "suggested": one.suggested, "confidence": one.confidence})
    page = out.with_suffix(".html")
    with atomic_file(page) as beside:
        text = render_worklist(images.name, source, found, pixels_of(images))
        beside.write_bytes(text.encode("utf-8", "backslashreplace"))
    return Finding(
        "suspect",
        "note",
        f"{len(found):,} of {len(rows):,} photos have a label that a head on the other photos disputes: {out}, {page}",
        tuple(one.id for one in found),
    )


def disputes(images: ImageSet, rows: np.ndarray, features: np.ndarray) -> list[Suspect]:
    """Disputed labels of these rows, the surest first; features (N, D) in the order of the rows."""
    from regard.comparison.suspects import suspects

    ids = [images.ids[row] for row in rows]
    if images.problem == "single_label":
        return list(suspects(ids, features, images.labels[rows], images.classes, most=None))
    found: list[Suspect] = []
    for place, name in enumerate(images.classes):
        column = images.labels[rows, place]
        known = np.flatnonzero(~np.isnan(column))
        labels = column[known].astype(np.int64)
        names = (f"not {name}", name)
        found += suspects([ids[row] for row in known], features[known], labels, names, most=None)
    return sorted(found, key=lambda one: -one.confidence)


def backbone(images: ImageSet, weights: str | Path | None, on_event: OnEvent) -> LoadedModel | None:
    """The frozen model whose features judge: of a weight file, or of the cache; None where there is neither."""
    from regard.verbs.prepare import load_aloud
    from regard.weights import cached, convert, find_checkpoint, read_state
    from regard.weights.load import fitting_model

    if weights is not None:
        name = fitting_model(convert(read_state(weights), path=weights))
        if name is None:
            raise RegardError(f"{weights}: weights of no model that regard knows; give those of a published one")
        return load_aloud(name, on_event, weights, images.classes)
    for name in BACKBONES:
        if cached(find_checkpoint(name)) is not None:
            return load_aloud(name, on_event, None, images.classes)
    return None
