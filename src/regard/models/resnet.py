"""ResNet: "Deep Residual Learning for Image Recognition" (He et al. 2015, arXiv 1512.03385).

`resnet18|34|50|101|152` have torchvision's blocks and names of weights (equal to timm's); `resnet20|32|56_32`
are the networks for 32-pixel images of section 4.2: three stages of 16, 32 and 64 channels, 3x3 stem.
`plain18|34` and `plain20|32|56_32` are the paper's plain networks: the same without any shortcut.

Deviations from the paper:
- a bottleneck strides in its 3x3 convolution ("v1.5", torchvision); the paper strides in the first 1x1;
- below 64 pixels the networks for ImageNet (18 to 152 layers) get a 3x3 stem of stride 1 without pooling: the
  paper's stem divides the sides by 4 and would leave one pixel at the end. Published weights do not fit that stem.

The networks of section 4.2 have the paper's parameter-free shortcuts, option A: every second pixel, zeros for
the new channels (half of them on either side).

Patterns of `record` and `edit` address module outputs: layer1.0, layer4.*, avgpool, ...
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from regard.models.convolutional import of_map, refuse_rates
from regard.models.registry import Features, ModelSpec

SMALL_IMAGE = 64  # pixels per side below which the stem keeps every pixel


class ZeroPadShortcut(nn.Module):
    """Option A of section 4.2: (B, C, h, w) -> (B, 2 C, h/2, w/2) without a weight."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


class PlainBlock(BasicBlock):
    """Two 3x3 convolutions of which nothing leads around (section 3.3); a shortcut that is offered is left out."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


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
        return of_map(x, pooled)

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
    "plain18": (PlainBlock, (2, 2, 2, 2)),
    "plain34": (PlainBlock, (3, 4, 6, 3)),
}
CIFAR = {  # block, n of section 4.2: 6n + 2 layers
    "resnet20_32": (BasicBlock, 3),
    "resnet32_32": (BasicBlock, 5),
    "resnet56_32": (BasicBlock, 9),
    "plain20_32": (PlainBlock, 3),
    "plain32_32": (PlainBlock, 5),
    "plain56_32": (PlainBlock, 9),
}


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> ResNet:
    refuse_rates(name, drop_rate, drop_path_rate)
    if name in CIFAR:
        block, n = CIFAR[name]
        return ResNet(block, (n,) * 3, (16, 32, 64), True, False, num_classes)
    block, depths = IMAGENET[name]
    return ResNet(block, depths, (64, 128, 256, 512), img_size < SMALL_IMAGE, True, num_classes)


def _spec(name: str) -> ModelSpec:
    """The paper's sheet of `name`; timm has the residual networks of Table 1, from the usual stem's size on."""
    in_timm = name in IMAGENET and name.startswith("resnet")
    stem = "below 64 pixels the stem is 3x3, stride 1, without pooling"
    return ModelSpec(
        name=name,
        family="resnet" if name.startswith("resnet") else "plain",
        build=partial(_build, name),
        img_size=224 if name in IMAGENET else 32,
        paper="He et al., Deep Residual Learning for Image Recognition, 2015, arXiv 1512.03385",
        timm=(name, {}) if in_timm else None,
        timm_from=SMALL_IMAGE if in_timm else 0,
        deviations="" if name in CIFAR else f"v1.5 (stride on the 3x3); {stem}" if in_timm else stem,
        convolutional=True,
        sgd_lr=0.1,
    )


SPECS = tuple(_spec(name) for name in (*IMAGENET, *CIFAR))
