"""Published weights of Segment Anything.

An image does not become the model's input by a `Preprocess` alone: its longer side is brought to the size, and zeros
fill the square at the right and at the bottom (`regard.segmentation.frame`).
"""

from __future__ import annotations

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import IMAGENET_MEAN, IMAGENET_STD, Checkpoint

FILES = "https://dl.fbaipublicfiles.com/segment_anything/"


def _entry(architecture: str, digits: str, sha256: str) -> Checkpoint:
    """digits: the first of the file's MD5, which are part of its name."""
    return Checkpoint(
        tag=f"{architecture}.sa1b",
        architecture=architecture,
        source=f"{FILES}{architecture}_{digits}.pth",
        sha256=sha256,
        licence="apache-2.0",
        pretraining="SA-1B, 11 million images with 1.1 billion masks, on an image encoder trained by MAE",
        preprocess=Preprocess(1024, 1.0, "squash", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=0,
        top1=None,
        note="masks have no classes; no weights of the paper's text prompt were published",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    _entry("sam_vit_b", "01ec64", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _entry("sam_vit_l", "0b3195", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _entry("sam_vit_h", "4b8939", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
)
