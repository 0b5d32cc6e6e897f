"""ResNet: "Deep Residual Learning for Image Recognition" (He et al. 2015, arXiv 1512.03385).

`resnet18|34|50|101|152` have torchvision's blocks and names of weights (equal to timm's); `resnet20|32|56_32`
are the networks for 32-pixel images of section 4.2: three stages of 16, 32 and 64 channels, 3x3 stem.

Deviations from the paper:
- a bottleneck strides in its 3x3 convolution ("v1.5", torchvision); the paper strides in the first 1x1;
- `resnet18` to `resnet152` below 64 pixels get a 3x3 stem of stride 1 without pooling: the paper's stem
  divides the sides by 4 and would leave one pixel at the end. Their published weights do not fit that stem.

The networks of section 4.2 have the paper's parameter-free shortcuts, option A: every second pixel, zeros for
the new channels (half of them on either side).

Patterns of `record` and `edit` address module outputs: layer1.0, layer4.*, avgpool, ...
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from regard.errors import RegardError
from regard.models.registry import Features, ModelSpec

SMALL_IMAGE = 64  # pixels per side below which the stem keeps every pixel


class ZeroPadShortcut(nn.Module):
    """Option A of section 4.2: (B, C, h, w) -> (B, 2 C, h/2, w/2) without a weight."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


class ResNet(nn.Module):
    """Classifies (B, 3, S, S) images: forward -> logits (B, num_classes); (B, D) where num_classes is 0.

    depths: blocks per stage; widths: channels of the 3x3 convolutions per stage; small_stem: 3x3 of stride 1
    without pooling; projections: shortcuts that change shape are 1x1 convolutions (option B), else padding
    with zeros (option A).
    """

    HEAD = "fc"

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        small_stem: bool,
        projections: bool,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.conv1 = stem if small_stem else nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        channels = widths[0]
        self.stages = [f"layer{i + 1}" for i in range(len(depths))]
        for i, (name, depth, width) in enumerate(zip(self.stages, depths, widths, strict=True)):
            self.add_module(name, make_stage(block, channels, width, depth, 2 if i else 1, projections))
            channels = width * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        init_weights(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, S, S) images before its head; tokens: pixels of the last map."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, C, S/4, S/4), or (B, C, S, S)
        for name in self.stages:
            x = self.get_submodule(name)(x)  # (B, C, h, w)
        pooled = self.avgpool(x).flatten(1)  # (B, C)
        grid = (x.shape[-2], x.shape[-1])
        return Features(tokens=x.flatten(2).transpose(1, 2), grid=grid, prefix=0, cls=None, pooled=pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).pooled)  # (B, K)


def make_stage(
    block: type[BasicBlock | Bottleneck],
    channels: int,
    width: int,
    depth: int,
    stride: int,
    projections: bool,
) -> nn.Sequential:
    """`depth` blocks; the first takes `channels` and strides, and its shortcut follows."""
    out = width * block.expansion
    shortcut = None
    if projections and (stride != 1 or channels != out):
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    elif stride != 1 or channels != out:
        shortcut = ZeroPadShortcut()
    first = block(channels, width, stride, shortcut)
    return nn.Sequential(first, *(block(out, width) for _ in range(depth - 1)))


def init_weights(model: ResNet) -> None:
    """Draws fresh weights, as torchvision:

    | part         | weight                                             | bias |
    |--------------|----------------------------------------------------|------|
    | convolutions | normal, std sqrt(2 / (k^2 * channels out)) (He)    |      |
    | batch norms  | 1                                                  | 0    |
    | fc           | uniform +-1/sqrt(channels in)                      | same |
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()


IMAGENET = {  # block, blocks per stage: Table 1
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
CIFAR = {"resnet20_32": 3, "resnet32_32": 5, "resnet56_32": 9}  # n of section 4.2: 6n + 2 layers


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> ResNet:
    for rate, label, what in (
        (drop_rate, "drop_rate", "dropout"),
        (drop_path_rate, "drop_path_rate", "stochastic depth"),
    ):
        if rate:
            raise RegardError(f"{label}={rate}: {name} has no {what}; leave it at 0")
    if name in CIFAR:
        return ResNet(BasicBlock, (CIFAR[name],) * 3, (16, 32, 64), True, False, num_classes)
    block, depths = IMAGENET[name]
    return ResNet(block, depths, (64, 128, 256, 512), img_size < SMALL_IMAGE, True, num_classes)


SPECS = (
    *(
        ModelSpec(
            name=name,
            family="resnet",
            build=partial(_build, name),
            img_size=224,
            timm=(name, {}),
            timm_from=SMALL_IMAGE,
            deviations="v1.5 (stride on the 3x3); below 64 pixels the stem is 3x3, stride 1, without pooling",
        )
        for name in IMAGENET
    ),
    *(ModelSpec(name=name, family="resnet", build=partial(_build, name), img_size=32) for name in CIFAR),
)
