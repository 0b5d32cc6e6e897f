"""Non-local ResNet: "Non-local Neural Networks" (Wang et al. 2018, arXiv 1711.07971).

    y = softmax(theta(x)^T phi(x) / sqrt(d)) g(x),   z = x + BN(W_z y)          embedded Gaussian, (2), (5), (6)

theta, phi and g are 1x1 convolutions from C to d = C / 2 channels with bias, W_z one back to C. The scale of the last
norm starts at 0, so that a fresh block hands on what it gets: the weights of a published ResNet-50 fit the trunk, and
the network then says what that ResNet-50 says. `resnet50_nl1` has one block, before the last unit of res4;
`resnet50_nl5` has five, after every other unit of res3 (two) and res4 (three).

Deviations from the paper:
- images instead of videos: the blocks see one map, not several frames;
- the logits are divided by sqrt(d), as in the authors' code; keys and values are not pooled (an option of the paper);
- `resnet20_nl_32` is ours, for small images: one block before the last unit of the second of three stages.

Names of the weights: the ResNet's, and `nonlocals.layer3_4.theta.weight`, ... for the block after layer3.4. Taps, in
nonlocals.*: q, k, v (B, 1, N, d) and pattern (B, 1, N, N), N = h*w pixels row after row.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from regard.layers.attention import attention_weights
from regard.models.convolutional import refuse_rates
from regard.models.registry import ModelSpec
from regard.models.resnet import SMALL_IMAGE, ResNet
from regard.taps import Tap


class NonLocal(nn.Module):
    """Every pixel attends to every other: (B, C, h, w) -> the same shape. Taps: see above.

    The pattern exists only while somebody listens to it.
    """

    IDENTITY_AT_START = True  # weights of a network without it may be loaded around it

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(channels, channels // 2, 1)
        self.phi = nn.Conv2d(channels, channels // 2, 1)
        self.g = nn.Conv2d(channels, channels // 2, 1)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()
        self.out = nn.Conv2d(channels // 2, channels, 1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        q, k, v = (layer(x).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.theta, self.phi, self.g))
        q, k, v = self.q(q), self.k(k), self.v(v)  # each (B, 1, N, d)
        if self.pattern.listening:
            y = self.pattern(attention_weights(q, k)) @ v  # (B, 1, N, N) @ (B, 1, N, d)
        else:
            y = F.scaled_dot_product_attention(q, k, v)  # (B, 1, N, d)
        y = y.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])  # (B, d, h, w)
        return x + self.bn(self.out(y))


def add_nonlocals(model: ResNet, places: dict[str, tuple[int, ...]]) -> None:
    """Puts a block after the units of these numbers in these stages of a ResNet, named `nonlocals.STAGE_UNIT`."""
    blocks, order = {}, []
    for stage in model.stages:
        if stage not in places:
            order.append(stage)
            continue
        for i, (name, unit) in enumerate(model.get_submodule(stage).named_children()):
            order.append(f"{stage}.{name}")
            if i in places[stage]:
                blocks[f"{stage}_{name}"] = NonLocal(_channels(unit))
                order.append(f"nonlocals.{stage}_{name}")
    model.add_module("nonlocals", nn.ModuleDict(blocks))
    model.stages = order
    init_weights(model)


def _channels(unit: nn.Module) -> int:
    """Channels that a unit of a ResNet gives: those of its last norm."""
    return [module for module in unit.children() if isinstance(module, nn.BatchNorm2d)][-1].num_features


def init_weights(model: ResNet) -> None:
    """Draws fresh weights of the blocks, as the authors' code; the others are the ResNet's.

    | part                | weight            | bias |
    |---------------------|-------------------|------|
    | theta, phi, g, out  | normal, std 0.01  | 0    |
    | norm                | 0                 | 0    |
    """
    for block in model.modules():
        if isinstance(block, NonLocal):
            for layer in (block.theta, block.phi, block.g, block.out):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(block.bn.weight)


PLACES: dict[str, dict[str, tuple[int, ...]]] = {  # stage -> numbers of the units that a block follows
    "resnet50_nl1": {"layer3": (4,)},
    "resnet50_nl5": {"layer2": (1, 3), "layer3": (1, 3, 5)},
    "resnet20_nl_32": {"layer2": (1,)},
}


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> ResNet:
    refuse_rates(name, drop_rate, drop_path_rate)
    if name == "resnet20_nl_32":
        model = ResNet(BasicBlock, (3, 3, 3), (16, 32, 64), True, False, num_classes)
    else:
        model = ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), img_size < SMALL_IMAGE, True, num_classes)
    add_nonlocals(model, PLACES[name])
    return model


def _spec(name: str, img_size: int, deviations: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="nonlocal_resnet",
        build=partial(_build, name),
        img_size=img_size,
        paper="Wang et al., Non-local Neural Networks, 2018, arXiv 1711.07971",
        deviations=deviations,
        convolutional=True,
        sgd_lr=0.1,
    )


PUBLISHED = "on images instead of videos; keys and values are not pooled; below 64 pixels the stem is 3x3"
SPECS = (
    _spec("resnet50_nl1", 224, PUBLISHED),
    _spec("resnet50_nl5", 224, PUBLISHED),
    _spec("resnet20_nl_32", 32, "not published: on the trunk of resnet20_32, for small images"),
)
