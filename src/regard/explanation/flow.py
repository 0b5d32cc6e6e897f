"""Rows of weights that go down a stack of attention layers, from the tokens of the last to those of the first.

A map of the class token needs one row of the product a_L ... a_2 a_1 only, so vectors are multiplied by matrices, from
the last layer to the first. The matrix of a layer, its heads fused, is (B, T, T); that of windows (B*W, n, n), and no
(T, T) is ever built of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.asking import class_scores, followed, logits_of, observed, refuse_texts
from regard.models.attending import EMPTY, AttentionLayer, Merge, attention_layers, attention_stack, reading
from regard.taps import record, refuse_frozen

Stack = Sequence[AttentionLayer | Merge]
MEAN = "mean"  # of all heads
PATTERN_BYTES = 512_000_000  # of the patterns that are held at once; large grids take several passes for a batch


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype in which attention is added up: float32, or float64 where it comes so."""
    return torch.promote_types(tensor.dtype, torch.float32)


def stack_of(model: nn.Module) -> tuple[AttentionLayer | Merge, ...]:
    """As `attention_stack`; of a compiled module a RegardError that says so."""
    refuse_frozen(model)
    return attention_stack(model)


def chosen_heads(head: str | int, count: int, name: str) -> slice:
    """Of a layer's heads the one with this number, or all for their mean. Raises RegardError for one it has not."""
    if head == MEAN:
        return slice(None)
    if not str(head).isdecimal() or int(head) >= count:
        raise RegardError(f"head={head}: no such head; {name} has 0 to {count - 1}, or {MEAN} of all")
    return slice(int(head), int(head) + 1)


def positive_mean(pattern: Tensor, gradient: Tensor) -> Tensor:
    """mean_h max(0, A * G): (..., H, n, m) twice -> (..., n, m)."""
    return (pattern * gradient).clamp(min=0).mean(-3, dtype=precise(pattern))


def reading_rows(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 1, T): for each image, what the head reads of the last tokens."""
    weights = reading(model).to(images.device, precise(images))
    return weights.expand(len(images), 1, -1)


def carry(rows: Tensor, layer: AttentionLayer, matrix: Tensor) -> Tensor:
    """rows (B, R, T) times the (T, T) for which the layer's matrix stands -> (B, R, T)."""
    with torch.autocast(rows.device.type, enabled=False):
        if layer.windows is None:
            return rows @ matrix
        parts = _in_windows(rows, layer.windows) @ matrix.unflatten(0, (len(rows), -1))  # (B, W, R, n)
        return _from_windows(parts, layer.windows, layer.tokens)


def carry_with_residual(rows: Tensor, layer: AttentionLayer, matrix: Tensor) -> Tensor:
    """rows (B, R, T) times 0.5 A + 0.5 I with the sums of its rows made 1 -> (B, R, T); A: the layer's matrix >= 0."""
    if layer.windows is None:
        sums = matrix.sum(-1)[:, None]  # (B, 1, T)
    else:
        matrix = matrix.masked_fill(_filling(matrix, layer.windows)[:, None], 0)
        sums = matrix.sum(-1).unflatten(0, (len(rows), -1))[:, :, None]  # (B, W, 1, n)
        sums = _from_windows(sums, layer.windows, layer.tokens)
    rows = rows / (sums + 1)
    return rows + carry(rows, layer, matrix)


def split(rows: Tensor, merge: Merge) -> Tensor:
    """rows (B, R, T') over merged tokens -> (B, R, T) over their members, each an equal share."""
    members = merge.members.to(rows.device)
    shares = rows / (members != EMPTY).sum(-1)  # (B, R, T')
    spread = rows.new_zeros(*rows.shape[:2], merge.grid[0] * merge.grid[1] + 1)  # the last: EMPTY
    spread[..., members] = shares[..., None].expand(*shares.shape, members.shape[1])
    return spread[..., :-1]


def descend(
    rows: Tensor,
    stack: Stack,
    matrices: Callable[[AttentionLayer], Tensor],
    through: Callable[[Tensor, AttentionLayer, Tensor], Tensor],
) -> Tensor:
    """rows (B, R, T) over the tokens of the last layer -> (B, R, T) over those of the first.

    through: what a layer with a matrix makes of rows.
    """
    for part in reversed(stack):
        rows = split(rows, part) if isinstance(part, Merge) else through(rows, part, matrices(part))
    return rows


def discard_lowest(matrix: Tensor, layer: AttentionLayer, share: float, keep_class: bool) -> Tensor:
    """The matrix with the lowest floor(E * share) of an image's E entries set to 0; E = T * T, or what windows have.

    keep_class: the attention of the class token, where there is one, to itself stays.
    """
    if share == 0:
        return matrix
    images = len(matrix) if layer.windows is None else len(matrix) // len(layer.windows)
    entries = matrix.reshape(images, -1)
    wanted = entries
    if layer.windows is not None:
        filling = _filling(matrix, layer.windows)  # (B*W, n)
        wanted = entries.masked_fill((filling[:, None] | filling[:, :, None]).reshape(images, -1), torch.inf)
    count = int(int(wanted[0].isfinite().sum()) * share)
    lowest = wanted.topk(count, largest=False, sorted=False).indices
    remaining = entries.scatter(1, lowest, 0)
    if keep_class and layer.prefix:
        remaining[:, 0] = entries[:, 0]
    return remaining.view_as(matrix)


def as_map(rows: Tensor, layer: AttentionLayer) -> Tensor:
    """A row for each image (B, 1, T) -> the weights of its patches (B, h, w), float32."""
    return rows[:, 0, layer.prefix :].unflatten(1, layer.grid).float()


def first_layer(stack: Stack) -> AttentionLayer:
    """The layer whose tokens `descend` ends at."""
    layer = stack[0]
    assert isinstance(layer, AttentionLayer)
    return layer


def split_images(images: Tensor, stack: Stack, gradients: bool) -> tuple[Tensor, ...]:
    """The images in parts whose patterns fit into PATTERN_BYTES, one image in each at least.

    gradients: the patterns of all layers and their gradients are held at once, and not those of one layer alone.
    """
    bytes_of = [4 * part.num_heads * _entries(part) for part in stack if isinstance(part, AttentionLayer)]
    return images.split(max(1, PATTERN_BYTES // (2 * sum(bytes_of) if gradients else max(bytes_of))))


def map_by_gradients(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    fuse: Callable[[AttentionLayer, Tensor, Tensor], Tensor],
    through: Callable[[Tensor, AttentionLayer, Tensor], Tensor],
) -> Tensor:
    """What the head reads, carried down the stack: images (B, 3, H, W), classes (B,) -> (B, h, w), float32.

    fuse: what a layer's matrix is, of its pattern and of the gradient of the class's logit; through: as of `descend`.
    """
    stack = stack_of(model)
    parts = split_images(images, stack, gradients=True)
    maps = []
    for part, asked in zip(parts, classes.split(len(parts[0])), strict=True):
        found = patterns_and_gradients(model, stack, part, asked)
        rows = descend(
            reading_rows(model, part), stack, lambda layer, found=found: fuse(layer, *found[layer.name]), through
        )
        maps.append(as_map(rows, first_layer(stack)))
    return torch.cat(maps)


def patterns_and_gradients(
    model: nn.Module, stack: Stack, images: Tensor, classes: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of layer -> its pattern A and d(logit of the class) / dA, both (B, H, T, T), or (B*W, H, n, n).

    classes: (B,), the output of which each image is asked.
    """
    names = [f"{part.name}.pattern" for part in stack if isinstance(part, AttentionLayer)]
    with observed(model), record(model, *names) as seen:
        scores = class_scores(logits_of(model, followed(images)), classes)
        gradients = torch.autograd.grad(scores.sum(), [seen[name] for name in names])
    return {
        name.removesuffix(".pattern"): (seen[name].detach(), gradient)
        for name, gradient in zip(names, gradients, strict=True)
    }


def refuse_stackless(model: nn.Module) -> str | None:
    """Why a method that goes through a stack of attention layers is not defined for a model; None where it is."""
    try:
        stack_of(model)
    except RegardError as error:
        also = ", and attention of single layers" if attention_layers(model) else ""
        return f"{error}{also}"
    return None


def refuse_classless(model: nn.Module) -> str | None:
    """As `refuse_stackless`, of a method that needs the logit of a class."""
    return refuse_texts(model) or refuse_stackless(model)


def _entries(layer: AttentionLayer) -> int:
    """Of one head's pattern of an image."""
    return layer.tokens**2 if layer.windows is None else layer.windows.numel() * layer.windows.shape[1]


def _filling(matrix: Tensor, windows: Tensor) -> Tensor:
    """(B*W, n): True where nothing but filling is."""
    return (windows == EMPTY).to(matrix.device).repeat(len(matrix) // len(windows), 1)


def _in_windows(rows: Tensor, windows: Tensor) -> Tensor:
    """(B, R, T) -> (B, W, R, n), 0 where a window is filled up."""
    padded = F.pad(rows, (0, 1))  # the last, which EMPTY names, is 0
    return padded[..., windows.to(rows.device)].transpose(1, 2)


def _from_windows(parts: Tensor, windows: Tensor, tokens: int) -> Tensor:
    """(B, W, R, n) -> (B, R, T), the reverse of `_in_windows`."""
    rows = parts.new_zeros(parts.shape[0], parts.shape[2], tokens + 1)
    rows[..., windows.to(parts.device)] = parts.transpose(1, 2)
    return rows[..., :-1]
