"""Weights of DeiT: timm's copies with timm's preprocessing and re-evaluation, and the paper's own files."""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, HubFile, pretraining_of

FILES = "https://dl.fbaipublicfiles.com/deit/"

# architecture -> (first digits of the file's sha256, timm's top-1 and top-5, the paper's code's top-1 and top-5)
_DEIT: dict[str, tuple[str, tuple[float, float], tuple[float, float]]] = {
    "deit_tiny_patch16_224": ("a1311bcf", (72.190, 91.100), (72.202, 91.124)),
    "deit_small_patch16_224": ("cd65a155", (79.856, 95.056), (79.854, 94.968)),
    "deit_base_patch16_224": ("b5f2ef4d", (81.980, 95.740), (81.846, 95.594)),
    "deit_base_patch16_384": ("8de9b5d1", (83.108, 96.376), (82.890, 96.222)),
    "deit_tiny_distilled_patch16_224": ("b40b3cf7", (74.538, 91.898), (74.476, 91.920)),
    "deit_small_distilled_patch16_224": ("649709d9", (81.204, 95.378), (81.164, 95.376)),
    "deit_base_distilled_patch16_224": ("df68dfff", (83.384, 96.492), (83.372, 96.482)),
    "deit_base_distilled_patch16_384": ("d0272ac0", (85.438, 97.332), (85.224, 97.186)),
}
_TEACHER = "distilled from a RegNetY-16GF trained on ImageNet-1k"


def _entry(
    architecture: str,
    recipe: str,
    source: HubFile | str,
    sha256: str | None,
    crop: float,
    accuracy: tuple[float, float],
) -> Checkpoint:
    size = int(architecture.rsplit("_", 1)[1])
    return Checkpoint(
        tag=f"{architecture}.{recipe}",
        architecture=architecture,
        source=source,
        sha256=sha256,
        licence="apache-2.0",
        pretraining=pretraining_of(recipe),
        preprocess=Preprocess(size, crop, "short", "bicubic", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=1000,
        top1=accuracy[0],
        top5=accuracy[1],
        note=_TEACHER if "distilled" in architecture else "",
    )


def _timm_entry(architecture: str, accuracy: tuple[float, float]) -> Checkpoint:
    source = HubFile(f"timm/{architecture}.fb_in1k", "model.safetensors")
    return _entry(architecture, "fb_in1k", source, None, 1.0 if architecture.endswith("384") else 0.9, accuracy)


def _meta_entry(architecture: str, sha256: str, accuracy: tuple[float, float]) -> Checkpoint:
    return _entry(architecture, "meta_in1k", f"{FILES}{architecture}-{sha256}.pth", sha256, 0.875, accuracy)


CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(_timm_entry(name, timms) for name, (_, timms, _) in _DEIT.items()),
    *(_meta_entry(name, sha256, theirs) for name, (sha256, _, theirs) in _DEIT.items()),
)
