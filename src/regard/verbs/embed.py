"""`regard embed`: images as the vectors that a model's last layer reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud
from regard.verbs.tables import atomic_file

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.loaded import LoadedModel

FORMATS = (".npy", ".npz", ".parquet")


@dataclass(frozen=True)
class Embeddings:
    """Vectors (N, D) float32 in the order of `ids`; `skipped` photos could not be read and have no vector."""

    model: str
    ids: tuple[str, ...]
    vectors: np.ndarray
    skipped: tuple[str, ...]
    out: Path | None

    def lines(self) -> Iterator[str]:
        """How many vectors went where."""
        where = f" in {self.out}" if self.out else ""
        count, size = self.vectors.shape
        yield f"{count:,} vectors of {size} numbers{where}, {len(self.skipped):,} unreadable"


def embed(
    model: str | Path | LoadedModel | nn.Module,
    photos: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    batch_size: int = 32,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    on_event: OnEvent = silent,
) -> Embeddings:
    """Turn images into feature vectors.

    A vector is what the model's last layer multiplies. Photos that cannot be read are named and left out.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        photos: image files, and folders that are searched for image files
        out: .npz (ids, vectors), .parquet (id, vector), or .npy (vectors, with the ids beside it in NAME.ids.txt)
        weights: weights file to use in place of a download
        batch_size: photos in one pass
        precision: auto takes bfloat16 where a short measurement finds it faster, fp32 gives the same bits each time
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.data.sources import list_photos
    from regard.inference.precision import choose_precision
    from regard.inference.rows import outputs

    if out is not None and Path(out).suffix not in FORMATS:
        raise RegardError(f"{out}: unknown suffix {Path(out).suffix!r}; expected one of {', '.join(FORMATS)}")
    ids, sources = list_photos([photos] if isinstance(photos, str | Path) else photos)
    loaded = load_aloud(model, on_event, weights)
    chosen = choose_precision(loaded.model, loaded.preprocess.size, len(ids), precision)
    kept, vectors, skipped = [], [], []
    found = outputs(loaded, loaded.pooled, ids, sources, batch_size, chosen)
    for done, (id_, vector, error) in enumerate(found, start=1):
        if error is not None:
            skipped.append(id_)
            on_event({"event": "note", "text": f"skipped: {error}"})
        else:
            kept.append(id_)
            vectors.append(vector)
        if done % batch_size == 0 or done == len(ids):
            on_event({"event": "progress", "title": "embedding", "done": done, "total": len(ids)})
    if not kept:
        raise RegardError(f"photos: none of {len(ids)} can be read (first: {skipped[0]})")
    stacked = np.stack(vectors)
    if out is not None:
        write_vectors(Path(out), kept, stacked)
    return Embeddings(loaded.name, tuple(kept), stacked, tuple(skipped), Path(out) if out else None)


def write_vectors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Write (N, D) vectors with their ids, whole or not at all."""
    if path.suffix == ".npy":
        with atomic_file(path.with_name(f"{path.stem}.ids.txt")) as beside:
            beside.write_text("".join(f"{id_!r}\n" for id_ in ids), encoding="utf-8")
    with atomic_file(path) as beside, beside.open("wb") as file:
        if path.suffix == ".npy":
            np.save(file, vectors)
        elif path.suffix == ".npz":
            np.savez(file, ids=np.array(ids, dtype=np.str_), vectors=vectors)
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = {
                "id": pa.array(ids, pa.string()),
                "vector": pa.array(list(vectors), pa.list_(pa.float32())),
            }
            pq.write_table(pa.table(columns), file)
