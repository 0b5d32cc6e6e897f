"""Ours against Hugging Face's Image GPT with the same weights: 1e-5 of the largest logit in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.models.pixel_gpt import PixelGPT

transformers = pytest.importorskip("transformers")

LEVELS, SIDE, DIM, DEPTH, HEADS = 6, 4, 24, 3, 4


def ours_from(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their names and layouts in ours: matrices are (inputs, outputs) there, the start token is the last word."""
    words, positions = theirs["transformer.wte.weight"], theirs["transformer.wpe.weight"]
    state = {
        "pixel_embed.weight": words[:-1],
        "start.weight": words[-1:],
        "pos_embed": positions.unsqueeze(0),
        "norm.weight": theirs["transformer.ln_f.weight"],
        "head.weight": theirs["lm_head.weight"],
    }
    for i in range(DEPTH):
        part = f"transformer.h.{i}."
        for name, ours in (
            ("attn.c_attn", "attn.qkv"),
            ("attn.c_proj", "attn.proj"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            state[f"blocks.{i}.{ours}.weight"] = theirs[f"{part}{name}.weight"].t()
        for norm in (1, 2):
            state[f"blocks.{i}.norm{norm}.weight"] = theirs[f"{part}ln_{norm}.weight"]
    return state


def test_logits_of_a_tiny_image_gpt_are_hugging_faces() -> None:
    torch.manual_seed(0)
    config = transformers.ImageGPTConfig(
        vocab_size=LEVELS + 1, n_positions=SIDE**2, n_embd=DIM, n_layer=DEPTH, n_head=HEADS
    )
    theirs = transformers.ImageGPTForCausalImageModeling(config).eval()
    for name, parameter in theirs.named_parameters():
        centre = 1.0 if ".ln_" in name else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.0 if name.endswith("bias") else 0.2)
    ours = PixelGPT(SIDE, LEVELS, DIM, DEPTH, HEADS).eval()
    ours.load_state_dict(ours_from(theirs.state_dict()), strict=True)
    pixels = torch.randint(0, LEVELS, (3, SIDE**2))
    shifted = torch.cat([torch.full((3, 1), LEVELS), pixels[:, :-1]], dim=1)
    with torch.no_grad():
        logits, reference = ours(pixels), theirs(shifted).logits
    assert reference.std() > 0.1
    assert (logits - reference).abs().max() <= 1e-5 * reference.abs().max()
