"""The filters by which a model sees colours first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import RegardError
from regard.models.hybrid import WEIGHT_EPS, StdConv2d
from regard.models.t2t import T2TViT
from regard.reporting.pictures.filters import Filters

COMPONENTS = 28  # of the ViT paper's figure 7


def filters(model: nn.Module, *, components: int = COMPONENTS) -> Filters:
    """The first layer's filters on RGB, or their principal components (ViT, arXiv 2010.11929, figure 7 left).

    Filters that cut the image into patches (stride = kernel: ViT, Swin, ConvNeXt) are many and mixed: shown are the
    first `components` right singular vectors of the D filters W (D, 3 P P) less their mean,

        W - mean(W) = U S V^T,   share of the variance of component i = S_i^2 / sum_j S_j^2,

    each with the sign that makes its largest value positive. Filters that overlap (a CNN's, a hybrid's stem) are few,
    and are shown as they are, as the convolution uses them. T2T-ViT's are the values' rows of its first attention on
    the 7 x 7 windows of the soft split, times the gains of the norm before it.

    Works on any model whose first convolution of 3 channels reads the image. Raises RegardError for one without.
    """
    name, weight, overlapping = _first_layer(model)
    flat = weight.detach().cpu().double().flatten(1)  # (D, 3 k k)
    side = (3, *weight.shape[2:])
    if overlapping:
        shown, share = flat, None
    else:
        _, lengths, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        kept = min(components, min(len(flat) - 1, flat.shape[1]))
        variance = lengths.square() / lengths.square().sum()
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        shown, share = (vectors * largest.sign())[:kept], variance[:kept].numpy()
    tiles = shown.unflatten(1, side).permute(0, 2, 3, 1)  # (F, k, k, 3)
    return Filters(layer=name, count=len(flat), tiles=tiles.numpy(), share=share)


def _first_layer(model: nn.Module) -> tuple[str, Tensor, bool]:
    """Dotted name, filters (D, 3, k, k) and whether they overlap."""
    if isinstance(model, T2TViT):
        split = model.tokens_to_token
        kernel, stride, _ = split.windows[0]
        names = [name for name, module in split.attention1.named_modules() if name.endswith(("qkv", "kqv"))]
        linear, norm = split.attention1.get_submodule(names[0]), split.attention1.get_submodule("norm1")
        assert isinstance(linear, nn.Linear) and isinstance(norm, nn.LayerNorm)
        values = linear.weight.chunk(3)[2] * norm.weight  # v is the last third in both kinds of attention
        return f"tokens_to_token.attention1.{names[0]}", values.unflatten(1, (3, kernel, kernel)), kernel > stride
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            weight = module.weight
            if isinstance(module, StdConv2d):
                weight = F.layer_norm(weight, weight.shape[1:], eps=WEIGHT_EPS)
            return name, weight, module.kernel_size[0] > module.stride[0]
    raise RegardError(
        f"filters: {type(model).__name__} has no convolution of three channels; the figure is for models whose first "
        "layer reads the image's colours"
    )
