"""Swin in the names of its publishers; ours are timm's (`layers.1.downsample.norm.weight`, `head.fc.weight`).

Its authors, and timm before 0.9, end a stage with the merging that ours opens the next one with. Buffers that follow
from the window are left out. Not visible in the names: torchvision and Hugging Face fill a grid that their windows do
not divide before they shift it, timm and we do so after; at the published sizes nothing is filled.
"""

from __future__ import annotations

import re

from torch import Tensor

from regard.models.swin import TABLE
from regard.weights.dialects.naming import Dialect, State, rename, stack_qkv

BUFFERS = ("relative_position_index", "attn_mask")
WHY = "indices and masks of the windows, which are computed"


def is_buffer(name: str) -> bool:
    return name.endswith(BUFFERS)


def _without_buffers(state: State) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in state.items() if not is_buffer(name)]


def _next_stage(name: str) -> str:
    """`layers.0.downsample.norm.weight`, which closes stage 0, as what opens stage 1."""
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name)


# --- The authors and timm ---------------------------------------------------------------------------------


def _from_timm(state: State) -> State:
    closing = any(name.startswith("layers.0.downsample.") for name in state)
    out: State = {}
    for name, tensor in _without_buffers(state):
        ours = _next_stage(name) if closing else name
        out[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", ours)] = tensor
    return out


# --- Hugging Face -----------------------------------------------------------------------------------------

# (pattern after an optional "swin.", our name before the merging moves). Both generations: `attention.self.query` and
# `intermediate.dense` until transformers 4, `attention.q_proj` and `mlp.fc1` from 5 on. q, k, v are stacked afterwards.
_HF_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_HF_NAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(weight|bias)", r"patch_embed.norm.\1"),
    (_HF_BLOCK + r"layernorm_before\.(weight|bias)", r"layers.\1.blocks.\2.norm1.\3"),
    (_HF_BLOCK + r"layernorm_after\.(weight|bias)", r"layers.\1.blocks.\2.norm2.\3"),
    (_HF_BLOCK + rf"attention\.(?:self|relative_position_bias)\.{TABLE}", rf"layers.\1.blocks.\2.attn.{TABLE}"),
    (
        _HF_BLOCK + r"attention\.(?:self\.(query|key|value)|([qkv])_proj)\.(weight|bias)",
        r"layers.\1.blocks.\2.attn.qkv.\5:\3\4",
    ),
    (_HF_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(weight|bias)", r"layers.\1.blocks.\2.attn.proj.\3"),
    (_HF_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.(weight|bias)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (_HF_BLOCK + r"(?:output\.dense|mlp\.fc2)\.(weight|bias)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"encoder\.(layers\.\d+\.downsample\.(?:norm|reduction)\.(?:weight|bias))", r"\1"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
    (r"classifier\.(weight|bias)", r"head.fc.\1"),
)


def _from_huggingface(state: State) -> State:
    renamed = {
        _next_stage(rename(name.removeprefix("swin."), _HF_NAMES, name, "Hugging Face Swin")): tensor
        for name, tensor in _without_buffers(state)
    }
    return stack_qkv(renamed)


# --- torchvision ------------------------------------------------------------------------------------------

# Names after `_stage_of`.
_TORCHVISION_NAMES: tuple[tuple[str, str], ...] = (
    (r"layers\.0\.downsample\.0\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"layers\.0\.downsample\.2\.(weight|bias)", r"patch_embed.norm.\1"),
    (r"(layers\.\d+\.downsample\.(?:norm|reduction)\.(?:weight|bias))", r"\1"),
    (r"(layers\.\d+\.blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj)\.(?:weight|bias))", r"\1"),
    (rf"(layers\.\d+\.blocks\.\d+\.attn\.{TABLE})", r"\1"),
    (r"(layers\.\d+\.blocks\.\d+)\.mlp\.0\.(weight|bias)", r"\1.mlp.fc1.\2"),
    (r"(layers\.\d+\.blocks\.\d+)\.mlp\.3\.(weight|bias)", r"\1.mlp.fc2.\2"),
    (r"(norm\.(?:weight|bias))", r"\1"),
    (r"head\.(weight|bias)", r"head.fc.\1"),
)


def _stage_of(name: str) -> str:
    """`features.3.` are the blocks of stage 1, `features.2.` is what opens it; `features.0.` opens stage 0."""
    found = re.match(r"features\.(\d+)\.", name)
    if found is None:
        return name
    stage, inner = divmod(int(found[1]), 2)
    return f"layers.{stage}.{'blocks' if inner else 'downsample'}.{name[found.end() :]}"


def _from_torchvision(state: State) -> State:
    return {
        rename(_stage_of(name), _TORCHVISION_NAMES, name, "torchvision Swin"): tensor
        for name, tensor in _without_buffers(state)
    }


def _marked(names: frozenset[str], start: str) -> bool:
    return any(name.startswith(start) and name.endswith(TABLE) for name in names)


DIALECTS: tuple[Dialect, ...] = (
    Dialect("timm Swin", ("swin",), lambda names: _marked(names, "layers."), _from_timm, is_buffer, WHY),
    Dialect(
        "torchvision Swin", ("swin",), lambda names: _marked(names, "features."), _from_torchvision, is_buffer, WHY
    ),
    Dialect(
        "Hugging Face Swin",
        ("swin",),
        lambda names: _marked(names, "swin.encoder.layers.") or _marked(names, "encoder.layers."),
        _from_huggingface,
        is_buffer,
        WHY,
    ),
)
