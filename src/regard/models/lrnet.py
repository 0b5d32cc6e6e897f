"""ResNets whose 3x3 convolutions are attention within windows.

LR-Net: "Local Relation Networks for Image Recognition" (Hu et al. 2019, arXiv 1904.11491). Every 3x3 convolution of a
ResNet is a local relation layer of 7x7 windows and m = 8 channels per weight map; the 7x7 convolution of the stem is a
1x1 convolution to 64 channels and such a layer of stride 2. `relation` is the Phi of the logits:
`lrnet50+relation=squared`.

`local_resnet50` is the plainer form: every 3x3 convolution is attention of a query of D numbers to keys R x R x D and
values R x R x C', here D = C' = C and R = 7, one head, no positions. The stem's convolution stays.

What the LR-Net paper leaves open or does otherwise, and what is done here:
- the widths of the layers are unpublished. Those here, 96, 200, 400 and 800 in place of 64, 128, 256 and 512, make
  23.36 M parameters for the published 23.3 M; 100 in the first stage is no multiple of m;
- the geometry prior has 32 hidden units and sees offsets scaled to [-1, 1]; queries and keys have no bias;
- the stride is on the local layer and its window centred on every second pixel (ResNet "v1.5");
- below 64 pixels the stem has stride 1 and no pooling, as in our ResNets;
- `lrnet20_32` and `local_resnet20_32` are ours, for small images: the trunk of `resnet20_32`, windows of 5x5.

Names of the weights are the ResNet's (`layer1.0.conv2.query.weight`). Taps, in layer*.*.conv2 (and conv1 of the small
ones, conv1.1 of LR-Net's stem): q, k, pattern, and geometry or v (`regard.layers.local_attention`).
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from regard.layers.local_attention import RELATIONS, LocalAttention, LocalRelation
from regard.models.convolutional import refuse_rates, replace_3x3
from regard.models.registry import ModelSpec
from regard.models.resnet import SMALL_IMAGE, ResNet

WINDOW, SMALL_WINDOW = 7, 5  # pixels per side; the smaller for 32-pixel images
SHARED = 8  # channels per weight map, m of the paper
WIDTHS = {64: 96, 128: 200, 256: 400, 512: 800}  # of a ResNet's 3x3 convolution -> of its local relation layer
BOTTLENECKS = {"lrnet26": (2, 2, 2, 2), "lrnet50": (3, 4, 6, 3), "local_resnet50": (3, 4, 6, 3)}  # per stage


class WideBottleneck(Bottleneck):
    """A bottleneck whose middle is as wide as LR-Net's; its ends are the ResNet's."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__(inplanes, planes, stride, downsample, base_width=64 * WIDTHS[planes] // planes)


def relate(model: ResNet, window: int, relation: str) -> None:
    """Makes a LR-Net of a ResNet: local relation layers in place of the stem's and all 3x3 convolutions."""

    def layer(channels: int, old: nn.Conv2d) -> LocalRelation:
        return LocalRelation(channels, old.out_channels, window, SHARED, old.stride[0], relation)

    stem = model.conv1
    for stage in model.stages:
        replace_3x3(model.get_submodule(stage), lambda old: layer(old.in_channels, old))
    widen = nn.Conv2d(3, stem.out_channels, 1, bias=False)
    model.set_submodule("conv1", nn.Sequential(widen, layer(stem.out_channels, stem)))
    init_weights(model)


def attend_locally(model: ResNet, window: int) -> None:
    """Puts the general local attention in place of all 3x3 convolutions of a ResNet's stages; D = C' = C."""
    for stage in model.stages:
        replace_3x3(
            model.get_submodule(stage),
            lambda old: LocalAttention(old.in_channels, old.out_channels, old.out_channels, window, old.stride[0]),
        )
    init_weights(model)


def init_weights(model: ResNet) -> None:
    """Draws fresh weights of the local layers; the others are the ResNet's, which the stem's 1x1 convolution follows.

    | part                              | weight                                | bias |
    |-----------------------------------|---------------------------------------|------|
    | query, key, value, out            | normal, std 1/sqrt(channels in)       |      |
    | geometry prior, both layers       | normal, std 1/sqrt(channels in)       | 0    |
    | 1x1 convolution of LR-Net's stem  | normal, std sqrt(2 / channels out)    |      |

    So the logits of normed features are about as large as 1, and the offsets weigh as much as the features.
    """
    for module in model.modules():
        if isinstance(module, LocalAttention | LocalRelation):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, std=layer.in_channels**-0.5)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        elif module is model.conv1 and isinstance(module, nn.Sequential):
            nn.init.kaiming_normal_(module.get_parameter("0.weight"), mode="fan_out", nonlinearity="relu")


def _build(
    name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float, relation: str = "product"
) -> ResNet:
    refuse_rates(name, drop_rate, drop_path_rate)
    if name in BOTTLENECKS:
        block = WideBottleneck if name.startswith("lrnet") else Bottleneck
        stem, window = img_size < SMALL_IMAGE, WINDOW
        model = ResNet(block, BOTTLENECKS[name], (64, 128, 256, 512), stem, True, num_classes)
    else:
        model, window = ResNet(BasicBlock, (3, 3, 3), (16, 32, 64), True, False, num_classes), SMALL_WINDOW
    if name.startswith("lrnet"):
        relate(model, window, relation)
    else:
        attend_locally(model, window)
    return model


LR_PAPER = "Hu et al., Local Relation Networks for Image Recognition, 2019, arXiv 1904.11491"
LR_WIDTHS = "unpublished widths: 96, 200, 400, 800 in the local layers, within 0.1 M of the published parameters"
LOCAL = "the general form of local attention: queries of D, keys R x R x D and values R x R x C', D = C' = C, R = 7"
SMALL = "not published: on the trunk of resnet20_32 for small images, windows of 5x5"


def _spec(name: str, img_size: int, deviations: str) -> ModelSpec:
    relational = name.startswith("lrnet")
    return ModelSpec(
        name=name,
        family="lrnet" if relational else "local_resnet",
        build=partial(_build, name),
        img_size=img_size,
        options={"relation": tuple(RELATIONS)} if relational else {},
        paper=LR_PAPER,
        deviations=deviations,
        sgd_lr=0.1,
    )


SPECS = (
    _spec("lrnet50", 224, LR_WIDTHS),
    _spec("lrnet26", 224, LR_WIDTHS),
    _spec("local_resnet50", 224, LOCAL),
    _spec("lrnet20_32", 32, SMALL),
    _spec("local_resnet20_32", 32, SMALL),
)
