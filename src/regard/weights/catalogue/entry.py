"""One catalogue entry, and what several families' entries share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from regard.data.transforms import Preprocess

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_FILES = "https://download.pytorch.org/models/"

_PRETRAINING = {
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
    "in21k": "ImageNet-21k",
    "in22k_ft_in1k": "ImageNet-22k, then ImageNet-1k",
    "in22k": "ImageNet-22k",
    "in1k": "ImageNet-1k",
}


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
    published; num_classes: 0 for weights without a head; top1, top5: per cent or None; note: what else a user
    must know, in one line.
    """

    tag: str
    architecture: str
    source: HubFile | str
    sha256: str | None
    licence: str
    pretraining: str
    preprocess: Preprocess
    num_classes: int
    top1: float | None
    top5: float | None = None
    note: str = ""

    @cached_property
    def parameters(self) -> int:
        """Weights in the file, counted on the model with as many classes."""
        import torch

        from regard.models import count_parameters, create_model

        with torch.device("meta"):
            return count_parameters(create_model(self.architecture, self.num_classes))

    @property
    def size_mb(self) -> float:
        """Size of the file in millions of bytes: four bytes a parameter."""
        return round(self.parameters * 4 / 1e6, 1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ImageNet-1k classes in the order of the head; empty for other heads."""
        return imagenet_classes() if self.num_classes == 1000 else ()


def pretraining_of(recipe: str) -> str:
    """The data behind a tag's recipe: `augreg_in21k_ft_in1k` ends in `in21k_ft_in1k`."""
    return _PRETRAINING[recipe[recipe.index("in") :]]


def torchvision_entry(
    architecture: str,
    recipe: str,
    file: str,
    resize: int,
    top1: float,
    top5: float | None = None,
    size: int = 224,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> Checkpoint:
    """A checkpoint of torchvision's model zoo.

    recipe: "tv_in1k" (IMAGENET1K_V1) or "tv2_in1k" (V2); file: its name, which ends in the first digits of its
    sha256; resize: pixels of the shorter side before the centre crop of `size`.
    """
    # The crop share that makes floor(size / share) the published length: three digits are enough for that.
    share = next(n / 1000 for n in range(1000, 0, -1) if int(size / (n / 1000)) == resize)
    return Checkpoint(
        tag=f"{architecture}.{recipe}",
        architecture=architecture,
        source=f"{TORCHVISION_FILES}{file}.pth",
        sha256=file.rsplit("-", 1)[1],
        licence="bsd-3-clause",
        pretraining=pretraining_of(recipe),
        preprocess=Preprocess(size, share, "short", interpolation, IMAGENET_MEAN, IMAGENET_STD),
        num_classes=1000,
        top1=top1,
        top5=top5,
    )


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 ImageNet-1k class names, as torchvision carries them (unique)."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
