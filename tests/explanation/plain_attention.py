"""Tiny transformers of every class, and what is made of their attention, in plain loops over (T, T) matrices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from regard.models.attending import AttentionLayer, attention_layers
from regard.models.clip import VisionTower
from regard.models.deit import DistilledDeiT
from regard.models.dinov2 import DINOv2
from regard.models.hybrid import HybridViT
from regard.models.swin import Swin
from regard.models.t2t import T2TViT
from regard.models.vit import ViT
from regard.taps import edit, record

Matrix = list[list[float]]
CLASSES = 3
SIZES = {"embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": CLASSES}
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {  # how it is made, image
    "token": (lambda: ViT((8, 12), 4, **SIZES), (8, 12)),
    "mean": (lambda: ViT((12, 8), 4, **SIZES, pool="mean"), (12, 8)),
    "max": (lambda: ViT(8, 4, **SIZES, pool="max"), (8, 8)),
    "distilled": (lambda: DistilledDeiT((8, 12), 4, **SIZES), (8, 12)),
    "registers": (lambda: DINOv2((12, 8), 4, registers=2, **SIZES), (12, 8)),
    "t2t": (lambda: T2TViT((16, 32), mlp_ratio=2, token_dim=4, **SIZES), (16, 32)),
    "hybrid": (lambda: HybridViT((1,), (8, 12), **SIZES), (8, 12)),
    "clip tower": (lambda: VisionTower(8, 4, 8, 3, 2, CLASSES), (8, 8)),
    "swin": (lambda: Swin(16, 2, 4, 6, (2, 2), (2, 3), CLASSES), (16, 16)),  # grids 8x8, 4x4: whole windows
    "swin filled": (lambda: Swin((12, 20), 2, 4, 6, (2, 2), (2, 3), CLASSES), (12, 20)),  # 6x10, 3x5
}


def tiny(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A float64 model whose attention is far from uniform, two images and two classes."""
    make, (height, width) = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.double(), torch.randn(2, 3, height, width, dtype=torch.float64), torch.tensor([2, 0])


def patterns(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Name of layer -> (B, H, T, T), as recorded."""
    layers = attention_layers(model)
    with torch.no_grad(), record(model, *(f"{layer.name}.pattern" for layer in layers)) as seen:
        model(images)
    return {layer.name: layer.whole(seen[f"{layer.name}.pattern"]) for layer in layers}


def gradients(model: nn.Module, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """Name of layer -> (B, H, T, T): of the classes' logits by something that is added to the pattern."""
    added: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[Tensor], Tensor]:
        def change(pattern: Tensor) -> Tensor:
            added[name] = torch.zeros_like(pattern, requires_grad=True)
            return pattern + added[name]

        return change

    layers = attention_layers(model)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(edit(model, {f"{layer.name}.pattern": add(layer.name)}))
        logits = model(images)
    found = torch.autograd.grad(sum(logits[i, c] for i, c in enumerate(classes)), list(added.values()))
    return {layer.name: layer.whole(gradient) for layer, gradient in zip(layers, found, strict=True)}


def backbone(model: nn.Module) -> list[AttentionLayer]:
    """The layers through which rollout goes."""
    return [layer for layer in attention_layers(model) if "tokens_to_token" not in layer.name]


def read_of(name: str, tokens: int) -> list[float]:
    """What the head of a tiny model reads of its last tokens."""
    if name in ("mean", "max") or name.startswith("swin"):
        return [1 / tokens] * tokens
    first = [0.5, 0.5] if name == "distilled" else [1.0]
    return first + [0.0] * (tokens - len(first))


def times(a: Matrix, b: Matrix) -> Matrix:
    return [[sum(row[k] * b[k][j] for k in range(len(b)) if row[k]) for j in range(len(b[0]))] for row in a]


def plus(a: Matrix, b: Matrix) -> Matrix:
    return [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def eye(size: int) -> Matrix:
    return [[float(i == j) for j in range(size)] for i in range(size)]


def residual(a: Matrix) -> Matrix:
    """0.5 A + 0.5 I, each row divided by its sum."""
    mixed = [[0.5 * value + 0.5 * (i == j) for j, value in enumerate(row)] for i, row in enumerate(a)]
    return [[value / sum(row) for value in row] for row in mixed]


def discarded(a: Matrix, present: Matrix, share: float, spare_first: bool) -> Matrix:
    """The lowest entries, of those that are present, set to 0; spare_first: but the very first."""
    places = [(i, j) for i, row in enumerate(present) for j, there in enumerate(row) if there]
    lowest = sorted(places, key=lambda place: a[place[0]][place[1]])[: int(len(places) * share)]
    kept = [list(row) for row in a]
    for i, j in lowest:
        if not (spare_first and i == j == 0):
            kept[i][j] = 0.0
    return kept


def merging(grid: tuple[int, int]) -> Matrix:
    """(T', T): each 2x2 tokens, or what is there of them, by equal shares."""
    height, width = grid
    rows = []
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            members = [(r, c) for r in (y, y + 1) for c in (x, x + 1) if r < height and c < width]
            rows.append([float((t // width, t % width) in members) / len(members) for t in range(height * width)])
    return rows


def stacked(
    layers: list[AttentionLayer], matrices: dict[str, Matrix], through: Callable[[Matrix, Matrix], Matrix]
) -> Matrix:
    """R after all layers, from R = I over the tokens of the first; tokens are merged where the grid becomes smaller.

    matrices: name of layer -> its matrix; through: what that makes of R.
    """
    relevance, grid = eye(layers[0].tokens), layers[0].grid
    for layer in layers:
        if layer.grid != grid:
            relevance = times(merging(grid), relevance)
            grid = layer.grid
        relevance = through(matrices[layer.name], relevance)
    return relevance


def plain_map(relevance: Matrix, read: list[float], layer: AttentionLayer) -> Tensor:
    """(h, w): the rows of R that are read, prefix cut off."""
    row = times([read], relevance)[0][layer.prefix :]
    return torch.tensor(row, dtype=torch.float64).unflatten(0, layer.grid)
