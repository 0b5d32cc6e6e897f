"""Inception v3: "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al. 2015, arXiv 1512.00567).

A stem of 3x3 convolutions, then modules of parallel branches in three grids of 35x35, 17x17 and 8x8 pixels, with 5x5
and 7x7 convolutions factorised (two 3x3; 1x7 and 7x1). In training an auxiliary classifier reads the last 17x17 map.
The module is torchvision's, names of the weights included.

Deviations from the paper:
- the auxiliary loss counts 0.4, the weight of the authors' released code; the paper names none;
- initialisation is torchvision's: normal of std 0.1 cut at +-2 (in the auxiliary classifier 0.01 for the last
  convolution and 0.001 for the linear layer);
- dropout is off unless asked for (`drop_rate`, 0.5 in torchvision, 0.2 in the authors' code);
- the input is normalised to mean 0.5 and std 0.5, by the preprocessing of the published weights. torchvision
  normalises as for its other models and maps that to 0.5 and 0.5 inside the model (`transform_input`): no difference.

Images have 299 pixels per side or more: on a smaller one the auxiliary classifier has no pixels left.

Patterns of `record` and `edit` address module outputs: Conv2d_1a_3x3, Mixed_6e, Mixed_7c.branch1x1, ...
"""

from __future__ import annotations

from typing import Any

import torchvision
from torch import Tensor

from regard.models.convolutional import leave_heads_out, of_map, refuse_rates
from regard.models.registry import Features, Heads, ModelSpec

AUX = "AuxLogits"


class InceptionV3(torchvision.models.Inception3):
    """Classifies (B, 3, S, S) images, S >= 299: forward -> logits (B, num_classes), in training `Heads`.

    With 0 classes it gives (B, 2048). drop_rate: dropout before the last layer.
    """

    HEAD = "fc"
    OTHER_HEADS = (f"{AUX}.fc",)
    OTHERS_WEIGHT = 0.4

    def __init__(self, num_classes: int = 1000, drop_rate: float = 0.0) -> None:
        super().__init__(num_classes or 1, aux_logits=True, transform_input=False, init_weights=True, dropout=drop_rate)
        names = [name for name, _ in self.named_children()]
        self.body = [name for name in names[: names.index("avgpool")] if name != AUX]
        if not num_classes:
            leave_heads_out(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of images before its head; tokens: the last map (B, 8*8, 2048) at 299 pixels."""
        x = images
        for name in self.body:
            x = self.get_submodule(name)(x)  # (B, C, h, w)
        return of_map(x, self.avgpool(x).flatten(1))

    def forward(self, images: Tensor) -> Tensor | Heads:  # pyright: ignore[reportIncompatibleMethodOverride]
        outputs: Any = super().forward(images)  # (B, K), in training with aux_logits (B, K)
        return Heads(outputs.logits, (outputs.aux_logits,)) if self.training else outputs


def _build(*, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> InceptionV3:
    refuse_rates("inception_v3", drop_path_rate=drop_path_rate)
    return InceptionV3(num_classes, drop_rate)


SPECS = (
    ModelSpec(
        name="inception_v3",
        family="inception",
        build=_build,
        img_size=299,
        smallest=299,
        paper="Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015, arXiv 1512.00567",
        deviations="as torchvision; 3,326,696 parameters are the auxiliary classifier, which evaluation does not run; "
        "torchvision's dropout is drop_rate=0.5; timm's inception_v3 has these names with aux_logits=True, but "
        "then gives two tensors in evaluation too",
        convolutional=True,
        sgd_lr=0.1,
    ),
)
