"""The published weights that `regard` knows: where they lie, what they saw, how their images are prepared.

Names and tags are timm's (`vit_small_patch16_224.augreg_in21k_ft_in1k`, `resnet50.tv_in1k`). The first
entry of an architecture is what its bare name means. Top-1 figures are ImageNet-1k validation accuracies in
per cent as published by the source of the weights: timm's own re-evaluation for `timm/...` files,
torchvision's table for `tv` tags, the AugReg repository's recommendation for `google_` tags. They are
quoted, not measured here.
"""

from __future__ import annotations

import difflib
from functools import cache

from regard.errors import RegardError
from regard.weights.catalogue import clip, convolutional, deit, dinov2, hybrid, resnet, sam, swin, t2t, vit
from regard.weights.catalogue.entry import Checkpoint as Checkpoint
from regard.weights.catalogue.entry import HubFile as HubFile
from regard.weights.catalogue.entry import imagenet_classes as imagenet_classes

# The first entry of an architecture is its default.
CHECKPOINTS: tuple[Checkpoint, ...] = (
    *clip.CHECKPOINTS,
    *deit.CHECKPOINTS,
    *dinov2.CHECKPOINTS,
    *hybrid.CHECKPOINTS,
    *convolutional.CHECKPOINTS,
    *resnet.CHECKPOINTS,
    *sam.CHECKPOINTS,
    *swin.CHECKPOINTS,
    *t2t.CHECKPOINTS,
    *vit.CHECKPOINTS,
)


def find_checkpoint(name: str) -> Checkpoint:
    """The catalogue entry of `architecture.tag`, or the default one of a bare `architecture`.

    Raises RegardError with the tags of the architecture, or the nearest names where the architecture has
    none.
    """
    architecture, _, tag = name.partition(".")
    known = checkpoints_of(architecture)
    if not known:
        nearest = difflib.get_close_matches(name, [*_by_architecture(), *(c.tag for c in CHECKPOINTS)], n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(nearest)}" if nearest else "regard.list_models() names them all"
        raise RegardError(
            f"{name}: no published weights are known for this name; {hint}; or pass --weights FILE, or --method scratch"
        )
    for checkpoint in known:
        if not tag or checkpoint.tag == name:
            return checkpoint
    tags = ", ".join(checkpoint.tag for checkpoint in known)
    raise RegardError(f"{name}: no such weights; the weights of {architecture} are: {tags}")


def checkpoints_of(architecture: str) -> tuple[Checkpoint, ...]:
    """All entries of one architecture, the default first; empty where none is known, as for `NAME+option=value`."""
    return _by_architecture().get(architecture, ())


@cache
def _by_architecture() -> dict[str, tuple[Checkpoint, ...]]:
    groups: dict[str, tuple[Checkpoint, ...]] = {}
    for checkpoint in CHECKPOINTS:
        groups[checkpoint.architecture] = (*groups.get(checkpoint.architecture, ()), checkpoint)
    return groups
