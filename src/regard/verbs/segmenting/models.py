"""The models that a call of `segment` needs, loaded; and what of them its bytes depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regard.errors import RegardError
from regard.masks import Mask
from regard.verbs.events import OnEvent

if TYPE_CHECKING:
    from torch import nn

    from regard.inference.image_text import ImageText
    from regard.segmentation.segmenter import Segmenter
    from regard.verbs.segmenting.explained import Explainer

Namer = Callable[[np.ndarray, Sequence[Mask]], tuple[Mask, ...]]
CLIP = "clip_vit_base_patch32"


@dataclass(frozen=True)
class Models:
    """namer: gives names to masks; known: those that it may give, in their order."""

    segmenter: Segmenter
    clip: ImageText | None = None
    explainer: Explainer | None = None
    namer: Namer | None = None
    known: tuple[str, ...] = ()
    namer_model: nn.Module | None = None

    def identity(self) -> dict[str, str | None]:
        """A hash of the weights of each."""
        from regard.inference.features import backbone_hash

        explained = None if self.explainer is None else self.explainer.loaded.model
        models = {"model": self.segmenter.model, "clip": None if self.clip is None else self.clip.model}
        models |= {"label_with": self.namer_model, "from_explanation": explained}
        return {f"{name}_sha256": model and backbone_hash(model) for name, model in models.items()}


def load_models(
    model: str | Path | Segmenter,
    weights: str | Path | None,
    precision: Literal["fp32", "bf16"],
    cache: str | Path | None,
    clip: str | Path | ImageText | None,
    needs_clip: bool,
    labels_from: Sequence[str],
    label_with: Any,
    from_explanation: Any,
    target: str,
    method: str,
    on_event: OnEvent,
) -> Models:
    """The models; what is downloaded, and what loading changed, is said. Raises RegardError."""
    from regard.verbs.segmenting.explained import Explainer
    from regard.verbs.segmenting.names import model_namer, names_of

    names = names_of(labels_from if isinstance(labels_from, str) else ",".join(labels_from)) if labels_from else ()
    segmenter = _segmenter(model, weights, precision, cache, on_event)
    image_text = _clip(clip or CLIP, on_event) if names or needs_clip else None
    explainer = None
    if from_explanation is not None:
        explainer = Explainer(from_explanation, target, method, on_event)
    if names and image_text is not None:
        from regard.segmentation.naming import UNKNOWN, TextScorer

        return Models(segmenter, image_text, explainer, TextScorer(image_text, names).name, (*names, UNKNOWN))
    if label_with is not None:
        from regard.segmentation.naming import UNKNOWN

        namer = model_namer(label_with, on_event)
        known = (*namer.names, UNKNOWN)
        return Models(segmenter, image_text, explainer, namer.name, known, namer.loaded.model)
    return Models(segmenter, image_text, explainer)


def _segmenter(
    model: str | Path | Segmenter,
    weights: str | Path | None,
    precision: Literal["fp32", "bf16"],
    cache: str | Path | None,
    on_event: OnEvent,
) -> Segmenter:
    from regard.segmentation.loading import load_segmenter
    from regard.segmentation.segmenter import Segmenter

    if isinstance(model, Segmenter):
        if weights is not None or cache is not None or precision not in ("fp32", model.precision):
            raise RegardError("model: a Segmenter has its weights, cache and precision; give them when you make it")
        return model
    found = load_segmenter(model, weights, precision=precision, cache=cache, announce=_sayer(on_event))
    _say(found.messages, on_event)
    return found


def _clip(clip: str | Path | ImageText, on_event: OnEvent) -> ImageText:
    from regard.inference.image_text import ImageText, load_clip

    if isinstance(clip, ImageText):
        return clip
    found = load_clip(clip, _sayer(on_event))
    _say(found.messages, on_event)
    return found


def _sayer(on_event: OnEvent) -> Callable[[str], None]:
    return lambda text: on_event({"event": "note", "text": text})


def _say(messages: Sequence[str], on_event: OnEvent) -> None:
    for message in messages:
        on_event({"event": "note", "text": message})
