"""What a frozen model's head reads, once per image and view: computed in one pass and kept on disk.

The cache is a folder of small immutable files, `KEY/PRECISION/viewV-HASH.safetensors`. KEY stands for the
weights below the head and the preprocessing; every file holds features and a fingerprint per image (path,
size and time of change, or the pixels themselves), and its own checksum. Other seeds, fractions and splits
of the same images therefore find what is there and add what is missing. A file that fails its checksum is
passed over and its images are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from regard.errors import RegardError
from regard.inference.pooling import head_input
from regard.inference.precision import Precision, Wanted, choose_precision, device_of
from regard.inference.rows import decoded_batches, run_batch
from regard.runs.atomic import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regard.data.sources import ImageSet
    from regard.inference.loaded import LoadedModel

VIEWS = (0, 1)  # 0: the image, 1: its horizontal mirror image
KEPT_AT_ONCE = 2048  # images a file: an interrupted pass loses no more
FORMAT = "1"  # part of every key: raise it when the meaning of a cached number changes


def default_cache() -> Path:
    """Where features are kept between runs: `$XDG_CACHE_HOME/regard/features`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regard" / "features"


def extract_features(
    loaded: LoadedModel,
    images: ImageSet,
    rows: Sequence[int] | np.ndarray,
    views: Sequence[int] = VIEWS,
    cache_dir: str | Path | FeatureCache | None = None,
    batch_size: int = 32,
    precision: Wanted = "auto",
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> np.ndarray:
    """(V, N, D) float32: what the head multiplies, for `rows` of `images` in each view (0 image, 1 mirror).

    Only what `cache_dir` lacks is computed; images that it has are not opened. An open cache of the model may
    be given in its place: opening one reads all weights. `precision` "auto" is measured once per model and
    machine and remembered in the cache. Raises RegardError (ImageError) by name for an image that cannot be
    read.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if unknown := sorted(set(views) - set(VIEWS)):
        raise RegardError(f"views={tuple(views)}: {unknown[0]} is no view; expected some of {VIEWS}")
    cache = FeatureCache(cache_dir, loaded) if isinstance(cache_dir, str | Path) else cache_dir
    chosen = feature_precision(loaded, len(rows) * len(views), precision, cache)
    prints = [fingerprint(images, int(row)) for row in rows] if cache else []
    found = {view: cache.find(chosen, view, prints) if cache else {} for view in views}
    fresh: dict[int, list[int]] = {view: [] for view in views}  # places computed and not yet kept
    for view, places, features in _compute(loaded, images, rows, found, chosen, batch_size, on_event):
        found[view].update(zip(places, features, strict=True))
        fresh[view] += places
        if cache and len(fresh[view]) >= KEPT_AT_ONCE:
            cache.keep(chosen, view, prints, found[view], fresh[view])
    for view, places in fresh.items():
        if cache and places:
            cache.keep(chosen, view, prints, found[view], places)
    if not len(rows):
        return np.empty((len(views), 0, head_input(loaded)), np.float32)
    return np.stack([np.stack([found[view][place] for place in range(len(rows))]) for view in views])


def _compute(
    loaded: LoadedModel,
    images: ImageSet,
    rows: np.ndarray,
    found: dict[int, dict[int, np.ndarray]],
    precision: Precision,
    batch_size: int,
    on_event: Callable[[dict[str, Any]], None] | None,
) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """(view, places in `rows`, features (B, D)) of what is not in `found`; an image is decoded once."""
    missing: dict[tuple[int, ...], list[int]] = {}  # views that an image lacks -> places
    for place in range(len(rows)):
        lacks = tuple(view for view in found if place not in found[view])
        if lacks:
            missing.setdefault(lacks, []).append(place)
    total, done = sum(map(len, missing.values())), 0
    title = f"features of {loaded.name}"
    loaded.model.eval()
    for lacks, all_places in missing.items():
        for places, pixels in _pixels(loaded, images, rows, all_places, batch_size):
            for view in lacks:
                turned = pixels if view == 0 else pixels.flip(-1)
                yield view, places, run_batch(loaded, loaded.pooled, turned, precision)
            done += len(places)
            if on_event:
                on_event({"event": "progress", "title": title, "done": done, "total": total})


def _pixels(
    loaded: LoadedModel, images: ImageSet, rows: np.ndarray, places: list[int], batch_size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """(places, pixels (B, 3, S, S) uint8) batch by batch."""
    sources = (images.sources[int(rows[place])] for place in places)
    start = 0
    for decoded in decoded_batches(sources, loaded.preprocess, batch_size):
        group = places[start : start + len(decoded)]
        start += len(decoded)
        for error in decoded.errors.values():
            raise error
        yield group, decoded.pixels


def feature_precision(
    loaded: LoadedModel, work: int, wanted: Wanted = "auto", cache: FeatureCache | None = None
) -> Precision:
    """The precision for `work` passes: as wanted, else as remembered in the cache, else measured now."""
    if wanted == "auto" and cache and (remembered := cache.precision()):
        return remembered
    chosen = choose_precision(loaded.model, loaded.preprocess.size, work, wanted)
    if wanted == "auto" and cache:
        cache.remember_precision(chosen)
    return chosen


def fingerprint(images: ImageSet, row: int) -> bytes:
    """16 bytes that stand for one image: a file's path, size and time; an array's pixels; a published id.

    Raises RegardError where the file is gone.
    """
    digest = hashlib.blake2b(digest_size=16)
    if images.name.startswith("torchvision:"):  # published: the id says it all, and looking would mean decoding
        digest.update(f"{images.name} {images.ids[row]}".encode())
        return digest.digest()
    source = images.sources[row]
    if isinstance(source, np.ndarray):
        digest.update(repr((source.shape, source.dtype.str)).encode())
        digest.update(np.ascontiguousarray(source).data)
        return digest.digest()
    path = Path(source)
    try:
        status = path.stat()
    except OSError as error:
        raise RegardError(
            f"{path}: {error.strerror}; it was there when the images were listed: restore it or start again"
        ) from None
    digest.update(os.fsencode(path.absolute()))
    digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
    return digest.digest()


def backbone_hash(model: nn.Module, heads: Sequence[str] = ()) -> str:
    """Hex SHA-256 over names, shapes and values of everything in the state dict but the layers `heads`."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(tuple(f"{head}." for head in heads)):
            continue
        flat = value.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(flat.shape)}{flat.dtype}".encode())
        digest.update(_bytes(flat))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data


class FeatureCache:
    """The features of one frozen model under one preprocessing, on disk."""

    def __init__(self, folder: str | Path, loaded: LoadedModel):
        identity = {
            "format": FORMAT,
            "model": type(loaded.model).__qualname__,
            "weights": backbone_hash(loaded.model, loaded.heads),
            "preprocess": loaded.preprocess.to_config(),
        }
        text = json.dumps(identity, sort_keys=True, default=str)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:32]
        self._choice = self.folder / f"precision-{device_of(loaded.model).type}.txt"

    def precision(self) -> Precision | None:
        """The precision measured before on this kind of device, or None."""
        text = self._choice.read_text("ascii").strip() if self._choice.is_file() else ""
        return "bf16" if text == "bf16" else "fp32" if text == "fp32" else None

    def remember_precision(self, precision: Precision) -> None:
        """Keep a measured choice."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self._choice, precision)
        except OSError as error:
            raise self._refused(error) from None

    def find(self, precision: Precision, view: int, prints: Sequence[bytes]) -> dict[int, np.ndarray]:
        """Place in `prints` -> features (D,) of those images that are there and whole."""
        places = {print_: place for place, print_ in enumerate(prints)}
        found: dict[int, np.ndarray] = {}
        for path in sorted((self.folder / precision).glob(f"view{view}-*.safetensors")):
            kept, features = _read_part(path)
            for print_, row in zip(map(bytes, kept), features, strict=True):
                if print_ in places:
                    found[places[print_]] = row
        # The same image under two names has one fingerprint and one place above.
        return {place: found[places[print_]] for place, print_ in enumerate(prints) if places[print_] in found}

    def keep(
        self,
        precision: Precision,
        view: int,
        prints: Sequence[bytes],
        found: dict[int, np.ndarray],
        places: list[int],
    ) -> None:
        """Add one file with the features of these places, and empty the list."""
        keys = np.frombuffer(b"".join(prints[place] for place in places), np.uint8).reshape(-1, 16)
        features = np.stack([found[place] for place in places])
        digest = _checksum(keys, features)
        folder = self.folder / precision
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(
                folder / f"view{view}-{digest[:16]}.safetensors",
                save({"prints": keys, "features": features}, metadata={"sha256": digest}),
            )
        except OSError as error:
            raise self._refused(error) from None
        places.clear()

    def _refused(self, error: OSError) -> RegardError:
        return RegardError(
            f"{self.folder}: features cannot be kept ({error.strerror}); make room, or set XDG_CACHE_HOME"
        )


def _read_part(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(prints (N, 16) uint8, features (N, D) float32), both empty where the file is damaged."""
    nothing = np.empty((0, 16), np.uint8), np.empty((0, 0), np.float32)
    try:
        with safe_open(path, framework="numpy") as file:
            prints, features = file.get_tensor("prints"), file.get_tensor("features")
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return nothing
    return (prints, features) if _checksum(prints, features) == expected else nothing


def _checksum(prints: np.ndarray, features: np.ndarray) -> str:
    digest = hashlib.sha256(repr((prints.shape, features.shape)).encode())
    digest.update(np.ascontiguousarray(prints).data)
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()
