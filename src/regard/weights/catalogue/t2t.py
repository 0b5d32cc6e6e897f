"""Weights of T2T-ViT: its authors' releases (no checksums are published).

Left out: 84.2_T2T_ViT_24, trained by token labelling, which has 65 M parameters by its authors' table where T2T-ViT-24
has 64.1 M: it is another model.
"""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, pretraining_of

FILES = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main/"
RECIPE = "yitu_in1k"


def _entry(architecture: str, file: str) -> Checkpoint:
    """file: its name, which begins with its top-1 in per cent; all are cropped to 0.9 of the shorter side."""
    size = 384 if architecture.endswith("_384") else 224
    return Checkpoint(
        tag=f"{architecture}.{RECIPE}",
        architecture=architecture,
        source=f"{FILES}{file}.pth.tar",
        sha256=None,
        licence="bsd-3-clause-clear",
        pretraining=pretraining_of(RECIPE),
        preprocess=Preprocess(size, 0.9, "short", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=1000,
        top1=float(file.split("_")[0]),
        note="averaged weights (EMA), in the authors' training checkpoint",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = tuple(
    _entry(*row)
    for row in (
        ("t2t_vit_7", "71.7_T2T_ViT_7"),
        ("t2t_vit_10", "75.2_T2T_ViT_10"),
        ("t2t_vit_12", "76.5_T2T_ViT_12"),
        ("t2t_vit_14", "81.5_T2T_ViT_14"),
        ("t2t_vit_19", "81.9_T2T_ViT_19"),
        ("t2t_vit_24", "82.3_T2T_ViT_24"),
        ("t2t_vit_t_14", "81.7_T2T_ViTt_14"),
        ("t2t_vit_t_19", "82.4_T2T_ViTt_19"),
        ("t2t_vit_t_24", "82.6_T2T_ViTt_24"),
        ("t2t_vit_14_384", "83.3_T2T_ViT_14"),
    )
)
