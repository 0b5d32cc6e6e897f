"""GoogLeNet: "Going Deeper with Convolutions" (Szegedy et al. 2014, arXiv 1409.4842).

A stem, nine Inception modules in three stages, global average pooling, one linear layer. A module concatenates four
views of its input: 1x1; 1x1 then 3x3; 1x1 then "5x5"; max pooling then 1x1. In training two auxiliary classifiers
read the outputs of 4a and 4d, and their losses count 0.3 each (section 5); evaluation does not run them.
Layers and names of the weights are torchvision's.

Deviations from the paper, all but the last three torchvision's:
- the "5x5" convolutions are 3x3 (a known slip of the ported weights): 380,928 weights fewer;
- batch normalisation after each convolution, which then has no bias, in place of local response normalisation;
- initialisation: normal of std 0.01 cut at +-2 (all convolutions and linear layers), linear biases PyTorch's;
- the auxiliary classifiers read an adaptive average of 4x4 pixels, so other image sizes work (from 15 pixels on);
- dropout is off unless asked for: `drop_rate` is that before the last layer (0.4 in the paper, 0.2 in torchvision),
  and where it is not 0 the auxiliary classifiers drop 0.7, as in the paper;
- the input is normalised to mean 0.5 and std 0.5, by the preprocessing of the published weights. torchvision
  normalises as for its other models and maps that to 0.5 and 0.5 inside the model (`transform_input`): no difference;
- `googlenet_nano_32` is ours, for small images: six narrow modules, a 3x3 stem, no auxiliary classifiers.

Of the published weights the auxiliary classifiers are untrained.

Patterns of `record` and `edit` address module outputs: conv3, inception4a, inception4a.branch2.1, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception, InceptionAux

from regard.models.convolutional import leave_heads_out, of_map, refuse_rates
from regard.models.registry import Features, Heads, ModelSpec

AUX_DROP_RATE = 0.7  # section 5
Widths = tuple[int, int, int, int, int, int]  # 1x1; 3x3: reduced, out; "5x5": reduced, out; pooled

PUBLISHED: Mapping[str, Widths] = {  # Table 1
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
NANO: Mapping[str, Widths] = {
    "3a": (32, 32, 48, 8, 16, 16),
    "3b": (48, 48, 64, 8, 16, 16),
    "4a": (64, 48, 96, 8, 24, 24),
    "4b": (64, 64, 128, 16, 32, 32),
    "5a": (96, 64, 128, 16, 48, 48),
    "5b": (96, 64, 128, 16, 48, 48),
}


POOLINGS = {"4a": ("maxpool3", 3), "5a": ("maxpool4", 2)}  # before these modules, and how many pixels per side
READERS = {"inception4a": "aux1", "inception4d": "aux2"}  # which auxiliary classifier reads which module


class GoogLeNet(nn.Module):
    """Classifies (B, 3, S, S) images: forward -> logits (B, num_classes), in training `Heads`; (B, D) for 0 classes.

    modules: widths of the Inception modules by name; small_stem: one 3x3 convolution of 48 channels, and no auxiliary
    classifiers; drop_rate: dropout before the last layer.
    """

    HEAD = "fc"
    OTHER_HEADS: tuple[str, ...] = ("aux1.fc2", "aux2.fc2")
    OTHERS_WEIGHT = 0.3

    def __init__(
        self, modules: Mapping[str, Widths], small_stem: bool = False, num_classes: int = 1000, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        if small_stem:
            self.conv1, channels = BasicConv2d(3, 48, kernel_size=3, padding=1), 48
        else:
            self.conv1, channels = BasicConv2d(3, 64, kernel_size=7, stride=2, padding=3), 192
            self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            self.conv2 = BasicConv2d(64, 64, kernel_size=1)
            self.conv3 = BasicConv2d(64, channels, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        outputs: dict[str, int] = {}
        for name, widths in modules.items():
            if name in POOLINGS:
                pooling, side = POOLINGS[name]
                self.add_module(pooling, nn.MaxPool2d(side, stride=2, ceil_mode=True))
            self.add_module(f"inception{name}", Inception(channels, *widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
            outputs[f"inception{name}"] = channels
        self.body = [name for name, _ in self.named_children()]
        if small_stem:
            self.OTHER_HEADS = ()
        else:
            rate = AUX_DROP_RATE if drop_rate else 0.0
            for name, reader in READERS.items():
                self.add_module(reader, InceptionAux(outputs[name], num_classes or 1, dropout=rate))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(drop_rate)
        self.fc = nn.Linear(channels, num_classes or 1)
        init_weights(self)
        if not num_classes:
            leave_heads_out(self)

    def features(self, images: Tensor) -> Features:
        """What the model knows of (B, 3, S, S) images before its head; tokens: pixels of the last map."""
        return self._read(images)[0]

    def forward(self, images: Tensor) -> Tensor | Heads:
        features, others = self._read(images)
        logits = self.fc(self.dropout(features.pooled))  # (B, K)
        return Heads(logits, others) if others else logits

    def _read(self, images: Tensor) -> tuple[Features, tuple[Tensor, ...]]:
        """The features, and in training what the auxiliary classifiers say, (B, K) each."""
        x, others = images, []
        for name in self.body:
            x = self.get_submodule(name)(x)  # (B, C, h, w)
            if self.training and self.OTHER_HEADS and name in READERS:
                others.append(self.get_submodule(READERS[name])(x))
        return of_map(x, self.avgpool(x).flatten(1)), tuple(others)


def init_weights(model: GoogLeNet) -> None:
    """Draws fresh weights, as torchvision:

    | part                       | weight                      | bias                            |
    |----------------------------|-----------------------------|---------------------------------|
    | convolutions               | normal, std 0.01, cut at +-2 |                                |
    | linear layers              | normal, std 0.01, cut at +-2 | uniform +-1/sqrt(channels in)  |
    | batch norms                | 1                           | 0                               |
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.Linear):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01, a=-2, b=2)


def _build(small: bool, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> GoogLeNet:
    refuse_rates("googlenet_nano_32" if small else "googlenet", drop_path_rate=drop_path_rate)
    return GoogLeNet(NANO if small else PUBLISHED, small, num_classes, drop_rate)


PAPER = "Szegedy et al., Going Deeper with Convolutions, 2014, arXiv 1409.4842"
SPECS = (
    ModelSpec(
        name="googlenet",
        family="googlenet",
        build=partial(_build, False),
        img_size=224,
        smallest=15,
        paper=PAPER,
        deviations="batch normalisation, 3x3 for 5x5 (as torchvision); 6,379,984 of its parameters are auxiliary "
        "classifiers, which evaluation does not run; the paper's dropout is drop_rate=0.4",
        convolutional=True,
        sgd_lr=0.1,
    ),
    ModelSpec(
        name="googlenet_nano_32",
        family="googlenet",
        build=partial(_build, True),
        img_size=32,
        smallest=8,
        paper=PAPER,
        deviations="not a published size: six narrow modules, a 3x3 stem, no auxiliary classifiers, for small images",
        convolutional=True,
        sgd_lr=0.1,
    ),
)
