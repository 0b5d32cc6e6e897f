"""BoTNet: "Bottleneck Transformers for Visual Recognition" (Srinivas et al. 2021, arXiv 2101.11605).

    logits of pixel i to j = q_i . (k_j + r_rows(j - i) + r_columns(j - i)) / sqrt(d)

A ResNet-50 whose last three 3x3 convolutions are such attention over the whole map, four heads of 128, without output
projection. r_rows and r_columns are rows of two tables, (2 H - 1, d) and (2 W - 1, d), which all heads share: the rows
by which j lies below i, the columns by which it lies to the right. A layer with a stride attends at full size and then
averages 2x2 pixels. The scale of each of these units' last norm starts at 0.

Deviations from the paper:
- where a side is odd, the average at its end is over what is there, so that odd sides fit the shortcut;
- the tables belong to one image size, as ViT's positions; below 64 pixels the stem is 3x3 without pooling, and the
  attention sees S/4 x S/4 pixels instead of S/16 x S/16;
- `botnet20_32` is ours, for small images: `resnet20_32` with attention, four heads of 16, in place of the second
  convolution of each unit of the last stage.

In the authors' code, and here, q is divided by sqrt(d) before it meets the tables too (timm divides q . k alone).

Names of the weights: the ResNet's, and `layer4.0.conv2.qkv.weight`, `.height_rel`, `.width_rel`. Taps, in layer4.* (the
small one: layer3.*): conv2.q, conv2.k, conv2.v (B, H, N, d), conv2.positions (B, H, N, N), the part of the logits that
the tables give, and conv2.pattern (B, H, N, N), N pixels row after row.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from regard.errors import RegardError
from regard.models.convolutional import refuse_rates
from regard.models.registry import ModelSpec
from regard.models.resnet import SMALL_IMAGE, ResNet
from regard.taps import Tap

NUM_HEADS = 4


def relative_logits(q: Tensor, height_rel: Tensor, width_rel: Tensor) -> Tensor:
    """q . (r_rows(j - i) + r_columns(j - i)) of all pixels i, j: q (B, H, N, d) -> (B, H, N, N).

    height_rel (2 h - 1, d), width_rel (2 w - 1, d): row t is the offset t - (h - 1) or t - (w - 1); N = h*w.
    """
    height, width = (len(height_rel) + 1) // 2, (len(width_rel) + 1) // 2
    q = q.unflatten(2, (height, width))  # (B, H, h, w, d)
    down = torch.einsum("bnyxd,ytd->bnyxt", q, height_rel[_row_of_offset(height, q.device)])  # t: the row of j
    right = torch.einsum("bnyxd,xtd->bnyxt", q, width_rel[_row_of_offset(width, q.device)])  # t: the column of j
    return (down.unsqueeze(-1) + right.unsqueeze(-2)).flatten(4).flatten(2, 3)  # (B, H, h, w, h, w) -> (B, H, N, N)


def _row_of_offset(side: int, device: torch.device) -> Tensor:
    """(side, side): for i and j along one axis, the row of the table that stands for the offset j - i."""
    along = torch.arange(side, device=device)
    return along - along[:, None] + side - 1


class RelativeAttention(nn.Module):
    """Attention over all pixels of a map: (B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride)), (h, w) = grid.

    The pattern exists only while somebody listens to it. Taps: see above.
    """

    def __init__(self, channels: int, grid: tuple[int, int], num_heads: int, stride: int = 1) -> None:
        super().__init__()
        self.grid, self.num_heads = grid, num_heads
        dim = channels // num_heads
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.height_rel = nn.Parameter(torch.empty(2 * grid[0] - 1, dim))
        self.width_rel = nn.Parameter(torch.empty(2 * grid[1] - 1, dim))
        self.q, self.k, self.v, self.positions, self.pattern = Tap(), Tap(), Tap(), Tap(), Tap()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        if x.shape[2:] != self.grid:
            raise RegardError(
                f"images: give a map of {x.shape[2]}x{x.shape[3]} where this model attends over "
                f"{self.grid[0]}x{self.grid[1]}; resize them, or make the model with their img_size"
            )
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1))  # (B, 3, H, d, N)
        q, k, v = qkv.transpose(3, 4).unbind(1)  # each (B, H, N, d)
        q, k, v = self.q(q), self.k(k), self.v(v)
        scale = q.shape[-1] ** -0.5
        positions = self.positions(relative_logits(q * scale, self.height_rel, self.width_rel)).to(q.dtype)
        if self.pattern.listening:
            z = self.pattern((q * scale @ k.transpose(2, 3) + positions).softmax(dim=-1)) @ v  # (B, H, N, d)
        else:
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=positions)  # (B, H, N, d)
        return self.pool(z.transpose(2, 3).flatten(1, 2).unflatten(2, self.grid))


def attend(model: ResNet, grid: tuple[int, int]) -> None:
    """Puts attention in place of `conv2` of each unit of a ResNet's last stage; grid: the map that the first sees."""
    for unit in model.get_submodule(model.stages[-1]).children():
        old = unit.get_submodule("conv2")
        assert isinstance(old, nn.Conv2d)
        stride = old.stride[0]
        unit.set_submodule("conv2", RelativeAttention(old.out_channels, grid, NUM_HEADS, stride))
        grid = (-(-grid[0] // stride), -(-grid[1] // stride))
    init_weights(model)


def init_weights(model: ResNet) -> None:
    """Draws fresh weights of the attention and its units' last norms, as the authors; the others are the ResNet's.

    | part                                | weight                           | bias |
    |-------------------------------------|----------------------------------|------|
    | qkv                                 | normal, std 1/sqrt(channels in)  |      |
    | tables of relative positions        | normal, std 1/sqrt(d)            |      |
    | last norm of a unit with attention  | 0                                | 0    |
    """
    for unit in model.get_submodule(model.stages[-1]).children():
        attention = unit.get_submodule("conv2")
        assert isinstance(attention, RelativeAttention)
        nn.init.normal_(attention.qkv.weight, std=attention.qkv.in_channels**-0.5)
        for table in (attention.height_rel, attention.width_rel):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)
        nn.init.zeros_([module for module in unit.children() if isinstance(module, nn.BatchNorm2d)][-1].weight)


def _build(name: str, *, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float) -> ResNet:
    refuse_rates(name, drop_rate, drop_path_rate)
    small = img_size < SMALL_IMAGE
    if name == "botnet20_32":
        model, reduction = ResNet(BasicBlock, (3, 3, 3), (16, 32, 64), True, False, num_classes), 4
    else:
        model = ResNet(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), small, True, num_classes)
        reduction = 4 if small else 16
    side = -(-img_size // reduction)
    attend(model, (side, side))
    return model


def _spec(name: str, img_size: int, deviations: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="botnet",
        build=partial(_build, name),
        img_size=img_size,
        paper="Srinivas et al., Bottleneck Transformers for Visual Recognition, 2021, arXiv 2101.11605",
        deviations=deviations,
        convolutional=True,
        sgd_lr=0.1,
    )


SPECS = (
    _spec("botnet50", 224, "positions belong to one image size; below 64 pixels the stem is 3x3"),
    _spec("botnet20_32", 32, "not published: on the trunk of resnet20_32, for small images"),
)
