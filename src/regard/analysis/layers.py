"""The layers of any model, in the order they are passed, and what a unit, a token, a place of them is.

Without being told, a layer is what leaves a block: `blocks.*.tokens` of a transformer, `layer*.*` of a ResNet, the maps
between the convolutions of a plain CNN; the head's logits are none. Any other module outputs are named by pattern.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from regard.analysis.passes import evaluating
from regard.errors import RegardError
from regard.inference.precision import device_of
from regard.models.attending import attention_layers
from regard.models.registry import features_method, head_names
from regard.taps import Tap, record

Feature = Literal["tokens", "class", "mean"]
FEATURES: tuple[Feature, ...] = ("tokens", "class", "mean")
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
GLOBAL = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten)  # after these there are no places any more


@dataclass(frozen=True)
class Layer:
    """One module output. shape: of one image; grid: (height, width) of its places in the image, None where it has none
    (a vector); prefix: tokens before them; last: channels lie in the last dimension.
    """

    name: str
    shape: tuple[int, ...]
    grid: tuple[int, int] | None
    prefix: int
    last: bool

    def tokens(self, output: Any) -> Tensor:
        """(B, T, D): a vector per place, row after row, the prefix first; T is 1 where the output is one vector."""
        x = tensor_of(output)
        x = x if self.last else x.movedim(1, -1)
        return x.reshape(len(x), -1, x.shape[-1])

    def feature(self, output: Any, which: Feature) -> Tensor:
        """(B, p): of all places one after another, of the class token, or the mean over the patches."""
        tokens = self.tokens(output)
        if which == "tokens":
            return tokens.flatten(1)
        return tokens[:, 0] if which == "class" else tokens[:, self.prefix :].mean(1)


class _Place(NamedTuple):
    grid: tuple[int, int]
    prefix: int


def layers_of(model: nn.Module, images: Tensor, patterns: Sequence[str] = ()) -> tuple[Layer, ...]:
    """The layers, by one pass of the first of `images` (B, 3, S, S): those that the patterns name, else the blocks'.

    Raises RegardError for a pattern that matches nothing, and where one matches what gives no tensor.
    """
    names = tuple(patterns) or _blocks(model)
    one = images[:1].to(device_of(model))
    with (
        evaluating(model),
        record(model, *names, keep=lambda output: tensor_of(output).shape[1:]) as seen,
    ):
        model(one)
        features = features_method(model)
        read = features(one) if features is not None else None
    if not seen:
        raise RegardError(f"{', '.join(names)}: no part of this name is passed by {type(model).__name__} on the way")
    token_places = {
        layer.name.rpartition(".")[0]: _Place(layer.grid, layer.prefix) for layer in attention_layers(model)
    }
    general = _Place(read.grid, read.prefix) if read is not None else None
    shapes = {name: tuple(shape[-1] if isinstance(shape, list) else shape) for name, shape in seen.items()}
    return tuple(
        _layer(name, shape, token_places.get(name.rpartition(".")[0]) or general) for name, shape in shapes.items()
    )


def _layer(name: str, shape: tuple[int, ...], place: _Place | None) -> Layer:
    """What the shape (of one image) says: (C, h, w) or (h, w, C) a map, (T, D) tokens, (D,) a vector."""
    if len(shape) == 3:
        last = shape[0] == shape[1] != shape[2]  # (h, w, C) of square images
        grid = shape[:2] if last else shape[1:]
        return Layer(name, shape, (grid[0], grid[1]), 0, last)
    if len(shape) != 2:
        return Layer(name, shape, None, 0, True)
    count = shape[0]
    if place is None or count not in (place.grid[0] * place.grid[1], place.prefix + place.grid[0] * place.grid[1]):
        side = math.isqrt(count)
        prefix = count - side * side
        return Layer(name, shape, (side, side) if prefix <= 1 and side > 1 else None, prefix if side > 1 else 0, True)
    return Layer(name, shape, place.grid, count - place.grid[0] * place.grid[1], True)


def tensor_of(output: Any) -> Tensor:
    """The tensor that a module gave, or the first of several."""
    while isinstance(output, list | tuple | dict) and output:
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if not isinstance(output, Tensor) or output.ndim < 2:
        raise RegardError(f"layers: a part gives {type(output).__name__}, no tensor of a batch; name another one")
    return output


@contextmanager
def seen_layers(model: nn.Module, layers: Sequence[Layer], keep: Any = None) -> Iterator[dict[str, Any]]:
    """`record` of these layers; keep(layer, output) is what is kept of each, all by default. Of a module that is called
    several times, the last call counts.
    """
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        for layer in layers:

            def note(output: Any, layer: Layer = layer) -> None:
                found[layer.name] = tensor_of(output) if keep is None else keep(layer, output)

            stack.enter_context(record(model, layer.name, keep=note))
        yield found


def probes(images: int, count: int, draws: int, generator: torch.Generator) -> Tensor:
    """(m, images, count) vectors v with sum_m (v g)^2 = |g|^2 for any g of an image, exactly or on average.

    Where there are more than `draws` coordinates these are random signs, else each coordinate by itself. (Signs give
    the trace of a matrix without all of it: Hutchinson 1989.)
    """
    if count <= draws:
        return torch.eye(count)[:, None].expand(count, images, count)
    return (2.0 * torch.randint(2, (draws, images, count), generator=generator) - 1) / math.sqrt(draws)


def _blocks(model: nn.Module) -> tuple[str, ...]:
    """Names of what leaves the blocks of a model, as far as its structure says."""
    names = list(_walk(model, ""))
    try:
        heads = head_names(model)
    except RegardError:
        linear = [name for name in names if isinstance(model.get_submodule(name), nn.Linear)]
        heads = tuple(linear[-1:])
    names = [name for name in names if name not in heads]
    if not names:
        names = [name for name, _ in model.named_children()]
    if not names:
        raise RegardError(f"{type(model).__name__}: consists of no parts, so it has no layers to look at")
    return tuple(names)


def _walk(module: nn.Module, above: str) -> Iterator[str]:
    """Of a run of single layers (convolution, norm, ReLU, pooling) the last; of blocks what leaves them."""
    run, open_ = "", False  # what leaves the part before, and whether single layers still belong to it
    for name, child in module.named_children():
        path = f"{above}.{name}" if above else name
        if isinstance(child, Tap):
            if name == "embedded":  # the tokens with their positions, in place of the patches alone
                run, open_ = path, False
        elif any(True for _ in child.children()):
            inner = list(_walk(child, path)) if is_tower(child) else [_leaving(child, path)]
            yield from [run] if run else []
            yield from inner[:-1]
            run, open_ = inner[-1] if inner else "", False
        elif _has_matrix(child):
            yield from [run] if run else []
            run, open_ = path, True
        elif isinstance(child, GLOBAL):
            open_ = False
        elif open_ and not isinstance(child, nn.modules.dropout._DropoutNd):
            run = path
    yield from [run] if run else []


def _has_matrix(module: nn.Module) -> bool:
    """True for convolutions and linear layers."""
    return any(weight.ndim >= 2 for weight in module.parameters(recurse=False))


def is_tower(module: nn.Module) -> bool:
    """True where blocks follow each other inside; a block has two convolutions or linear layers, or more."""
    if isinstance(module, CONTAINERS):
        return True
    inside = [part for part in module.modules() if part is not module]
    if any(isinstance(getattr(part, "tokens", None), Tap) for part in inside):
        return True
    held = [child for part in inside if isinstance(part, CONTAINERS) for child in part.children()]
    blocks = [child for child in held if not isinstance(child, CONTAINERS) and any(True for _ in child.children())]
    return any(sum(map(_has_matrix, block.modules())) > 1 for block in blocks)


def _leaving(block: nn.Module, path: str) -> str:
    return f"{path}.tokens" if isinstance(getattr(block, "tokens", None), Tap) else path
