"""A tiny SAM, trained for some seconds, and the published package's with the same weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.models.sam import SAM, Prompts

SIDE, PATCH, DIM, HEADS, HIDDEN, WINDOW = 64, 8, 48, 2, 64, 5
CLICKS, RATE = 16, 8e-3
WARM_UP, LEARNED, MOST, COOL_DOWN = 60, 1.3, 800, 120  # steps; a loss (a blank answer's is 2.4); steps; steps
RADII = (8, 12, 18)


def trained() -> SAM:
    """On clicks, each of which means a disc around it; its size is not said, so that the three masks differ.

    A task that is learned in seconds: masks are as sharp and as many as those of a real model, and depend on the image,
    whose noise has been learned to be looked through.
    """
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = SAM(
        img_size=SIDE,
        patch_size=PATCH,
        width=DIM,
        depth=2,
        num_heads=2,
        global_blocks=(1,),
        window=WINDOW,
        dim=DIM,
        decoder_heads=HEADS,
        decoder_hidden=HIDDEN,
    )
    with torch.no_grad():  # a start from which the way is short
        model.image_encoder.pos_embed.copy_(model.prompt_encoder.image_positions().view(1, *model.grid, DIM))
    optimiser = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), fused=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    step, last, loss_so_far = 0, MOST, 3.0
    while step < last:
        left = (last - step) / COOL_DOWN if last < MOST else 1.0
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARM_UP, left)
        places = random.integers(0, SIDE, (CLICKS, 2, 1, 1))
        distances = (x - places[:, 0]) ** 2 + (y - places[:, 1]) ** 2  # (P, S, S)
        truths = distances < random.choice(RADII, (CLICKS, 1, 1)) ** 2
        embedding = model.embed(torch.randn(1, 3, SIDE, SIDE))
        loss = _loss(model, embedding, torch.from_numpy(places[..., 0, 0]).float(), torch.from_numpy(truths))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step, loss_so_far = step + 1, 0.9 * loss_so_far + 0.1 * loss.item()
        if last == MOST and loss_so_far < LEARNED:
            last = step + COOL_DOWN
    return model.eval()


def _loss(model: SAM, embedding: Tensor, places: Tensor, truths: Tensor) -> Tensor:
    """Of the best of three masks, and of all estimates of their IoU. places: (P, 2); truths: (P, S, S) bool."""
    found = model.decode(embedding, Prompts(places[:, None], torch.ones(len(places), 1)))
    logits, estimates = found.logits[:, 1:], found.iou[:, 1:]  # (P, 3, s, s), (P, 3)
    wanted = F.interpolate(truths[:, None].float(), logits.shape[2:], mode="area").expand_as(logits)
    cross = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean((2, 3))
    chances = logits.sigmoid()
    dice = 1 - 2 * (chances * wanted).sum((2, 3)) / ((chances + wanted).sum((2, 3)) + 1)
    inside, true = logits > 0, wanted > 0.5
    iou = (inside & true).sum((2, 3)) / (inside | true).sum((2, 3)).clamp(min=1)
    return (5 * cross + dice).min(dim=1).values.mean() + F.mse_loss(estimates, iou)


def of_package(ours: SAM) -> Any:
    """The published package's `Sam` with the weights of `trained`."""
    modeling = pytest.importorskip("segment_anything.modeling", reason="segment-anything is not installed")
    grid = SIDE // PATCH
    theirs = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=SIDE, patch_size=PATCH, embed_dim=DIM, depth=2, num_heads=2, mlp_ratio=4,
            norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True, use_rel_pos=True, global_attn_indexes=(1,),
            window_size=WINDOW, out_chans=DIM,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=DIM, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=16
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3,
            transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=HIDDEN, num_heads=HEADS),
            transformer_dim=DIM, iou_head_depth=3, iou_head_hidden_dim=DIM,
        ),
    )  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    return theirs.eval()
