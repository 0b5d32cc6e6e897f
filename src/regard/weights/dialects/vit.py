"""The ViT in the names of its publishers; ours are timm's (`blocks.0.attn.qkv.weight`).

Not visible in the names: Hugging Face's ViT uses a LayerNorm epsilon of 1e-12 where everybody else uses 1e-6, and
Google's uses the tanh form of GELU where everybody else uses the exact one.
"""

from __future__ import annotations

import re

from torch import Tensor

from regard.weights.dialects.naming import Dialect, Misfit, State, rename, stack_qkv

POOLER = "the layer between the pooled token and a pre-training head is not used"


def is_pooler(name: str) -> bool:
    return name.removeprefix("vit.").startswith(("pre_logits/", "pre_logits.", "pooler."))


def from_timm(state: State) -> State:
    # Before 0.6 timm saved the pre-logits layer of the in21k files; it is unused by a new head.
    return {name: tensor for name, tensor in state.items() if not is_pooler(name)}


# --- Hugging Face -----------------------------------------------------------------------------------------

# (pattern after an optional "vit.", our name), of other families' ViTs too. Both generations:
# `encoder.layer.0.attention.attention.query` until transformers 4, `layers.0.attention.q_proj` from 5 on.
# q, k, v are stacked afterwards.
HUGGING_FACE: tuple[tuple[str, str], ...] = (
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
        rename(name.removeprefix("vit."), HUGGING_FACE, name, "Hugging Face ViT"): tensor
        for name, tensor in state.items()
        if not is_pooler(name)
    }
    return stack_qkv(renamed)


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
    return {rename(name, _TORCHVISION_NAMES, name, "torchvision ViT"): t for name, t in state.items()}


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


def from_google(state: State) -> State:
    """Google's flax arrays: kernels are (inputs, outputs), attention keeps a head axis, images are HWC."""
    out: State = {}
    for name, tensor in state.items():
        if is_pooler(name):
            continue
        ours = rename(name, _GOOGLE_NAMES, name, "Google ViT")
        ours = re.sub(r"\.(kernel|scale)(?=:|$)", ".weight", ours)
        out[ours] = _from_flax(ours, tensor, name)
    return stack_qkv(out)


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
        raise Misfit(f"{name}: shape {tuple(tensor.shape)} found, {dimensions} axes expected of a Google ViT")
    return tensor


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Google ViT",
        ("vit",),
        lambda names: "embedding/kernel" in names or any(name.startswith("Transformer/") for name in names),
        from_google,
        is_pooler,
        POOLER,
    ),
    Dialect(
        "torchvision ViT",
        ("vit",),
        lambda names: "conv_proj.weight" in names or any(n.startswith("encoder.layers.encoder_layer_") for n in names),
        _from_torchvision,
    ),
    Dialect(
        "Hugging Face ViT",
        ("vit", "deit"),  # Hugging Face's plain DeiT is a ViT
        lambda names: any(name.removeprefix("vit.").startswith("embeddings.patch_embeddings.") for name in names),
        _from_huggingface,
        is_pooler,
        POOLER,
    ),
    Dialect(
        "timm ViT",
        ("vit", "deit", "dinov2", "pixel"),
        lambda names: "patch_embed.proj.weight" in names,
        from_timm,
        is_pooler,
        POOLER,
    ),
)
