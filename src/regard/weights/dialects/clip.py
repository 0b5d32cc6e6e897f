"""CLIP in the names of its publishers; ours are OpenAI's, which open_clip shares."""

from __future__ import annotations

from torch import Tensor

from regard.weights.dialects.naming import Dialect, State, rename, stack_qkv

CONSTANTS = "numbers that follow from the model, no weights"

# --- OpenAI, open_clip ------------------------------------------------------------------------------------

# Buffers of OpenAI's archives and of open_clip's older files.
_OPENAI_CONSTANTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def _from_openai(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name not in _OPENAI_CONSTANTS}


# --- Hugging Face -----------------------------------------------------------------------------------------

_TOWERS = (("text_model.", ""), ("vision_model.", "visual."))
_LAYER = r"encoder\.layers\.(\d+)\."
# (pattern behind the tower's prefix, our name behind ours). "pre_layrnorm" is spelt so there.
_HF_NAMES: tuple[tuple[str, str], ...] = (
    (r"embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.class_embedding", "class_embedding"),
    (r"embeddings\.patch_embedding\.weight", "conv1.weight"),
    (r"pre_layrnorm\.(weight|bias)", r"ln_pre.\1"),
    (r"post_layernorm\.(weight|bias)", r"ln_post.\1"),
    (r"final_layer_norm\.(weight|bias)", r"ln_final.\1"),
    (_LAYER + r"self_attn\.([qkv])_proj\.(weight|bias)", r"transformer.resblocks.\1.attn.in_proj_\3:\2"),
    (_LAYER + r"self_attn\.out_proj\.(weight|bias)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (_LAYER + r"layer_norm([12])\.(weight|bias)", r"transformer.resblocks.\1.ln_\2.\3"),
    (_LAYER + r"mlp\.fc1\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (_LAYER + r"mlp\.fc2\.(weight|bias)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
)
# Projections are matrices (inputs, outputs) in our names, Linear layers (outputs, inputs) there.
_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}


def _from_huggingface(state: State) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        if _is_position_ids(name):
            continue
        ours, value = _place(name, tensor)
        renamed[ours] = value
    return stack_qkv(renamed)


def _place(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Our name and tensor for one of Hugging Face's, a part of q, k and v marked `NAME:q`."""
    if name in _PROJECTIONS:
        return _PROJECTIONS[name], tensor.t().contiguous()
    if name == "logit_scale":
        return name, tensor
    theirs, ours = next(((theirs, ours) for theirs, ours in _TOWERS if name.startswith(theirs)), ("", ""))
    short = name.removeprefix(theirs) if theirs else ""
    return ours + rename(short, _HF_NAMES, name, "Hugging Face CLIP"), tensor


def _is_position_ids(name: str) -> bool:
    """Buffers of transformers before version 4.31."""
    return name.endswith(".embeddings.position_ids")


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Hugging Face CLIP",
        ("clip",),
        lambda names: (
            "vision_model.embeddings.class_embedding" in names
            or "text_model.embeddings.token_embedding.weight" in names
        ),
        _from_huggingface,
        _is_position_ids,
        CONSTANTS,
    ),
    Dialect(
        "CLIP",
        ("clip",),
        lambda names: "visual.conv1.weight" in names and "token_embedding.weight" in names,
        _from_openai,
        lambda name: name in _OPENAI_CONSTANTS,
        CONSTANTS,
    ),
)
