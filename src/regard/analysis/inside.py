"""What one image is made into inside a transformer, layer by layer, for the page that shows it (`regard look`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from regard.analysis.prediction_by_layer import read_out
from regard.errors import RegardError
from regard.models.attending import AttentionLayer, attention_layers, attention_stack
from regard.models.deit import DistilledDeiT
from regard.models.dinov2 import DINOv2
from regard.models.hybrid import HybridViT
from regard.models.swin import Swin
from regard.models.t2t import T2TViT
from regard.models.vit import ViT
from regard.pages.data import coded_rows, coded_steps
from regard.pages.look import Embedding, Layer
from regard.taps import edit, record

LARGEST = 32e6  # weights of attention on a page: each takes a byte before gzip
PATCHES = ("patch_embed.patches", "tokens_to_token.patches")
# Weights on the page, up to which these levels for weights and steps for q, k, v: 4 MB for a tiny ViT, 12 for a base.
LEVELS = ((3e6, 255, 127), (LARGEST, 127, 31))
KINDS = {T2TViT: "overlapping", HybridViT: "cnn", Swin: "normed"}
SAME = 1e-3  # a pattern is the softmax of its scores where no weight differs by more, of the largest in its row


class Inside(NamedTuple):
    """prefix: names of the tokens before the patches; reads: what the head reads, in words; logits (K,); depth: (P, K)
    logits of the head if it read the tokens at the depths `depth_labels`, or None."""

    embedding: Embedding | None
    layers: tuple[Layer, ...]
    prefix: tuple[str, ...]
    reads: str
    logits: np.ndarray
    depth_labels: tuple[str, ...]
    depth: np.ndarray | None


def shown_layers(model: nn.Module, wanted: Sequence[int] | None) -> tuple[tuple[int, AttentionLayer], ...]:
    """The numbered layers of attention that a page shows: the wanted ones, negative from the last, or all.

    Raises RegardError for a model without, a number that is not there, and more than a page can hold.
    """
    layers = attention_layers(model)
    if not layers:
        raise RegardError(
            f"{type(model).__name__}: has no attention among the places of an image to look at; "
            "`regard explain` shows where it looks, `regard figures` what is inside"
        )
    numbers = range(len(layers)) if wanted is None else wanted
    for number in numbers:
        if not -len(layers) <= number < len(layers):
            raise RegardError(f"layers: {number} is none; the model has 0 ({layers[0].name}) to {len(layers) - 1}")
    chosen = sorted({number % len(layers) for number in numbers})
    weights = sum(_weights(layers[number]) for number in chosen)
    if weights > LARGEST:
        most = max(1, int(LARGEST * len(chosen) / weights))
        raise RegardError(
            f"layers: the page would hold {weights / 1e6:,.0f} million weights of attention, at most "
            f"{LARGEST / 1e6:.0f} fit; name about {most} of the layers {chosen[0]} to {chosen[-1]} (--layers)"
        )
    return tuple((number, layers[number]) for number in chosen)


def _weights(layer: AttentionLayer) -> int:
    windows, places = (1, layer.tokens) if layer.windows is None else layer.windows.shape
    return layer.num_heads * windows * places**2


@torch.inference_mode()
def look_inside(
    model: nn.Module,
    image: Tensor,
    layers: Sequence[tuple[int, AttentionLayer]],
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Inside:
    """What happens to one normalised image (1, 3, S, S) on the model's device; the model is in evaluation mode.

    One pass, in which the memory of one layer's pattern is held at a time.
    """
    modules = dict(model.named_modules())
    outputs = [_output(modules, layer) for layer in attention_layers(model)]
    fixed = [name for name in (_first(modules, PATCHES), "positions", "embedded") if name and name in modules]
    inner = [f"{layer.name}.{part}" for _, layer in layers for part in ("q", "k", "v", "positions")]
    taps = [name for name in [*fixed, *inner, *outputs] if name in modules]
    count = sum(_weights(layer) for _, layer in layers)
    levels = next((rows, steps) for most, rows, steps in LEVELS if count <= most)
    made: dict[int, dict[str, Any]] = {}

    def attended(number: int, layer: AttentionLayer, pattern: Tensor) -> Tensor:
        parts = {part: seen.pop(f"{layer.name}.{part}") for part in ("q", "k", "v")}
        bias = seen.pop(f"{layer.name}.positions", None)
        made[number] = _attention(layer, modules[layer.name], pattern, parts, bias, levels)
        progress(len(made), len(layers))
        return pattern

    changes = {f"{layer.name}.pattern": partial(attended, number, layer) for number, layer in layers}
    with record(model, *dict.fromkeys(taps)) as seen, edit(model, changes):
        logits = model(image)
    leaving = {name: seen[name] for name in outputs}
    shown = [
        Layer(number=number, name=layer.name, **made[number], **_leaving(leaving[outputs[number]], layer))
        for number, layer in layers
    ]
    last = attention_layers(model)[-1]
    embedding = _embedding(model, seen, last) if "embedded" in seen else None
    labels, depth = _by_depth(model, outputs, leaving, seen.get("embedded"))
    prefix = prefix_names(model, last.prefix)
    return Inside(embedding, tuple(shown), prefix, _reads(model, prefix), _array(logits[0]), labels, depth)


def prefix_names(model: nn.Module, prefix: int) -> tuple[str, ...]:
    """What the tokens before the patches are."""
    if isinstance(model, DistilledDeiT):
        return ("class token", "distillation token")
    registers = range(1, prefix) if isinstance(model, DINOv2) else ()
    return (*["class token"][:prefix], *(f"register {number}" for number in registers))


def _reads(model: nn.Module, prefix: Sequence[str]) -> str:
    if isinstance(model, DistilledDeiT):
        return "the class token and the distillation token, each by a head of its own, and takes the mean,"
    if prefix:
        return "the class token"
    if isinstance(model, ViT) and model.pool == "max":
        return "the maximum over the patches"
    return "the mean over the patches"


def _attention(
    layer: AttentionLayer,
    module: nn.Module,
    pattern: Tensor,
    parts: dict[str, Tensor],
    bias: Tensor | None,
    levels: tuple[int, int],
) -> dict[str, Any]:
    """The fields of a page's layer that lie before its block's output; tensors (W, H, n, .), W windows or one image.

    levels: of the weights, and of the numbers of q, k, v, whose heads come first, each with a step of its own.
    """
    coded = {part: coded_steps(_array(one.transpose(0, 1)), axes=1, levels=levels[1]) for part, one in parts.items()}
    bias = None if bias is None else bias.reshape(-1, *bias.shape[-2:])  # (H, n, n)
    scale = getattr(module, "scale", parts["q"].shape[-1] ** -0.5)
    scores = _scores(parts["q"], parts["k"], scale, bias)
    allowed = pattern > 1e-30  # a mask's -100 leaves less
    found = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    score_error, coded_bias = 0.0, None
    if ((found - pattern).abs().amax(-1) <= SAME * pattern.amax(-1)).all():
        coded_bias = None if bias is None else coded_steps(_array(bias), axes=1)
        q, k = (torch.from_numpy(coded[part].decoded()).to(scores).transpose(0, 1) for part in ("q", "k"))
        lifted = None if coded_bias is None else torch.from_numpy(coded_bias.decoded()).to(scores)
        score_error = float((_scores(q, k, scale, lifted) - scores).abs()[allowed].max())
    else:
        scale = None
    return {
        "grid": layer.grid,
        "prefix": layer.prefix,
        "windows": None if layer.windows is None else layer.windows.cpu().numpy(),
        "pattern": coded_rows(_array(pattern), levels=levels[0]),
        **coded,
        "scale": scale,
        "bias": coded_bias,
        "score_error": score_error,
    }


def _scores(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """(W, H, n, n) before the softmax."""
    scores = q * scale @ k.transpose(-2, -1)
    return scores if bias is None else scores + bias


def _leaving(output: Tensor, layer: AttentionLayer) -> dict[str, Any]:
    """The fields of a page's layer about the tokens that leave its block, (1, T', D) or a map (1, D, h, w)."""
    grid, prefix = layer.grid, layer.prefix
    if output.ndim == 4:
        grid, prefix = (output.shape[2], output.shape[3]), 0
        output = output.flatten(2).transpose(1, 2)
    tokens = output[0].float().cpu()  # (T', D)
    norms = tokens.norm(dim=1)
    unit = tokens / norms.clamp(min=1e-12)[:, None]
    true = _array(unit @ unit.T)
    if len(tokens) > 2 * tokens.shape[1]:
        coded = coded_steps(_array(unit))
        rounded = coded.decoded()
        found = {"similarity": None, "unit": coded, "similarity_error": float(np.abs(rounded @ rounded.T - true).max())}
    else:
        coded = coded_steps(true[np.triu_indices(len(true))])
        found = {"similarity": coded, "unit": None, "similarity_error": coded.error}
    return {"out_grid": grid, "out_prefix": prefix, "width": tokens.shape[1], "norms": _array(norms), **found}


def _embedding(model: nn.Module, seen: dict[str, Any], last: AttentionLayer) -> Embedding:
    """The tokens before the first block, taken apart."""
    tokens = seen["embedded"][0]  # (T, D)
    positions = None
    if "positions" in seen:
        given = seen["positions"][0]
        positions = torch.cat([given.new_zeros(len(tokens) - len(given), given.shape[1]), given])  # none for registers
        tokens = tokens - positions
    patches = seen[_first(seen, PATCHES)].shape[1]
    return Embedding(
        kind=KINDS.get(type(model), "patches"),
        grid=model.patch_embed.grid if isinstance(model, Swin) else last.grid,
        prefix=len(tokens) - patches,
        content=coded_steps(_array(tokens)),
        positions=None if positions is None else coded_steps(_array(positions)),
    )


def _by_depth(
    model: nn.Module, outputs: Sequence[str], leaving: dict[str, Tensor], embedded: Tensor | None
) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Labels and logits (P, K) where final norm and head read the tokens of each depth whose width they can read.

    None for a model of convolutions, whose head reads no tokens.
    """
    try:
        attention_stack(model)
    except RegardError:
        return (), None
    given = [(f"layer {number}", leaving[name]) for number, name in enumerate(outputs)]
    given = [("embedding", embedded), *given] if embedded is not None else given
    given = [(label, tokens) for label, tokens in given if tokens.shape == leaving[outputs[-1]].shape]
    logits = torch.cat([read_out(model, tokens) for _, tokens in given])
    return tuple(label for label, _ in given), _array(logits)


def _output(modules: dict[str, nn.Module], layer: AttentionLayer) -> str:
    """The name of what leaves the block of a layer: its tap, or the unit of convolutions that holds it."""
    tap = f"{layer.name.removesuffix('.attn')}.tokens"
    return tap if tap in modules else layer.name.rpartition(".")[0]


def _first(names: Any, wanted: Sequence[str]) -> str:
    return next((name for name in wanted if name in names), "")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
