"""From any published dialect of names to ours: pure functions, dict -> dict.

Our ViT names are timm's (`blocks.0.attn.qkv.weight`), our ResNet names are torchvision's
(`layer1.0.conv1.weight`), so those two pass through unchanged. Nothing is dropped in silence: what
`convert` leaves out is named by `left_out`. Not visible in the names: Hugging Face's ViT uses a LayerNorm
epsilon of 1e-12 where everybody else uses 1e-6, and Google's uses the tanh form of GELU where everybody
else uses the exact one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.weights.detect import visible

State = dict[str, Tensor]


def detect_dialect(keys: Iterable[str]) -> str:
    """The dialect that a set of names is written in.

    Returns "timm" (ViT), "huggingface", "torchvision", "google", "resnet", or "other" where no marker fits.
    """
    names = set(keys)
    if "embedding/kernel" in names or any(name.startswith("Transformer/") for name in names):
        return "google"
    if "conv_proj.weight" in names or any(name.startswith("encoder.layers.encoder_layer_") for name in names):
        return "torchvision"
    if any(name.removeprefix("vit.").startswith("embeddings.patch_embeddings.") for name in names):
        return "huggingface"
    if "patch_embed.proj.weight" in names:
        return "timm"
    if "conv1.weight" in names and any(name.startswith("layer1.0.") for name in names):
        return "resnet"
    return "other"


def convert(state: Mapping[str, Tensor], architecture: str = "", path: str | Path = "the weights") -> State:
    """The same weights under our names; the input is not changed. path: for messages.

    Names of no known dialect pass through unchanged: `load_state` judges them. Raises RegardError where a
    name of a known dialect has no place in ours, and where the weights are of another family than
    `architecture`.
    """
    dialect = detect_dialect(state)
    found = "a ResNet" if dialect == "resnet" else "a vision transformer" if dialect in _CONVERTERS else ""
    wanted = "a ResNet" if architecture.startswith("resnet") else "a vision transformer"
    if found and architecture.startswith(("resnet", "vit_")) and found != wanted:
        raise RegardError(f"{path}: weights of {found}, but {architecture} is {wanted}; name the fitting model")
    try:
        return _CONVERTERS.get(dialect, dict)(dict(state))
    except _Misfit as misfit:
        raise RegardError(f"{path}: {visible(str(misfit))}") from None


class _Misfit(Exception):
    """What a converter cannot place; `convert` adds the path."""


def left_out(state: Mapping[str, Tensor]) -> list[str]:
    """One line for each part of `state` that `convert` leaves out because our models have no such part."""
    parts = [name for name in state if _is_pooler(name)]
    if not parts:
        return []
    return [f"left out {', '.join(parts)}: the layer between the pooled token and a pre-training head is not used"]


def _is_pooler(name: str) -> bool:
    return name.removeprefix("vit.").startswith(("pre_logits/", "pre_logits.", "pooler."))


def _from_timm(state: State) -> State:
    # Before 0.6 timm saved the pre-logits layer of the in21k files; it is unused by a new head.
    return {name: tensor for name, tensor in state.items() if not _is_pooler(name)}


# --- Hugging Face -----------------------------------------------------------------------------------------

# (pattern after an optional "vit.", our name). Both generations:
# `encoder.layer.0.attention.attention.query` until transformers 4, `layers.0.attention.q_proj` from 5 on.
# q, k, v are stacked afterwards.
_HF_NAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.)?layers?\.(\d+)\.layernorm_before\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.layernorm_after\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (
        r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.(weight|bias)",
        r"blocks.\1.attn.qkv.\4:\2\3",
    ),
    (
        r"(?:encoder\.)?layers?\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(weight|bias)",
        r"blocks.\1.attn.proj.\2",
    ),
    (
        r"(?:encoder\.)?layers?\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.(weight|bias)",
        r"blocks.\1.mlp.fc1.\2",
    ),
    (r"(?:encoder\.)?layers?\.(\d+)\.(?:output\.dense|mlp\.fc2)\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"classifier\.(weight|bias)", r"head.\1"),
)


def _from_huggingface(state: State) -> State:
    renamed = {
        _rename(name.removeprefix("vit."), _HF_NAMES, name, "Hugging Face ViT"): tensor
        for name, tensor in state.items()
        if not _is_pooler(name)
    }
    return _stack_qkv(renamed)


def _stack_qkv(state: State) -> State:
    """`NAME:query`, `:key` and `:value`, each (D, D) or (D,), stacked to `NAME`, (3D, D) or (3D,)."""
    out: State = {}
    parts: dict[str, State] = {}
    for name, tensor in state.items():
        base, separator, part = name.partition(":")
        if separator:
            parts.setdefault(base, {})[part[0]] = tensor
        else:
            out[name] = tensor
    for base, found in parts.items():
        missing = [part for part in "qkv" if part not in found]
        if missing:
            raise _Misfit(f"{base}: the weights lack its {' and '.join(missing)} part; the file is incomplete")
        out[base] = torch.cat([found["q"], found["k"], found["v"]])
    return out


# --- torchvision ------------------------------------------------------------------------------------------

_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
_TORCHVISION_NAMES: tuple[tuple[str, str], ...] = (
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"conv_proj\.(weight|bias)", r"patch_embed.proj.\1"),
    (_LAYER + r"ln_([12])\.(weight|bias)", r"blocks.\1.norm\2.\3"),
    (_LAYER + r"self_attention\.in_proj_(weight|bias)", r"blocks.\1.attn.qkv.\2"),
    (_LAYER + r"self_attention\.out_proj\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (_LAYER + r"mlp\.(?:0|linear_1)\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (_LAYER + r"mlp\.(?:3|linear_2)\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(weight|bias)", r"norm.\1"),
    (r"heads\.head\.(weight|bias)", r"head.\1"),
)


def _from_torchvision(state: State) -> State:
    return {_rename(name, _TORCHVISION_NAMES, name, "torchvision ViT"): t for name, t in state.items()}


# --- Google -----------------------------------------------------------------------------------------------

_BLOCK = r"Transformer/encoderblock_(\d+)/"
_GOOGLE_NAMES: tuple[tuple[str, str], ...] = (
    (r"cls", "cls_token"),
    (r"embedding/(kernel|bias)", r"patch_embed.proj.\1"),
    (r"Transformer/posembed_input/pos_embedding", "pos_embed"),
    (_BLOCK + r"LayerNorm_0/(scale|bias)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"LayerNorm_2/(scale|bias)", r"blocks.\1.norm2.\2"),
    (
        _BLOCK + r"MultiHeadDotProductAttention_1/(query|key|value)/(kernel|bias)",
        r"blocks.\1.attn.qkv.\3:\2",
    ),
    (_BLOCK + r"MultiHeadDotProductAttention_1/out/(kernel|bias)", r"blocks.\1.attn.proj.\2"),
    (_BLOCK + r"MlpBlock_3/Dense_0/(kernel|bias)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"MlpBlock_3/Dense_1/(kernel|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"Transformer/encoder_norm/(scale|bias)", r"norm.\1"),
    (r"head/(kernel|bias)", r"head.\1"),
)


def _from_google(state: State) -> State:
    """Google's flax arrays: kernels are (inputs, outputs), attention keeps a head axis, images are HWC."""
    out: State = {}
    for name, tensor in state.items():
        if _is_pooler(name):
            continue
        ours = _rename(name, _GOOGLE_NAMES, name, "Google ViT")
        ours = re.sub(r"\.(kernel|scale)(?=:|$)", ".weight", ours)
        out[ours] = _from_flax(ours, tensor, name)
    return _stack_qkv(out)


def _from_flax(ours: str, tensor: Tensor, name: str) -> Tensor:
    if ours == "patch_embed.proj.weight":
        return _expect(tensor, 4, name).permute(3, 2, 0, 1).contiguous()  # (P, P, 3, D) -> (D, 3, P, P)
    if ".attn.qkv." in ours and ".weight" in ours:
        return _expect(tensor, 3, name).flatten(1).t().contiguous()  # (D, h, d_h) -> (h * d_h, D)
    if ".attn.qkv." in ours:
        return tensor.flatten()  # (h, d_h) -> (D,)
    if ours.endswith(".attn.proj.weight"):
        return _expect(tensor, 3, name).flatten(0, 1).t().contiguous()  # (h, d_h, D) -> (D, h * d_h)
    if ours.endswith(("fc1.weight", "fc2.weight", "head.weight")):
        return _expect(tensor, 2, name).t().contiguous()
    return tensor


def _expect(tensor: Tensor, dimensions: int, name: str) -> Tensor:
    if tensor.ndim != dimensions:
        raise _Misfit(f"{name}: shape {tuple(tensor.shape)} found, {dimensions} axes expected of a Google ViT")
    return tensor


def _rename(short: str, table: Iterable[tuple[str, str]], name: str, dialect: str) -> str:
    for pattern, ours in table:
        match = re.fullmatch(pattern, short)
        if match:
            return match.expand(ours)
    raise _Misfit(f"{name}: no part of a {dialect} bears this name; these weights are of another model")


_CONVERTERS: dict[str, Callable[[State], State]] = {
    "timm": _from_timm,
    "huggingface": _from_huggingface,
    "torchvision": _from_torchvision,
    "google": _from_google,
}
