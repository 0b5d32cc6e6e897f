"""The ResNet and what is built on its trunk: our names are torchvision's, which are timm's too."""

from __future__ import annotations

from regard.weights.dialects.naming import Dialect

STEMS = {"conv1.weight", "conv1.0.weight"}  # the second is LR-Net's

DIALECTS: tuple[Dialect, ...] = (
    Dialect(
        "torchvision ResNet",
        ("resnet", "plain", "nonlocal_resnet", "botnet", "local_resnet", "lrnet"),
        lambda names: bool(STEMS & names) and any(name.startswith("layer1.0.") for name in names),
        dict,
    ),
)
