"""Weights of the ResNet: torchvision's, of its first (V1) and its newer (V2) recipe."""

from __future__ import annotations

from regard.weights.catalogue.entry import Checkpoint, torchvision_entry

CHECKPOINTS: tuple[Checkpoint, ...] = tuple(
    torchvision_entry(*row)
    for row in (
        ("resnet18", "tv_in1k", "resnet18-f37072fd", 256, 69.758, 89.078),
        ("resnet34", "tv_in1k", "resnet34-b627a593", 256, 73.314, 91.420),
        ("resnet50", "tv_in1k", "resnet50-0676ba61", 256, 76.130, 92.862),
        ("resnet50", "tv2_in1k", "resnet50-11ad3fa6", 232, 80.858, 95.434),
        ("resnet101", "tv_in1k", "resnet101-63fe2227", 256, 77.374, 93.546),
        ("resnet101", "tv2_in1k", "resnet101-cd907fc2", 232, 81.886, 95.780),
        ("resnet152", "tv_in1k", "resnet152-394f9c45", 256, 78.312, 94.046),
        ("resnet152", "tv2_in1k", "resnet152-f82ba261", 232, 82.284, 96.002),
    )
)
