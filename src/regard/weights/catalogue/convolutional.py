"""Weights of the convolutional networks that torchvision publishes, ResNets apart."""

from __future__ import annotations

from dataclasses import replace

from regard.data.transforms import Preprocess
from regard.weights.catalogue.entry import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION_FILES,
    Checkpoint,
    torchvision_entry,
)

# torchvision normalises their images as for its other models, and the model maps them to this (`transform_input`).
_HALF = "images are normalised to mean 0.5 and std 0.5 at once"


def _halved(entry: Checkpoint, note: str) -> Checkpoint:
    return replace(entry, preprocess=replace(entry.preprocess, mean=HALF, std=HALF), note=note)


def _segmenter(backbone: str, digits: str, miou: float, accuracy: float) -> Checkpoint:
    architecture = f"deeplabv3_{backbone}"
    return Checkpoint(
        tag=f"{architecture}.tv_coco",
        architecture=architecture,
        source=f"{TORCHVISION_FILES}{architecture}_coco-{digits}.pth",
        sha256=digits,
        licence="bsd-3-clause",
        pretraining="COCO with the 20 classes of Pascal VOC, on a backbone of ImageNet-1k",
        preprocess=Preprocess(520, 1.0, "short", "bilinear", IMAGENET_MEAN, IMAGENET_STD),
        num_classes=21,
        top1=None,
        note=f"mean IoU {miou}, pixel accuracy {accuracy} (COCO val2017, classes of VOC), "
        "on whole images with a shorter side of 520 pixels",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    *(
        torchvision_entry(*row)
        for row in (
            ("alexnet", "tv_in1k", "alexnet-owt-7be5be79", 256, 56.522, 79.066),
            ("vgg11", "tv_in1k", "vgg11-8a719046", 256, 69.020, 88.628),
            ("vgg11_bn", "tv_in1k", "vgg11_bn-6002323d", 256, 70.370, 89.810),
            ("vgg13", "tv_in1k", "vgg13-19584684", 256, 69.928, 89.246),
            ("vgg13_bn", "tv_in1k", "vgg13_bn-abd245e5", 256, 71.586, 90.374),
            ("vgg16", "tv_in1k", "vgg16-397923af", 256, 71.592, 90.382),
            ("vgg16_bn", "tv_in1k", "vgg16_bn-6c64b313", 256, 73.360, 91.516),
            ("vgg19", "tv_in1k", "vgg19-dcbb9e9d", 256, 72.376, 90.876),
            ("vgg19_bn", "tv_in1k", "vgg19_bn-c79401a0", 256, 74.218, 91.842),
            ("convnext_tiny", "tv_in1k", "convnext_tiny-983f1562", 236, 82.520, 96.146),
        )
    ),
    _halved(
        torchvision_entry("googlenet", "tv_in1k", "googlenet-1378be20", 256, 69.778, 89.530),
        f"{_HALF}; its auxiliary classifiers are untrained",
    ),
    _halved(
        torchvision_entry("inception_v3", "tv_in1k", "inception_v3_google-0cc3c7bd", 342, 77.294, 93.450, size=299),
        _HALF,
    ),
    _segmenter("resnet50", "cd0a2569", 66.4, 92.4),
    _segmenter("resnet101", "586e9e4e", 67.4, 92.4),
)
