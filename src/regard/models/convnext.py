"""ConvNeXt: "A ConvNet for the 2020s" (Liu et al. 2022, arXiv 2201.03545).

    x + gamma * W_2 GELU(W_1 LN(d(x)))      a block: d is a 7x7 convolution of each channel by itself, gamma one scale
                                            per channel, W_1 widens four times

A 4x4 convolution of stride 4, four stages of blocks, between stages LN and a 2x2 convolution of stride 2, then global
average pooling, LN, one linear layer. The module is torchvision's, names of the weights included.

Deviations from the paper:
- stochastic depth is off unless asked for (`drop_path_rate`, 0.1 in the paper for T), rising linearly over the blocks;
- `convnext_micro_32` is ours, for small images: two stages.

`tokens` are the pixels of the last map after the LN that stands before the head; the head itself reads the LN of their
mean. Initialisation is torchvision's, as the paper: weights of convolutions and linear layers from a truncated normal
of std 0.02, biases 0, gamma 1e-6.

Patterns of `record` and `edit` address module outputs: features.1.0, features.7.2.block.3, classifier.0, ...
"""

from __future__ import annotations

from functools import partial

import torchvision
from torch import Tensor
from torchvision.models.convnext import CNBlockConfig

from regard.models.convolutional import leave_heads_out, of_map, refuse_rates
from regard.models.registry import Features, ModelSpec


class ConvNeXt(torchvision.models.ConvNeXt):
    """Classifies (B, 3, S, S) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    depths, widths: blocks and channels per stage; drop_path_rate: stochastic depth of the last block.
    """

    HEAD = "classifier.2"

    def __init__(
        self, depths: tuple[int, ...], widths: tuple[int, ...], num_classes: int = 1000, drop_path_rate: float = 0.0
    ) -> None:
        stages = [CNBlockConfig(*stage) for stage in zip(widths, (*widths[1:], None), depths, strict=True)]
        super().__init__(stages, drop_path_rate, num_classes=num_classes or 1)
        if not num_classes:
            leave_heads_out(self)

    def final_features(self, images: Tensor) -> Features:
        """What the model knows of images before its head; tokens: (B, 7*7, 768) of ConvNeXt-T at 224 pixels."""
        x = self.features(images)  # (B, C, h, w)
        norm = self.classifier[0]
        return of_map(norm(x), norm(self.avgpool(x)).flatten(1))


SIZES = {  # blocks and channels per stage
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_micro_32": ((2, 3), (96, 192)),
}


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> ConvNeXt:
    refuse_rates(name, drop_rate=drop_rate)
    depths, widths = SIZES[name]
    return ConvNeXt(depths, widths, num_classes, drop_path_rate)


def _spec(name: str, img_size: int, smallest: int, deviations: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="convnext",
        build=partial(_build, name),
        img_size=img_size,
        smallest=smallest,
        paper="Liu et al., A ConvNet for the 2020s, 2022, arXiv 2201.03545",
        deviations=deviations,
        convolutional=True,
    )


SPECS = (
    _spec("convnext_tiny", 224, 32, "timm has other names for the weights; the paper's stochastic depth is 0.1"),
    _spec("convnext_micro_32", 32, 8, "not a published size: two stages of the paper's blocks, for small images"),
)
