"""Weights of Swin: timm's copies with timm's preprocessing and re-evaluation, the authors' files, torchvision's."""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Checkpoint,
    HubFile,
    pretraining_of,
    torchvision_entry,
)

FILES = "https://github.com/SwinTransformer/storage/releases/download/"
IN22K_CLASSES = 21_841

# timm's copies of the authors' files: architecture, recipe, top-1, top-5. The first of an architecture is its default:
# as in timm, the better weights of the two.
_TIMM: tuple[tuple[str, str, float | None, float | None], ...] = (
    ("swin_tiny_patch4_window7_224", "ms_in1k", 81.388, 95.540),
    ("swin_tiny_patch4_window7_224", "ms_in22k_ft_in1k", 80.966, 96.020),
    ("swin_tiny_patch4_window7_224", "ms_in22k", None, None),
    ("swin_small_patch4_window7_224", "ms_in22k_ft_in1k", 83.330, 96.996),
    ("swin_small_patch4_window7_224", "ms_in1k", 83.228, 96.326),
    ("swin_small_patch4_window7_224", "ms_in22k", None, None),
    ("swin_base_patch4_window7_224", "ms_in22k_ft_in1k", 85.276, 97.566),
    ("swin_base_patch4_window7_224", "ms_in1k", 83.604, 96.450),
    ("swin_base_patch4_window7_224", "ms_in22k", None, None),
    ("swin_base_patch4_window12_384", "ms_in22k_ft_in1k", 86.442, 98.068),
    ("swin_base_patch4_window12_384", "ms_in1k", 84.478, 96.886),
    ("swin_base_patch4_window12_384", "ms_in22k", None, None),
)

# The authors' files and figures: architecture, recipe, release and what follows the architecture in the file's name,
# top-1, top-5.
_AUTHORS: tuple[tuple[str, str, str, str, float, float], ...] = (
    ("swin_tiny_patch4_window7_224", "in1k", "v1.0.0", "", 81.2, 95.5),
    ("swin_tiny_patch4_window7_224", "in22k_ft_in1k", "v1.0.8", "_22kto1k_finetune", 80.9, 96.0),
    ("swin_small_patch4_window7_224", "in1k", "v1.0.0", "", 83.2, 96.2),
    ("swin_small_patch4_window7_224", "in22k_ft_in1k", "v1.0.8", "_22kto1k_finetune", 83.2, 97.0),
    ("swin_base_patch4_window7_224", "in1k", "v1.0.0", "", 83.5, 96.5),
    ("swin_base_patch4_window7_224", "in22k_ft_in1k", "v1.0.0", "_22kto1k", 85.2, 97.5),
    ("swin_base_patch4_window12_384", "in1k", "v1.0.0", "", 84.5, 97.0),
    ("swin_base_patch4_window12_384", "in22k_ft_in1k", "v1.0.0", "_22kto1k", 86.4, 98.0),
)

# torchvision: architecture, file, resize before the crop, top-1, top-5.
_TORCHVISION: tuple[tuple[str, str, int, float, float], ...] = (
    ("swin_tiny_patch4_window7_224", "swin_t-704ceda3", 232, 81.474, 95.776),
    ("swin_small_patch4_window7_224", "swin_s-5e29d889", 246, 83.196, 96.360),
    ("swin_base_patch4_window7_224", "swin_b-68c6b09e", 238, 83.582, 96.640),
)


def _entry(
    tag: str, source: HubFile | str, preprocess: Preprocess, top1: float | None, top5: float | None
) -> Checkpoint:
    architecture, recipe = tag.split(".")
    return Checkpoint(
        tag=tag,
        architecture=architecture,
        source=source,
        sha256=None,
        licence="mit",
        pretraining=pretraining_of(recipe),
        preprocess=preprocess,
        num_classes=IN22K_CLASSES if recipe.endswith("in22k") else 1000,
        top1=top1,
        top5=top5,
    )


def _timm_entry(architecture: str, recipe: str, top1: float | None, top5: float | None) -> Checkpoint:
    tag, size = f"{architecture}.{recipe}", int(architecture.rsplit("_", 1)[1])
    preprocess = Preprocess(size, 1.0 if size == 384 else 0.9, "short", "bicubic", IMAGENET_MEAN, IMAGENET_STD)
    return _entry(tag, HubFile(f"timm/{tag}", "model.safetensors"), preprocess, top1, top5)


def _authors_entry(architecture: str, recipe: str, release: str, suffix: str, top1: float, top5: float) -> Checkpoint:
    large = architecture.endswith("384")  # these are resized without a crop
    preprocess = Preprocess(
        384 if large else 224,
        1.0 if large else 0.875,
        "squash" if large else "short",
        "bicubic",
        IMAGENET_MEAN,
        IMAGENET_STD,
    )
    source = f"{FILES}{release}/{architecture}{suffix}.pth"
    return _entry(f"{architecture}.microsoft_{recipe}", source, preprocess, top1, top5)


CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(_timm_entry(*row) for row in _TIMM),
    *(_authors_entry(*row) for row in _AUTHORS),
    *(
        torchvision_entry(architecture, "tv_in1k", file, resize, top1, top5, interpolation="bicubic")
        for architecture, file, resize, top1, top5 in _TORCHVISION
    ),
)
