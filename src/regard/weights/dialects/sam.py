"""Segment Anything in the names of Hugging Face and of timm; ours are Meta's.

Not visible in the names: the norms of Hugging Face's decoder have an epsilon of 1e-6 where Meta's have 1e-5.
"""

from __future__ import annotations

import torch

from regard.weights.dialects.naming import Dialect, Misfit, State, rename

# --- Hugging Face -----------------------------------------------------------------------------------------

_GAUSSIAN = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_W = r"(weight|bias)"
_ENCODER = r"vision_encoder\."
_LAYER = _ENCODER + r"layers\.(\d+)\."
_ROUND = r"mask_decoder\.transformer\.layers\.(\d+)\."
_MLP = r"mask_decoder\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\."
_HF_NAMES: tuple[tuple[str, str], ...] = (
    (_ENCODER + "pos_embed", "image_encoder.pos_embed"),
    (_ENCODER + rf"patch_embed\.projection\.{_W}", r"image_encoder.patch_embed.proj.\1"),
    (_LAYER + rf"layer_norm([12])\.{_W}", r"image_encoder.blocks.\1.norm\2.\3"),
    (_LAYER + r"attn\.(rel_pos_[hw]|(?:qkv|proj)\.(?:weight|bias))", r"image_encoder.blocks.\1.attn.\2"),
    (_LAYER + rf"mlp\.lin([12])\.{_W}", r"image_encoder.blocks.\1.mlp.lin\2.\3"),
    (_ENCODER + r"neck\.conv1\.weight", "image_encoder.neck.0.weight"),
    (_ENCODER + rf"neck\.layer_norm1\.{_W}", r"image_encoder.neck.1.\1"),
    (_ENCODER + r"neck\.conv2\.weight", "image_encoder.neck.2.weight"),
    (_ENCODER + rf"neck\.layer_norm2\.{_W}", r"image_encoder.neck.3.\1"),
    (r"prompt_encoder\.point_embed\.([0-3])\.weight", r"prompt_encoder.point_embeddings.\1.weight"),
    (r"prompt_encoder\.(not_a_point_embed|no_mask_embed)\.weight", r"prompt_encoder.\1.weight"),
    (rf"prompt_encoder\.mask_embed\.conv1\.{_W}", r"prompt_encoder.mask_downscaling.0.\1"),
    (rf"prompt_encoder\.mask_embed\.layer_norm1\.{_W}", r"prompt_encoder.mask_downscaling.1.\1"),
    (rf"prompt_encoder\.mask_embed\.conv2\.{_W}", r"prompt_encoder.mask_downscaling.3.\1"),
    (rf"prompt_encoder\.mask_embed\.layer_norm2\.{_W}", r"prompt_encoder.mask_downscaling.4.\1"),
    (rf"prompt_encoder\.mask_embed\.conv3\.{_W}", r"prompt_encoder.mask_downscaling.6.\1"),
    (r"mask_decoder\.(iou_token|mask_tokens)\.weight", r"mask_decoder.\1.weight"),
    (_ROUND + rf"layer_norm([1-4])\.{_W}", r"mask_decoder.transformer.layers.\1.norm\2.\3"),
    (
        _ROUND + rf"(self_attn|cross_attn_\w+)\.([qkv]|out)_proj\.{_W}",
        r"mask_decoder.transformer.layers.\1.\2.\3_proj.\4",
    ),
    (_ROUND + rf"mlp\.lin([12])\.{_W}", r"mask_decoder.transformer.layers.\1.mlp.lin\2.\3"),
    (
        rf"mask_decoder\.transformer\.final_attn_token_to_image\.([qkv]|out)_proj\.{_W}",
        r"mask_decoder.transformer.final_attn_token_to_image.\1_proj.\2",
    ),
    (rf"mask_decoder\.transformer\.layer_norm_final_attn\.{_W}", r"mask_decoder.transformer.norm_final_attn.\1"),
    (rf"mask_decoder\.upscale_conv1\.{_W}", r"mask_decoder.output_upscaling.0.\1"),
    (rf"mask_decoder\.upscale_layer_norm\.{_W}", r"mask_decoder.output_upscaling.1.\1"),
    (rf"mask_decoder\.upscale_conv2\.{_W}", r"mask_decoder.output_upscaling.3.\1"),
    (_MLP + rf"proj_in\.{_W}", r"mask_decoder.\1.layers.0.\2"),
    (_MLP + rf"layers\.0\.{_W}", r"mask_decoder.\1.layers.1.\2"),
    (_MLP + rf"proj_out\.{_W}", r"mask_decoder.\1.layers.2.\2"),
)
# One matrix for image and prompts: older files hold it twice, those of transformers 5 once, under the first name.
_SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


def _from_huggingface(state: State) -> State:
    shared = {name: state[name] for name in _SHARED if name in state}
    if len(shared) == 2 and not torch.equal(*shared.values()):
        raise Misfit(f"{' and '.join(shared)} differ and should be one matrix; take another copy of the file")
    renamed = {
        rename(name, _HF_NAMES, name, "Hugging Face SAM"): tensor
        for name, tensor in state.items()
        if name not in shared
    }
    for matrix in shared.values():
        renamed[_GAUSSIAN] = matrix
    return renamed


# --- Meta -------------------------------------------------------------------------------------------------

# Buffers that the published files lack, and files that were saved in a training may have.
_CONSTANTS = ("pixel_mean", "pixel_std")


def _from_meta(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name not in _CONSTANTS}


# --- timm -------------------------------------------------------------------------------------------------


def _refuse_encoder(state: State) -> State:
    raise Misfit(
        "the image encoder of a SAM alone (timm's samvit_*), without what turns prompts into masks; "
        "give Meta's whole file, for example sam_vit_b_01ec64.pth"
    )


DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "Hugging Face SAM",
        ("sam",),
        lambda names: "vision_encoder.layers.0.attn.rel_pos_h" in names,
        _from_huggingface,
    ),
    Dialect(
        "SAM",
        ("sam",),
        lambda names: any(name.startswith(("image_encoder.blocks.", "mask_decoder.iou_token.")) for name in names),
        _from_meta,
        lambda name: name in _CONSTANTS,
        "by which images are normalised is no weight",
    ),
    Dialect(
        "SAM's image encoder",
        ("sam",),
        lambda names: {"blocks.0.attn.rel_pos_h", "neck.0.weight"} <= names,
        _refuse_encoder,
    ),
)
