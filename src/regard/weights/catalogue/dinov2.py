"""Weights of DINOv2, without a head: timm's copies and Meta's own files."""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, HubFile

FILES = "https://dl.fbaipublicfiles.com/dinov2/"

# architecture -> (Meta's name, ImageNet-1k top-1 of k nearest neighbours and of a linear layer on frozen features)
_DINOV2: dict[str, tuple[str, float, float]] = {
    "vit_small_patch14_dinov2": ("dinov2_vits14", 79.0, 81.1),
    "vit_small_patch14_reg4_dinov2": ("dinov2_vits14_reg4", 79.1, 80.9),
    "vit_base_patch14_dinov2": ("dinov2_vitb14", 82.1, 84.5),
    "vit_base_patch14_reg4_dinov2": ("dinov2_vitb14_reg4", 82.0, 84.6),
}


def _entry(architecture: str, recipe: str, source: HubFile | str) -> Checkpoint:
    _, neighbours, linear = _DINOV2[architecture]
    return Checkpoint(
        tag=f"{architecture}.{recipe}",
        architecture=architecture,
        source=source,
        sha256=None,
        licence="apache-2.0",
        pretraining="LVD-142M, without labels",
        preprocess=Preprocess(518, 1.0, "short", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=0,
        top1=None,
        note=f"top-1 of frozen features at 224 pixels: {linear} by a linear layer, {neighbours} by nearest neighbours",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(_entry(name, "lvd142m", HubFile(f"timm/{name}.lvd142m", "model.safetensors")) for name in _DINOV2),
    *(
        _entry(name, "meta_lvd142m", f"{FILES}{file.removesuffix('_reg4')}/{file}_pretrain.pth")
        for name, (file, _, _) in _DINOV2.items()
    ),
)
