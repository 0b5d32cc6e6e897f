"""Weights of the hybrids: timm's conversions and re-evaluations, Google's recommended AugReg files."""

from __future__ import annotations

from regard.weights.catalogue.entry import Checkpoint
from regard.weights.catalogue.vit import google_entry, timm_entry

# What timm publishes on the hub: architecture, recipe, top-1, top-5.
_TIMM: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("vit_small_r26_s32_224", "augreg_in21k_ft_in1k", 81.856, 96.038),
    ("vit_small_r26_s32_224", "augreg_in21k", None, None),
    ("vit_small_r26_s32_384", "augreg_in21k_ft_in1k", 84.066, 97.310),
    ("vit_base_r50_s16_224", "orig_in21k", None, None),
    ("vit_base_r50_s16_384", "orig_in21k_ft_in1k", 84.988, 97.296),
    ("vit_large_r50_s32_224", "augreg_in21k_ft_in1k", 84.434, 97.152),
    ("vit_large_r50_s32_224", "augreg_in21k", None, None),
    ("vit_large_r50_s32_384", "augreg_in21k_ft_in1k", 86.188, 97.928),
)

# The AugReg files that Google's repository recommends, fine-tuned at 384: architecture, file stem, top-1.
_GOOGLE: tuple[tuple[str, str, float], ...] = (
    ("vit_small_r26_s32_384", "R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--{}lr_0.01", 83.85),
    ("vit_large_r50_s32_384", "R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1--{}lr_0.01", 85.99),
)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(timm_entry(*row) for row in _TIMM),
    *(google_entry(*row) for row in _GOOGLE),
)
