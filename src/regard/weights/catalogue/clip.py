"""Published CLIP weights. Top-1 is zero-shot, ImageNet-1k, from open_clip's table of results."""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import Checkpoint, HubFile

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _entry(patch_size: int, top1: float) -> Checkpoint:
    architecture = f"clip_vit_base_patch{patch_size}"
    return Checkpoint(
        tag=f"{architecture}.openai",
        architecture=architecture,
        source=HubFile(f"openai/clip-vit-base-patch{patch_size}", "pytorch_model.bin"),
        sha256=None,
        licence="mit",
        pretraining="WIT, 400 million image-text pairs of the web",
        preprocess=Preprocess(224, 1.0, "short", "bicubic", CLIP_MEAN, CLIP_STD),
        num_classes=0,
        top1=top1,
        note="top1 is zero-shot: the classes were texts",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (_entry(32, 63.32), _entry(16, 68.34))
