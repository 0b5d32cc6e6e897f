"""DeepLabv3: "Rethinking Atrous Convolution for Semantic Image Segmentation" (Chen et al. 2017, arXiv 1706.05587).

    y[i] = sum_k x[i + r k] w[k]      atrous convolution of rate r: 9 weights that reach 2r + 1 pixels

A ResNet whose last two stages keep their resolution (output stride 8; rates 2 and 4 in place of strides), atrous
spatial pyramid pooling (a 1x1 convolution, 3x3 at rates 12, 24 and 36, and the pooled image, concatenated), a 3x3
and a 1x1 convolution, and bilinear upsampling to the image's size. In training an auxiliary head reads the third stage.
The module is torchvision's, names of the weights included.

Deviations from the paper:
- the auxiliary head, its weight of 0.5 and the output stride of 8 in training are torchvision's; the paper has no such
  head, trains at stride 16, and tests at 8 and at several scales;
- the last stage has torchvision's rates 2, 4, 4; the paper multiplies its rates by 1, 2, 4 (multi-grid);
- dropout is off unless asked for: `drop_rate` is that after the pyramid (0.5 in torchvision), and where it is not 0
  the auxiliary head drops 0.1;
- fresh weights are torchvision's: the ResNet's as in `regard.models.resnet`, the heads' PyTorch's default.

Patterns of `record` and `edit` address module outputs: backbone.layer4.2, classifier.0.convs.1, ...
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from regard.models.convolutional import leave_heads_out, of_map, refuse_rates
from regard.models.registry import Features, Heads, ModelSpec

AUX_DROP_RATE = 0.1


class DeepLabV3(torchvision.models.segmentation.DeepLabV3):
    """Segments (B, 3, S, S) images: forward -> logits of each pixel (B, num_classes, S, S), in training `Heads`.

    backbone: torchvision's name of the ResNet. With 0 classes it gives what the last convolution would read, upsampled.
    """

    HEAD = "classifier.4"
    OTHER_HEADS = ("aux_classifier.4",)
    OTHERS_WEIGHT = 0.5

    def __init__(self, backbone: str, num_classes: int = 21, drop_rate: float = 0.0) -> None:
        make = torchvision.models.get_model_builder(f"deeplabv3_{backbone}")
        theirs: Any = make(weights=None, weights_backbone=None, num_classes=num_classes or 1, aux_loss=True)
        super().__init__(theirs.backbone, theirs.classifier, theirs.aux_classifier)
        _set_dropout(theirs.classifier, drop_rate)
        _set_dropout(theirs.aux_classifier, AUX_DROP_RATE if drop_rate else 0.0)
        if not num_classes:
            leave_heads_out(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows before its head: tokens (B, S/8 * S/8, 256), each of which the head multiplies.

        pooled is their mean, of which the head makes the mean of the logits.
        """
        x = self.backbone(images)["out"]  # (B, 2048, S/8, S/8)
        for layer in list(self.classifier.children())[:-1]:
            x = layer(x)  # (B, 256, S/8, S/8)
        return of_map(x, x.mean((-2, -1)))

    def forward(self, images: Tensor) -> Tensor | Heads:  # pyright: ignore[reportIncompatibleMethodOverride]
        maps = self.backbone(images)  # out (B, 2048, S/8, S/8), aux (B, 1024, S/8, S/8)
        logits = _upsampled(self.classifier(maps["out"]), images)  # (B, K, S, S)
        if not self.training:
            return logits
        return Heads(logits, (_upsampled(self.get_submodule("aux_classifier")(maps["aux"]), images),))


def _upsampled(x: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(x, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _set_dropout(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _build(backbone: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> DeepLabV3:
    refuse_rates(f"deeplabv3_{backbone}", drop_path_rate=drop_path_rate)
    return DeepLabV3(backbone, num_classes, drop_rate)


SPECS = tuple(
    ModelSpec(
        name=f"deeplabv3_{backbone}",
        family="deeplab",
        build=partial(_build, backbone),
        img_size=520,
        smallest=32,
        task="segment",
        paper="Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv 1706.05587",
        deviations="output stride 8 and an auxiliary head, which evaluation does not run (as torchvision); "
        "torchvision's dropout is drop_rate=0.5",
        convolutional=True,
        sgd_lr=0.1,
    )
    for backbone in ("resnet50", "resnet101")
)
