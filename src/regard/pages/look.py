"""The page in which one image is seen passing through one model: what it is made of, as NumPy arrays, and its file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.pages.build import build, write_page
from regard.pages.data import Coded, Store, plain

STYLES = ("base.css", "look.css")
MODULES = "look.js"


@dataclass(frozen=True)
class Embedding:
    """The tokens before the first block, T = prefix + patches: content + positions.

    kind: how patches are made: "patches", "overlapping" windows, "cnn", or "normed" patches. content: (T, D), of the
    prefix the learned tokens; positions: (T, D), None where none are added.
    """

    kind: str
    grid: tuple[int, int]
    prefix: int
    content: Coded
    positions: Coded | None


@dataclass(frozen=True)
class Layer:
    """One layer of attention and what leaves its block.

    number: among all of the model, from 0; name: dotted, as `record` knows it. grid, prefix: of its tokens, T in
    number. windows: (W, n) token in each place of each window, -1 where none is, None where each token looks at all
    (W = 1, n = T). pattern (W, H, n, n); q, k, v (H, W, n, d). scale: score = scale * q.k + bias (H, n, n), whose
    softmax is the pattern; None where it is made otherwise. score_error: of a score computed from the rounded q and k,
    at most. out_grid, out_prefix, width: of the tokens that leave the block, T' of `width` numbers; norms (T',) their
    lengths; similarity: cosines, those of token 0 with 0, 1, ..., then of 1 with 1, 2, ..., or unit (T', D) the vectors
    over their lengths, where that takes less room; similarity_error: of a cosine, at most.
    """

    number: int
    name: str
    grid: tuple[int, int]
    prefix: int
    windows: np.ndarray | None
    pattern: Coded
    q: Coded
    k: Coded
    v: Coded
    scale: float | None
    bias: Coded | None
    score_error: float
    out_grid: tuple[int, int]
    out_prefix: int
    width: int
    norms: np.ndarray
    similarity: Coded | None
    unit: Coded | None
    similarity_error: float


@dataclass(frozen=True)
class Depth:
    """What the model would answer if its head read the tokens after each of some blocks: scores (P, K)."""

    labels: tuple[str, ...]
    scores: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Maps of a method: one, or one for each of the page's targets, (1 or C, h, w)."""

    name: str
    maps: np.ndarray


@dataclass(frozen=True)
class LookPage:
    """All of the page. pixels: (S, S, 3) uint8, what the model sees; normalised by mean and std, per channel in 0..1.

    image: its name; shape: (height, width) of the file; prepared: in words, how it became the pixels. classes: K names;
    logits, scores: (K,), where answer is "softmax" or "sigmoid" the probabilities of logits / temperature, where it is
    "number" the logits.
    targets: indices of the classes that can be chosen. prefix: names of the tokens before the patches; reads: what the
    head does, in words. absent: which methods are not there, and why, a line each.
    notes: what else is to be said (a layer that was left out). command: what makes this page again.
    """

    title: str
    model: str
    pretraining: str
    image: str
    shape: tuple[int, int]
    prepared: str
    pixels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    logits: np.ndarray
    scores: np.ndarray
    answer: str
    temperature: float
    targets: tuple[int, ...]
    prefix: tuple[str, ...]
    reads: str
    embedding: Embedding | None
    layers: tuple[Layer, ...]
    depth: Depth | None
    explanations: tuple[Explanation, ...]
    absent: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""


def write_look(page: LookPage, path: str | Path) -> Path:
    """Writes the page as one file that needs no other. Raises RegardError where it cannot be written."""
    return write_page(path, render_look(page))


def render_look(page: LookPage) -> str:
    """The page as HTML text."""
    store = Store()
    for number, layer in enumerate(page.layers):
        windows = None if layer.windows is None else plain(layer.windows)
        store.add(f"pattern-{number}", pattern=layer.pattern, windows=windows)
        store.add(f"qkv-{number}", q=layer.q, k=layer.k, v=layer.v, bias=layer.bias)
        store.add(f"out-{number}", norms=plain(layer.norms), similarity=layer.similarity, unit=layer.unit)
    if page.embedding:
        store.add("embedding", content=page.embedding.content, positions=page.embedding.positions)
    for number, one in enumerate(page.explanations):
        store.add(f"maps-{number}", maps=plain(one.maps))
    answer = best_class(page)
    words = {
        "title": page.title,
        "model": page.model,
        "pretraining": page.pretraining,
        "image": {
            "name": page.image,
            "height": page.shape[0],
            "width": page.shape[1],
            "side": page.pixels.shape[0],
            "prepared": page.prepared,
            "mean": list(page.mean),
            "std": list(page.std),
            "url": _png(page.pixels),
        },
        "answer": page.classes[answer],
        "count": len(page.classes),
        "kind": page.answer,
        "temperature": _number(page.temperature),
        "targets": [
            {
                "name": page.classes[at],
                "index": at,
                "logit": _number(page.logits[at]),
                "score": _number(page.scores[at]),
            }
            for at in page.targets
        ],
        "prefix": list(page.prefix),
        "reads": page.reads,
        "embedding": _embedding(page.embedding),
        "layers": [_layer(layer) for layer in page.layers],
        "depth": _depth(page),
        "explanations": [{"name": one.name, "count": len(one.maps)} for one in page.explanations],
        "absent": list(page.absent),
        "notes": list(page.notes),
        "command": page.command,
        "summary": _summary(page),
        "precision": _precision(page),
        "errors": errors_of(page),
        "index": store.index,
    }
    return build("look.html", MODULES, STYLES, words, store.texts)


def best_class(page: LookPage) -> int:
    """The class that the model answers; of numbers, the one that the page is about."""
    return page.targets[0] if page.answer == "number" else int(page.scores.argmax())


def _summary(page: LookPage) -> str:
    """What the page is about, in two sentences."""
    heads = sorted({layer.q.values.shape[0] for layer in page.layers})
    many = f"{heads[0]}" if len(heads) == 1 else f"{heads[0]} to {heads[-1]}"
    layers = f"{_plural(len(page.layers), 'layer')} of {many} head{'s' if heads[-1] > 1 else ''}"
    score = float(page.scores[best_class(page)])
    sure = f"gives it {score:.1%}" if page.answer != "number" else f"answers {score:.4g}"
    start = f"{page.embedding.grid[0] * page.embedding.grid[1]} patches" if page.embedding else "The places of a map"
    return (
        f"{start} look at one another in {layers}, and the model {sure}. "
        "Point at a patch to see what it looks at, and go through the steps, from the pixels to the class."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _precision(page: LookPage) -> str:
    """The errors of the page in words."""
    errors = errors_of(page)
    shares = f"{100 * errors['pattern']:.2g} percentage points (shares of attention)"
    scores = [f"{errors['score']:.1g} (scores)"] if any(layer.scale is not None for layer in page.layers) else []
    vectors = max(errors["qkv"], errors.get("embedding", 0.0))
    found = [shares, *scores, f"{vectors:.1g} (numbers of vectors)"]
    return ", ".join(found) + f" and {errors['similarity']:.1g} (cosines)"


def _embedding(embedding: Embedding | None) -> dict[str, Any] | None:
    if embedding is None:
        return None
    return {
        "kind": embedding.kind,
        "grid": list(embedding.grid),
        "prefix": embedding.prefix,
        "width": embedding.content.values.shape[-1],
        "positions": embedding.positions is not None,
    }


def _layer(layer: Layer) -> dict[str, Any]:
    heads, windows, places, dim = layer.q.values.shape
    return {
        "name": layer.name,
        "number": layer.number,
        "grid": list(layer.grid),
        "prefix": layer.prefix,
        "windows": 0 if layer.windows is None else windows,
        "heads": heads,
        "places": places,
        "dim": dim,
        "scale": layer.scale,
        "bias": layer.bias is not None,
        "out": {"grid": list(layer.out_grid), "prefix": layer.out_prefix, "width": layer.width},
    }


def _depth(page: LookPage) -> dict[str, Any] | None:
    if page.depth is None:
        return None
    scores = page.depth.scores
    best = scores.argmax(axis=1)
    return {
        "labels": list(page.depth.labels),
        "scores": [[_number(value) for value in row] for row in scores[:, list(page.targets)]],
        "best": [[page.classes[index], _number(row[index])] for index, row in zip(best, scores, strict=True)],
    }


def errors_of(page: LookPage) -> dict[str, float]:
    """What a shown number is off by at most, measured on all numbers of the page, by kind."""
    found = {
        "pattern": _largest(layer.pattern for layer in page.layers),
        "qkv": _largest(one for layer in page.layers for one in (layer.q, layer.k, layer.v)),
        "score": max(layer.score_error for layer in page.layers),
        "similarity": max(layer.similarity_error for layer in page.layers),
    }
    if page.embedding:
        found["embedding"] = _largest([page.embedding.content, *filter(None, [page.embedding.positions])])
    return found


def _largest(arrays: Any) -> float:
    return max((one.error for one in arrays), default=0.0)


def _number(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _png(pixels: np.ndarray) -> str:
    """(S, S, 3) uint8 as a data: URL, lossless."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
