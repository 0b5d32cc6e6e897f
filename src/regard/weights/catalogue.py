"""The published weights that `regard` knows: where they lie, what they saw, how their images are prepared.

Names and tags are timm's (`vit_small_patch16_224.augreg_in21k_ft_in1k`, `resnet50.tv_in1k`). The first
entry of an architecture is what its bare name means. Top-1 figures are ImageNet-1k validation accuracies in
per cent as published by the source of the weights: timm's own re-evaluation for `timm/...` files,
torchvision's table for `tv` tags, the AugReg repository's recommendation for `google_` tags. They are
quoted, not measured here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from regard.data.transforms import Preprocess
from regard.errors import RegardError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_FILES = "https://download.pytorch.org/models/"
GOOGLE_FILES = "https://storage.googleapis.com/vit_models/augreg/"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face hub."""

    repo: str
    file: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.file} on the Hugging Face hub"


@dataclass(frozen=True)
class Checkpoint:
    """One published set of weights.

    tag: architecture and recipe, `vit_small_patch16_224.augreg_in21k_ft_in1k`; source: a hub file or a URL;
    sha256: the published hash of the file in hexadecimal, whole or its first digits, None where none was
    published; size_mb: millions of bytes, from the parameter count; num_classes: 0 for weights without a
    head; top1: per cent or None.
    """

    tag: str
    architecture: str
    source: HubFile | str
    sha256: str | None
    parameters: int
    licence: str
    pretraining: str
    preprocess: Preprocess
    num_classes: int
    top1: float | None

    @property
    def size_mb(self) -> float:
        """Size of the file in millions of bytes: four bytes a parameter."""
        return round(self.parameters * 4 / 1e6, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ImageNet-1k classes in the order of the head; empty for other heads."""
        return imagenet_classes() if self.num_classes == 1000 else ()


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names, as torchvision carries them (unique)."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def find_checkpoint(name: str) -> Checkpoint:
    """The catalogue entry of `architecture.tag`, or the default one of a bare `architecture`.

    Raises RegardError with the tags of the architecture, or the nearest names where the architecture has
    none.
    """
    architecture, _, tag = name.partition(".")
    known = checkpoints_of(architecture)
    if not known:
        nearest = difflib.get_close_matches(name, [*_by_architecture(), *(c.tag for c in CHECKPOINTS)], n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(nearest)}" if nearest else "regard.list_models() names them all"
        raise RegardError(
            f"{name}: no published weights are known for this name; {hint}; or pass --weights FILE, or --method scratch"
        )
    for checkpoint in known:
        if not tag or checkpoint.tag == name:
            return checkpoint
    tags = ", ".join(checkpoint.tag for checkpoint in known)
    raise RegardError(f"{name}: no such weights; the weights of {architecture} are: {tags}")


def checkpoints_of(architecture: str) -> tuple[Checkpoint, ...]:
    """All entries of one architecture, the default first; empty where none is known."""
    return _by_architecture().get(architecture, ())


@cache
def _by_architecture() -> dict[str, tuple[Checkpoint, ...]]:
    groups: dict[str, tuple[Checkpoint, ...]] = {}
    for checkpoint in CHECKPOINTS:
        groups[checkpoint.architecture] = (*groups.get(checkpoint.architecture, ()), checkpoint)
    return groups


# What timm publishes on the hub: architecture -> (tag, top-1 in per cent). The first tag is the default:
# the AugReg recipe where it exists, because it is the one that all sizes share.
_TIMM_VIT: dict[str, tuple[tuple[str, float | None], ...]] = {
    "vit_tiny_patch16_224": (("augreg_in21k_ft_in1k", 75.452), ("augreg_in21k", None)),
    "vit_tiny_patch16_384": (("augreg_in21k_ft_in1k", 78.438),),
    "vit_small_patch32_224": (("augreg_in21k_ft_in1k", 76.010), ("augreg_in21k", None)),
    "vit_small_patch32_384": (("augreg_in21k_ft_in1k", 80.476),),
    "vit_small_patch16_224": (
        ("augreg_in21k_ft_in1k", 81.402),
        ("augreg_in21k", None),
        ("augreg_in1k", 78.842),
    ),
    "vit_small_patch16_384": (("augreg_in21k_ft_in1k", 83.814), ("augreg_in1k", 81.130)),
    "vit_base_patch32_224": (
        ("augreg_in21k_ft_in1k", 80.732),
        ("augreg_in21k", None),
        ("augreg_in1k", 74.908),
        ("orig_in21k", None),
        ("sam_in1k", 73.704),
    ),
    "vit_base_patch32_384": (("augreg_in21k_ft_in1k", 83.358), ("augreg_in1k", 78.750)),
    "vit_base_patch16_224": (
        ("augreg_in21k_ft_in1k", 84.534),
        ("augreg2_in21k_ft_in1k", 85.108),
        ("augreg_in21k", None),
        ("augreg_in1k", 79.154),
        ("orig_in21k_ft_in1k", 81.782),
        ("orig_in21k", None),
        ("sam_in1k", 80.246),
    ),
    "vit_base_patch16_384": (
        ("augreg_in21k_ft_in1k", 86.010),
        ("augreg_in1k", 81.102),
        ("orig_in21k_ft_in1k", 84.212),
    ),
    "vit_base_patch8_224": (
        ("augreg_in21k_ft_in1k", 85.838),
        ("augreg2_in21k_ft_in1k", 86.252),
        ("augreg_in21k", None),
    ),
    "vit_large_patch32_224": (("orig_in21k", None),),
    "vit_large_patch32_384": (("orig_in21k_ft_in1k", 81.508),),
    "vit_large_patch16_224": (
        ("augreg_in21k_ft_in1k", 85.856),
        ("augreg_in21k", None),
        ("orig_in21k", None),
    ),
    "vit_large_patch16_384": (("augreg_in21k_ft_in1k", 87.096),),
    "vit_huge_patch14_224": (("orig_in21k", None),),
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

# torchvision: architecture -> (tag, file; its suffix is the start of the sha256, resize before the crop,
# top-1).
_TORCHVISION: dict[str, tuple[tuple[str, str, int, float], ...]] = {
    "vit_base_patch16_224": (("tv_in1k", "vit_b_16-c867db91", 256, 81.072),),
    "vit_base_patch32_224": (("tv_in1k", "vit_b_32-d86f8d99", 256, 75.912),),
    "vit_large_patch16_224": (("tv_in1k", "vit_l_16-852ce7e3", 242, 79.662),),
    "vit_large_patch32_224": (("tv_in1k", "vit_l_32-c7638314", 256, 76.972),),
    "resnet18": (("tv_in1k", "resnet18-f37072fd", 256, 69.758),),
    "resnet34": (("tv_in1k", "resnet34-b627a593", 256, 73.314),),
    "resnet50": (
        ("tv_in1k", "resnet50-0676ba61", 256, 76.130),
        ("tv2_in1k", "resnet50-11ad3fa6", 232, 80.858),
    ),
    "resnet101": (
        ("tv_in1k", "resnet101-63fe2227", 256, 77.374),
        ("tv2_in1k", "resnet101-cd907fc2", 232, 81.886),
    ),
    "resnet152": (
        ("tv_in1k", "resnet152-394f9c45", 256, 78.312),
        ("tv2_in1k", "resnet152-f82ba261", 232, 82.284),
    ),
}

# The crop share that makes floor(224 / share) the published length of the shorter side.
_CROP_OF_RESIZE = {256: 0.875, 242: 0.925, 232: 0.965}

_RESNET_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
_VIT_SIZES = {
    "tiny": (192, 12),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "huge": (1280, 32),
}
_PRETRAINING = {
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
    "in21k": "ImageNet-21k",
    "in1k": "ImageNet-1k",
}


def _vit_parameters(architecture: str, num_classes: int) -> int:
    """Parameters of a published ViT: patch embedding, class token, positions, blocks, norm, head."""
    _, size, patch, image = architecture.split("_")
    dim, depth = _VIT_SIZES[size]
    side = int(patch.removeprefix("patch"))
    tokens = (int(image) // side) ** 2 + 1
    body = 3 * side * side * dim + dim + dim + tokens * dim + depth * (12 * dim * dim + 13 * dim) + 2 * dim
    return body + (num_classes * (dim + 1) if num_classes else 0)


def _pretraining(recipe: str) -> str:
    """The data behind a tag's recipe: `augreg_in21k_ft_in1k` ends in `in21k_ft_in1k`."""
    return _PRETRAINING[recipe[recipe.index("in") :]]


def _timm_entry(architecture: str, recipe: str, top1: float | None) -> Checkpoint:
    tag, size = f"{architecture}.{recipe}", int(architecture.rsplit("_", 1)[1])
    # timm's headless `orig_in21k` files were published without their 21,843-way head.
    num_classes = {"augreg_in21k": 21_843, "orig_in21k": 0}.get(recipe, 1000)
    return Checkpoint(
        tag=tag,
        architecture=architecture,
        source=HubFile(f"timm/{tag}", "model.safetensors"),
        sha256=None,
        parameters=_vit_parameters(architecture, num_classes),
        licence="apache-2.0",
        pretraining=_pretraining(recipe),
        preprocess=Preprocess(size, 1.0 if size == 384 else 0.9, "short", "bicubic", HALF, HALF),
        num_classes=num_classes,
        top1=top1,
    )


def _google_entry(architecture: str, stem: str, top1: float) -> Checkpoint:
    return Checkpoint(
        tag=f"{architecture}.google_augreg_in21k_ft_in1k",
        architecture=architecture,
        source=f"{GOOGLE_FILES}{stem.format('imagenet2012-steps_20k-')}-res_384.npz",
        sha256=None,
        parameters=_vit_parameters(architecture, 1000),
        licence="apache-2.0",
        pretraining=_PRETRAINING["in21k_ft_in1k"],
        preprocess=Preprocess(384, 1.0, "squash", "bilinear", HALF, HALF),
        num_classes=1000,
        top1=top1,
    )


def _torchvision_entry(architecture: str, recipe: str, file: str, resize: int, top1: float) -> Checkpoint:
    parameters = _RESNET_PARAMETERS.get(architecture) or _vit_parameters(architecture, 1000)
    return Checkpoint(
        tag=f"{architecture}.{recipe}",
        architecture=architecture,
        source=f"{TORCHVISION_FILES}{file}.pth",
        sha256=file.rsplit("-", 1)[1],
        parameters=parameters,
        licence="bsd-3-clause",
        pretraining=_pretraining(recipe),
        preprocess=Preprocess(224, _CROP_OF_RESIZE[resize], "short", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=1000,
        top1=top1,
    )


# timm's entries come first: a bare ViT name means its AugReg weights.
CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(_timm_entry(name, *row) for name, rows in _TIMM_VIT.items() for row in rows),
    *(_google_entry(name, *row) for name, row in _GOOGLE_VIT.items()),
    *(_torchvision_entry(name, *row) for name, rows in _TORCHVISION.items() for row in rows),
)
