"""Published dialects of weight names, a file per family; the first whose marks fit is taken."""

from __future__ import annotations

from regard.weights.dialects import clip, convolutional, deit, dinov2, hybrid, resnet, sam, swin, t2t, transformer, vit
from regard.weights.dialects.naming import Dialect as Dialect
from regard.weights.dialects.naming import Misfit as Misfit
from regard.weights.dialects.naming import State as State

# timm's names are marked by very little, so families that share some of them come before `vit`.
DIALECTS: tuple[Dialect, ...] = (
    *clip.DIALECTS,
    *deit.DIALECTS,
    *dinov2.DIALECTS,
    *hybrid.DIALECTS,
    *convolutional.DIALECTS,
    *resnet.DIALECTS,
    *sam.DIALECTS,
    *swin.DIALECTS,
    *t2t.DIALECTS,
    *transformer.DIALECTS,
    *vit.DIALECTS,
)
