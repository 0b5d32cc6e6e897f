"""What texts add to `Segmenter.predict`: they find masks, or decide between those of other prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.inference.image_text import ImageText
from regard.masks import Mask, RunLengths
from regard.models.sam import Masks, Prompts
from regard.segmentation.frame import Frame
from regard.segmentation.naming import TextScorer, crop_vectors

if TYPE_CHECKING:
    from regard.segmentation.segmenter import Embedded, Segmenter
    from regard.segmentation.text_prompts import TextRanker


def masks_of_text(
    segmenter: Segmenter, ranker: TextRanker, pixels: np.ndarray, embedded: Embedded, text: str, count: int
) -> Masks:
    """Of the whole image, up to `count` masks that fit a text, best first: logits (1, k, 4h, 4w), estimates (1, k)."""
    _check(text)
    fitting = ranker(segmenter, pixels, text).fitting[:count]
    if not fitting:
        return Masks(torch.zeros(1, 0, *segmenter.model.mask_sides), torch.zeros(1, 0))
    logits = torch.stack([_of_its_click(segmenter, embedded, mask) for mask in fitting])
    return Masks(logits[None], torch.tensor([[mask.predicted_iou for mask in fitting]]))


def decided_by_text(clip: ImageText, frame: Frame, pixels: np.ndarray, masks: Masks, text: str, count: int) -> Masks:
    """Of each prompt's masks (P, k) the `count` that fit a text best, best first."""
    _check(text)
    drawn = frame.masks(masks.logits).cpu().numpy()
    several = [Mask(1, RunLengths.of(mask), 0.0) for mask in drawn.reshape(-1, *drawn.shape[2:])]
    shares = TextScorer(clip, [text]).probabilities(crop_vectors(clip, pixels, several))[:, 0]
    order = torch.from_numpy(np.argsort(-shares.reshape(drawn.shape[:2]), axis=1, kind="stable")[:, :count].copy())
    order = order.to(masks.iou.device)
    rows = torch.arange(len(order), device=order.device)[:, None]
    return Masks(masks.logits[rows, order], masks.iou[rows, order])


def _of_its_click(segmenter: Segmenter, embedded: Embedded, mask: Mask) -> Tensor:
    """(4h, 4w) logits of a mask that everything mode found: of the three of its click, those that are nearest to it."""
    click = Prompts(torch.tensor([mask.points], dtype=torch.float64), torch.ones(1, len(mask.points), dtype=torch.long))
    logits = segmenter.choose(segmenter.decode(embedded, click), True).logits[0]  # (3, 4h, 4w)
    drawn = embedded.frame.masks(logits).cpu().numpy()
    runs = mask.runs.decode()
    overlaps = (drawn & runs).sum(axis=(1, 2)) / (drawn | runs).sum(axis=(1, 2))
    return logits[int(overlaps.argmax())]


def _check(text: str) -> None:
    if not isinstance(text, str):
        raise RegardError(f"text: expected words, as in 'a dog', got {text!r}")
