"""A SAM small enough for tests, and the same weights in the `segment_anything` package."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from regard.models.sam import SAM
from regard.segmentation.segmenter import Segmenter

SIZE: dict[str, Any] = {
    "img_size": 64, "patch_size": 8, "width": 24, "depth": 2, "num_heads": 2, "global_blocks": (1,), "window": 3,
    "dim": 32, "decoder_depth": 2, "decoder_heads": 4, "decoder_hidden": 48,
}  # fmt: skip


@pytest.fixture
def tiny_sam() -> SAM:
    """Every parameter drawn, so that none hides behind its 0 or 1; the same in each test."""
    torch.manual_seed(0)
    model = SAM(**SIZE)
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and parameter.ndim == 1
        nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.4 if "pos" in name else 0.15)
    return model.eval()


@pytest.fixture
def segmenter(tiny_sam: SAM) -> Segmenter:
    return Segmenter(tiny_sam, "tiny")


@pytest.fixture
def package(tiny_sam: SAM) -> Any:
    """The package's `SamPredictor` with the weights of `tiny_sam`."""
    package = pytest.importorskip("segment_anything", reason="segment-anything is not installed")
    modeling = package.modeling
    side, dim, grid = SIZE["img_size"], SIZE["dim"], SIZE["img_size"] // SIZE["patch_size"]
    sam = modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=side, patch_size=SIZE["patch_size"], embed_dim=SIZE["width"], depth=SIZE["depth"],
            num_heads=SIZE["num_heads"], mlp_ratio=4, norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True,
            use_rel_pos=True, global_attn_indexes=SIZE["global_blocks"], window_size=SIZE["window"], out_chans=dim,
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=dim, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
        ),
        mask_decoder=modeling.MaskDecoder(
            num_multimask_outputs=3, transformer_dim=dim, iou_head_depth=3, iou_head_hidden_dim=dim,
            transformer=modeling.TwoWayTransformer(
                depth=2, embedding_dim=dim, mlp_dim=SIZE["decoder_hidden"], num_heads=SIZE["decoder_heads"]
            ),
        ),
    )  # fmt: skip
    sam.load_state_dict(tiny_sam.state_dict())
    return package.SamPredictor(sam.eval())


@pytest.fixture
def photo() -> np.ndarray:
    """(97, 141, 3) uint8: patches of colour, and noise."""
    rng = np.random.default_rng(0)
    patches = np.kron(rng.integers(0, 200, (7, 8, 3)), np.ones((14, 18, 1)))[:97, :141]
    return (patches + rng.integers(0, 56, (97, 141, 3))).astype(np.uint8)
