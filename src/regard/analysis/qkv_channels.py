"""Queries, keys and values of one head, each channel as a small image."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from regard.analysis.passes import chosen, first_of, layers_with_attention, passes, photo
from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.qkv_channels import QkvChannels

RGB = tuple[float, float, float]


def qkv_channels(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    layer: int = -1,
    head: int = 0,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> QkvChannels:
    """q, k and v of the first image in one head, channel by channel (Gildenblat, "Exploring explainability for vision
    transformers", 2020).

    The tokens without a patch are dropped: of 197 values of a channel, 196 become an image of 14 x 14. q is as it
    leaves its linear layer, not yet divided by sqrt(d). A channel adds q_ic k_jc / sqrt(d) to the score with which
    patch i looks at patch j: it speaks for j where both have the same sign. Windows (Swin) are put back in place.

    layer: of the layers with attention, in order, -1 being the last; head: from 0. mean, std: by which the images were
    normalised, for the photo alone. Raises RegardError for a layer or head that does not exist, and for a model
    without attention.
    """
    layers = layers_with_attention(model, "qkv_channels")
    wanted = layers[chosen(len(layers), layer, "layer")]
    head = chosen(wanted.num_heads, head, "head")
    first, _ = first_of(batches)
    names = [f"{wanted.name}.{which}" for which in "qkv"]
    _, seen = next(passes(model, dict.fromkeys(names, lambda output: output), [first[:1]]))
    images = [_images(wanted, seen[name], head).cpu().numpy() for name in names]
    return QkvChannels(wanted.name, head, photo(first[0], mean, std), *images)


def _images(layer: AttentionLayer, heads: Tensor, head: int) -> Tensor:
    """What the tap of q, k or v gave of one image -> (channels, height, width) of a head."""
    values = heads[:, head].float()  # (1, T, d), or (W, n, d) in windows
    whole = values[0]
    if layer.windows is not None:
        whole = values.new_zeros(layer.tokens + 1, values.shape[-1])  # the last takes what the filling has
        whole[layer.windows.to(values.device)] = values
        whole = whole[:-1]
    return whole[layer.prefix :].T.unflatten(1, layer.grid)
