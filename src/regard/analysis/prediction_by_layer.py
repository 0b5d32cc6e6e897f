"""What the head would answer if the model ended earlier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from regard.analysis.passes import depths, first_of, passes, photo
from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from regard.errors import RegardError
from regard.models.clip import CLIP
from regard.models.deit import DistilledDeiT
from regard.models.swin import Swin
from regard.models.vit import POOLS, ViT
from regard.reporting.pictures.prediction_by_layer import PredictionByLayer

RGB = tuple[float, float, float]


def prediction_by_layer(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    classes: Sequence[str] = (),
    top: int = 5,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
) -> PredictionByLayer:
    """Class probabilities after each block: its tokens through the final norm and the head ("logit lens",
    nostalgebraist 2020; for ViT: Vilas et al. 2023, arXiv 2310.18969).

        p_l = softmax(W LN(z_l)[pooled] + b),   z_l the tokens after block l, LN and W those after the last block

    Of the first image the `top` classes of the final answer are followed; over all images, the share whose most
    probable class after block l is the final one already. The head was trained on the last block's tokens alone, so
    early values say what it makes of them, not what they hold. Stages of another width (Swin's earlier ones) cannot
    pass the head, and are left out.

    classes: names of the outputs, their numbers where there are none. mean, std: by which the images were normalised,
    for the photo alone. Images are streamed. Raises RegardError for a model without a stack of blocks over tokens or
    without a head of classes.
    """
    places = depths(model, "prediction_by_layer")
    if isinstance(model, CLIP) or isinstance(model.get_submodule(str(model.HEAD)), nn.Identity):
        raise RegardError(f"prediction_by_layer: {type(model).__name__} has no head of classes; load it with one")
    if isinstance(model, Swin):
        places = {name: layer for name, layer in places.items() if layer.grid == model.grid and name != "embedded"}
    first, batches = first_of(batches)
    followed, probabilities = [], torch.empty(0)
    count, agree = 0, torch.zeros(len(places), dtype=torch.float64)
    for images, seen in passes(model, dict.fromkeys(places, partial(read_out, model)), batches):
        logits = torch.stack([seen[name] for name in places])  # (depths, B, K)
        answers = logits.argmax(-1).cpu()
        agree += (answers == answers[-1]).sum(1)
        if not count:
            probabilities = logits[:, 0].softmax(-1).cpu().double()  # (depths, K)
            followed = probabilities[-1].argsort(descending=True, stable=True)[:top].tolist()
        count += len(images)
    names = list(classes) or [f"class {number}" for number in range(probabilities.shape[1])]
    return PredictionByLayer(
        depths=tuple(places),
        classes=tuple(names[number] for number in followed),
        probabilities=probabilities[:, followed].numpy(),
        agreement=(agree / count).numpy(),
        images=count,
        photo=photo(first[0], mean, std),
        skipped=len(depths(model, "prediction_by_layer")) - len(places),
    )


def read_out(model: nn.Module, tokens: Tensor) -> Tensor:
    """What the model makes of the tokens (B, T, D) of its last block: logits (B, K), float32."""
    tokens = model.get_submodule("norm")(tokens)
    head = model.get_submodule(str(model.HEAD))
    if isinstance(model, DistilledDeiT):
        return (head(tokens[:, 0]) + model.head_dist(tokens[:, 1])).float() / 2
    if isinstance(model, Swin):
        return head(tokens.mean(1)).float()
    return head(POOLS[model.pool](tokens) if isinstance(model, ViT) else tokens[:, 0]).float()
