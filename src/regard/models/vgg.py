"""VGG: "Very Deep Convolutional Networks for Large-Scale Image Recognition" (Simonyan and Zisserman 2014).

Stages of 3x3 convolutions with ReLU, each stage ended by a 2x2 max pooling of stride 2, then three linear layers.
N stacked 3x3 convolutions see (2N + 1) x (2N + 1) pixels with 9N weights per pair of channels. `vgg11|13|16|19` are
the columns A, B, D and E of Table 1 (arXiv 1409.1556), `*_bn` the same with batch normalisation before each ReLU.
Layers and names of the weights are torchvision's.

Deviations from the paper:
- an adaptive pooling to 7x7 pixels before the linear layers lets other image sizes in (from 32 pixels on);
- initialisation is torchvision's (see `init_weights`); the paper begins with the weights of a shallower network;
- dropout is off unless asked for (`drop_rate`); the paper has 0.5 after the first two linear layers;
- batch normalisation (`*_bn`) is younger than the paper;
- `vgg_nano_32` and `vgg_nano_bn_32` are ours, for small images: three stages of two convolutions, hidden layers of
  256, whose weights are drawn by their width (std 0.01, meant for 4096, would leave such layers almost silent).

Patterns of `record` and `edit` address module outputs: features.0, ..., classifier.0, ...
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from regard.models.convolutional import leave_heads_out, of_classifier, refuse_rates
from regard.models.registry import Features, ModelSpec


class VGG(nn.Module):
    """Classifies (B, 3, S, S) images: forward -> logits (B, num_classes); (B, hidden) where num_classes is 0.

    depths, widths: convolutions and channels per stage; batch_norm: normalise before each ReLU; side: pixels per
    side that the linear layers see; hidden: width of the first two of them; drop_rate: dropout after each of these;
    linear_std: of their fresh weights, None for sqrt(2 / channels in).
    """

    HEAD = "classifier.6"

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = (64, 128, 256, 512, 512),
        batch_norm: bool = False,
        side: int = 7,
        hidden: int = 4096,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        linear_std: float | None = 0.01,
    ) -> None:
        super().__init__()
        plan: list[str | int] = []
        for depth, width in zip(depths, widths, strict=True):
            plan += [*[width] * depth, "M"]
        self.features = make_layers(plan, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * side**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(hidden, num_classes or 1),
        )
        init_weights(self, linear_std)
        if not num_classes:
            leave_heads_out(self)

    def final_features(self, images: Tensor) -> Features:
        """What the model knows of images before its head; tokens: the last map (B, 7*7, 512) at 224 pixels."""
        return of_classifier(self.features, self.avgpool, self.classifier, images)

    def forward(self, images: Tensor) -> Tensor:
        x = self.avgpool(self.features(images))  # (B, C, side, side)
        return self.classifier(x.flatten(1))  # (B, K)


def init_weights(model: VGG, linear_std: float | None) -> None:
    """Draws fresh weights, for the published sizes as torchvision:

    | part          | weight                                                 | bias |
    |---------------|--------------------------------------------------------|------|
    | convolutions  | normal, std sqrt(2 / (9 * channels out)) (He)          | 0    |
    | batch norms   | 1                                                      | 0    |
    | linear layers | normal, std 0.01, in our sizes sqrt(2 / channels in)   | 0    |
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=linear_std or (2 / module.in_features) ** 0.5)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


DEPTHS = {  # Table 1: A, B, D, E
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> VGG:
    refuse_rates(name, drop_path_rate=drop_path_rate)
    batch_norm = "_bn" in name
    if name.startswith("vgg_nano"):
        return VGG((2, 2, 2), (32, 64, 128), batch_norm, 4, 256, num_classes, drop_rate, linear_std=None)
    depths = DEPTHS[name.removesuffix("_bn")]
    return VGG(depths, batch_norm=batch_norm, num_classes=num_classes, drop_rate=drop_rate)


def _spec(name: str, sgd_lr: float, deviations: str, img_size: int = 224, smallest: int = 32) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="vgg",
        build=partial(_build, name),
        img_size=img_size,
        smallest=smallest,
        paper="Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, 2014, "
        "arXiv 1409.1556",
        deviations=deviations,
        convolutional=True,
        sgd_lr=sgd_lr,
    )


PLAIN = "the paper's dropout is drop_rate=0.5; timm has other names for the linear layers"
NORMALISED = f"batch normalisation, which the paper has not; {PLAIN}"

SPECS = (
    *(_spec(name, 0.01, PLAIN) for name in DEPTHS),  # the paper's rate
    *(_spec(f"{name}_bn", 0.1, NORMALISED) for name in DEPTHS),
    _spec("vgg_nano_32", 0.05, "not a published size: three stages of the paper's layers, for small images", 32, 8),
    _spec("vgg_nano_bn_32", 0.1, "not a published size: as vgg_nano_32, with batch normalisation", 32, 8),
)
