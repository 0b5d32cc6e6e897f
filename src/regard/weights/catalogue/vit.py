"""Weights of the ViT: timm's conversions and re-evaluations, Google's recommended AugReg files, torchvision's."""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import HALF, Checkpoint, HubFile, pretraining_of, torchvision_entry

GOOGLE_FILES = "https://storage.googleapis.com/vit_models/augreg/"

# What timm publishes on the hub: architecture -> (tag, top-1, top-5 in per cent). The first tag is the default:
# the AugReg recipe where it exists, because it is the one that all sizes share.
_TIMM_VIT: dict[str, tuple[tuple[str, float | None, float | None], ...]] = {
    "vit_tiny_patch16_224": (("augreg_in21k_ft_in1k", 75.452, 92.858), ("augreg_in21k", None, None)),
    "vit_tiny_patch16_384": (("augreg_in21k_ft_in1k", 78.438, 94.542),),
    "vit_small_patch32_224": (("augreg_in21k_ft_in1k", 76.010, 93.266), ("augreg_in21k", None, None)),
    "vit_small_patch32_384": (("augreg_in21k_ft_in1k", 80.476, 95.594),),
    "vit_small_patch16_224": (
        ("augreg_in21k_ft_in1k", 81.402, 96.150),
        ("augreg_in21k", None, None),
        ("augreg_in1k", 78.842, 94.280),
    ),
    "vit_small_patch16_384": (("augreg_in21k_ft_in1k", 83.814, 97.106), ("augreg_in1k", 81.130, 95.590)),
    "vit_base_patch32_224": (
        ("augreg_in21k_ft_in1k", 80.732, 95.574),
        ("augreg_in21k", None, None),
        ("augreg_in1k", 74.908, 91.770),
        ("orig_in21k", None, None),
        ("sam_in1k", 73.704, 91.012),
    ),
    "vit_base_patch32_384": (("augreg_in21k_ft_in1k", 83.358, 96.828), ("augreg_in1k", 78.750, 94.238)),
    "vit_base_patch16_224": (
        ("augreg_in21k_ft_in1k", 84.534, 97.300),
        ("augreg2_in21k_ft_in1k", 85.108, 97.530),
        ("augreg_in21k", None, None),
        ("augreg_in1k", 79.154, 94.108),
        ("orig_in21k_ft_in1k", 81.782, 96.122),
        ("orig_in21k", None, None),
        ("sam_in1k", 80.246, 94.764),
    ),
    "vit_base_patch16_384": (
        ("augreg_in21k_ft_in1k", 86.010, 97.998),
        ("augreg_in1k", 81.102, 95.334),
        ("orig_in21k_ft_in1k", 84.212, 97.210),
    ),
    "vit_base_patch8_224": (
        ("augreg_in21k_ft_in1k", 85.838, 97.776),
        ("augreg2_in21k_ft_in1k", 86.252, 97.840),
        ("augreg_in21k", None, None),
    ),
    "vit_large_patch32_224": (("orig_in21k", None, None),),
    "vit_large_patch32_384": (("orig_in21k_ft_in1k", 81.508, 96.086),),
    "vit_large_patch16_224": (
        ("augreg_in21k_ft_in1k", 85.856, 97.822),
        ("augreg_in21k", None, None),
        ("orig_in21k", None, None),
    ),
    "vit_large_patch16_384": (("augreg_in21k_ft_in1k", 87.096, 98.302),),
    "vit_huge_patch14_224": (("orig_in21k", None, None),),
}

# The AugReg files that Google's repository recommends, fine-tuned at 384: architecture -> (file stem,
# top-1). timm's `augreg_in21k_ft_in1k` is another choice of the same grid for some sizes.
_GOOGLE_VIT: dict[str, tuple[str, float]] = {
    "vit_tiny_patch16_384": ("Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0--{}lr_0.03", 78.22),
    "vit_small_patch32_384": ("S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0--{}lr_0.01", 79.58),
    "vit_small_patch16_384": ("S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--{}lr_0.03", 83.73),
    "vit_base_patch32_384": ("B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--{}lr_0.01", 83.59),
    "vit_base_patch16_384": ("B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--{}lr_0.03", 85.49),
    "vit_large_patch16_384": ("L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0--{}lr_0.01", 85.59),
}

# torchvision: architecture, tag, file, resize before the crop, top-1, top-5.
_TORCHVISION: tuple[tuple[str, str, str, int, float, float], ...] = (
    ("vit_base_patch16_224", "tv_in1k", "vit_b_16-c867db91", 256, 81.072, 95.318),
    ("vit_base_patch32_224", "tv_in1k", "vit_b_32-d86f8d99", 256, 75.912, 92.466),
    ("vit_large_patch16_224", "tv_in1k", "vit_l_16-852ce7e3", 242, 79.662, 94.638),
    ("vit_large_patch32_224", "tv_in1k", "vit_l_32-c7638314", 256, 76.972, 93.070),
)


def timm_entry(architecture: str, recipe: str, top1: float | None, top5: float | None) -> Checkpoint:
    """timm's copy of weights of Google's, of the recipes `augreg_*`, `orig_*` and the like."""
    tag, size = f"{architecture}.{recipe}", int(architecture.rsplit("_", 1)[1])
    # timm's headless `orig_in21k` files were published without their 21,843-way head.
    num_classes = {"augreg_in21k": 21_843, "orig_in21k": 0}.get(recipe, 1000)
    return Checkpoint(
        tag=tag,
        architecture=architecture,
        source=HubFile(f"timm/{tag}", "model.safetensors"),
        sha256=None,
        licence="apache-2.0",
        pretraining=pretraining_of(recipe),
        preprocess=Preprocess(size, 1.0 if size == 384 else 0.9, "short", "bicubic", HALF, HALF),
        num_classes=num_classes,
        top1=top1,
        top5=top5,
    )


def google_entry(architecture: str, stem: str, top1: float) -> Checkpoint:
    """An AugReg file of Google's, fine-tuned at 384 pixels; stem: its name, with {} where the data of that stands."""
    return Checkpoint(
        tag=f"{architecture}.google_augreg_in21k_ft_in1k",
        architecture=architecture,
        source=f"{GOOGLE_FILES}{stem.format('imagenet2012-steps_20k-')}-res_384.npz",
        sha256=None,
        licence="apache-2.0",
        pretraining=pretraining_of("in21k_ft_in1k"),
        preprocess=Preprocess(384, 1.0, "squash", "bilinear", HALF, HALF),
        num_classes=1000,
        top1=top1,
    )


# timm's entries come first: a bare ViT name means its AugReg weights.
CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(timm_entry(name, *row) for name, rows in _TIMM_VIT.items() for row in rows),
    *(google_entry(name, *row) for name, row in _GOOGLE_VIT.items()),
    *(torchvision_entry(*row) for row in _TORCHVISION),
)
