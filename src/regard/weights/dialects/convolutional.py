"""torchvision's convolutional networks: our names are torchvision's, so only their family has to be told."""

from __future__ import annotations

from regard.weights.dialects.naming import Dialect


def _dialect(name: str, families: tuple[str, ...], *marks: str) -> Dialect:
    """Names that pass through unchanged; `marks` all occur among them."""
    return Dialect(name, families, frozenset(marks).issubset, dict)


DIALECTS: tuple[Dialect, ...] = (
    _dialect("torchvision DeepLabv3", ("deeplab",), "backbone.conv1.weight", "classifier.0.convs.0.0.weight"),
    _dialect("torchvision GoogLeNet", ("googlenet",), "conv1.conv.weight", "inception3a.branch1.conv.weight"),
    _dialect("torchvision Inception v3", ("inception",), "Mixed_5b.branch1x1.conv.weight"),
    _dialect("torchvision ConvNeXt", ("convnext",), "features.0.0.weight", "features.1.0.layer_scale"),
    _dialect("torchvision AlexNet or VGG", ("alexnet", "vgg"), "features.0.weight", "classifier.6.weight"),
)
