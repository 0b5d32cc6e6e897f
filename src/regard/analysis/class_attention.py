"""Where the class token looks, in every layer and head."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import Tensor, nn

from regard.analysis.passes import first_of, layers_with_attention, passes, photo
from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from regard.errors import RegardError
from regard.models.attending import AttentionLayer
from regard.reporting.pictures.class_attention import ClassAttention

RGB = tuple[float, float, float]


def class_attention(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    patch: tuple[int, int] | None = None,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> ClassAttention:
    """What the class token of the first image attends to among its patches, per layer and head.

        a = A_h[0, patches],   A_h (T, T): attention of head h after the softmax, row 0 being the class token's

    Layers without a class token (Swin, BoTNet, the soft splits of T2T-ViT, mean pooling) show the mean over all
    queries, mean_i A_h[i, patches]. patch: (row, column) of the last layer's grid, counted from 0; then each layer
    shows what the patch at that place of the image attends to. Only rows are kept, and as they are: what is missing
    from a sum of 1 goes to tokens without a patch.

    mean, std: by which the images were normalised, for the photo alone. Raises RegardError for a model without
    attention and for a patch that does not exist.
    """
    layers = layers_with_attention(model, "class_attention")
    height, width = layers[-1].grid
    if patch is not None and not (0 <= patch[0] < height and 0 <= patch[1] < width):
        raise RegardError(f"patch={patch}: expected a row from 0 to {height - 1} and a column from 0 to {width - 1}")
    place = None if patch is None else ((patch[0] + 0.5) / height, (patch[1] + 0.5) / width)
    first, _ = first_of(batches)
    keeps = {f"{layer.name}.pattern": partial(_rows, layer, place) for layer in layers}
    _, seen = next(passes(model, keeps, [first[:1]]))
    return ClassAttention(
        layers=tuple(layer.name for layer in layers),
        queries=tuple("patch" if place else "class" if layer.prefix else "mean" for layer in layers),
        patch=patch,
        place=place,
        photo=photo(first[0], mean, std),
        maps=tuple(seen[f"{layer.name}.pattern"].cpu().numpy() for layer in layers),
    )


def _rows(layer: AttentionLayer, place: tuple[float, float] | None, pattern: Tensor) -> Tensor:
    """(1, H, T, T) -> (H, height, width): the query's row, of the patches."""
    whole = layer.whole(pattern)[0]
    if place is not None:
        row, column = (int(share * side) for share, side in zip(place, layer.grid, strict=True))
        of_query = whole[:, layer.prefix + row * layer.grid[1] + column]
    elif layer.prefix:
        of_query = whole[:, 0]
    else:
        of_query = whole.mean(1)
    return of_query[:, layer.prefix :].float().unflatten(1, layer.grid).clone()
