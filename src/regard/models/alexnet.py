"""AlexNet: "One weird trick for parallelizing convolutional neural networks" (Krizhevsky 2014, arXiv 1404.5997).

Five convolutions with ReLU, three max poolings, three linear layers. The module is torchvision's, names of the
weights included.

Deviations from the network of 2012 ("ImageNet Classification with Deep Convolutional Neural Networks", Krizhevsky,
Sutskever and Hinton), all of the paper of 2014 or of torchvision:
- one tower of 64, 192, 384, 256 and 256 channels in place of two halves of 96, 256, 384, 384 and 256 together;
- no local response normalisation;
- an adaptive pooling to 6x6 pixels before the linear layers lets other image sizes in (from 63 pixels on);
- dropout is off unless asked for (`drop_rate`); the paper has 0.5 before the first two linear layers;
- initialisation is PyTorch's default (uniform +-1/sqrt(inputs), weights and biases), as torchvision's; the paper
  draws from a normal of std 0.01.

Patterns of `record` and `edit` address module outputs: features.0, ..., features.12, classifier.1, ...
"""

from __future__ import annotations

import torchvision
from torch import Tensor

from regard.models.convolutional import leave_heads_out, of_classifier, refuse_rates
from regard.models.registry import Features, ModelSpec


class AlexNet(torchvision.models.AlexNet):
    """Classifies (B, 3, S, S) images, S >= 63: forward -> logits (B, num_classes); (B, 4096) where that is 0."""

    HEAD = "classifier.6"

    def __init__(self, num_classes: int = 1000, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes=num_classes or 1, dropout=drop_rate)
        if not num_classes:
            leave_heads_out(self)

    def final_features(self, images: Tensor) -> Features:
        """What the model knows of images before its head; tokens: the last map (B, 6*6, 256) at 224 pixels."""
        return of_classifier(self.features, self.avgpool, self.classifier, images)


def _build(*, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> AlexNet:
    refuse_rates("alexnet", drop_path_rate=drop_path_rate)
    return AlexNet(num_classes, drop_rate)


SPECS = (
    ModelSpec(
        name="alexnet",
        family="alexnet",
        build=_build,
        img_size=224,
        smallest=63,
        paper="Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, arXiv 1404.5997",
        deviations="one tower, no local response normalisation (as torchvision); the paper's dropout is drop_rate=0.5",
        convolutional=True,
        sgd_lr=0.01,
    ),
)
