"""What Segment Anything is trained for: prompts drawn from true masks, and the loss of the masks they give.

From the paper (arXiv 2304.02643, appendix A): a first prompt, a point in the mask or its box with noise; then points
from where the last mask was wrong, with that mask fed back. Loss of a mask: focal to dice as 20 to 1, beside it the
squared error of the estimated IoU. A first prompt leaves doubt, so of the three masks for one prompt only the one with
the smallest loss learns from the truth; later rounds train the mask for several prompts. A box leaves little doubt, and
is usually answered by that one mask, so it learns from boxes, too, as much as the best of the three; in the paper it
learns from later rounds only, and a training of one round would leave it as it was drawn.

Truths are what the model's output is: squares of pixels, with the share of each that the object covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.models.sam import BACKGROUND, FOREGROUND, MASKS, SAM, Masks, Prompts

FOCAL_TO_DICE = 20.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.75, 2.0  # the paper gives neither; objects cover few pixels, which have to count for more
BOX_NOISE, MOST_NOISE = 0.1, 20 / 1024  # standard deviation as a share of the box's side; most, of the image's
ONE, THREE, ALL = slice(0, 1), slice(1, None), slice(None)  # of the four masks: for several prompts, for one prompt
DRAWS = 6  # of a first prompt, and one more for each later round


@dataclass
class ClickBatch:
    """images: (B, 3, S, S), or their embeddings (B, C, h, w); truths: (B, K, 4h, 4w) in 0..1, K objects of each.

    draws: (B, K, DRAWS + rounds - 1) in 0..1, everything that is random in the prompts; rows: (B,) of the mask set.
    boxed: the first prompt is a box. Objects whose truth covers nothing do not count.
    """

    images: Tensor
    truths: Tensor
    draws: Tensor
    rows: np.ndarray
    boxed: bool

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: np.ndarray) -> ClickBatch:
        index = torch.from_numpy(places)
        return ClickBatch(self.images[index], self.truths[index], self.draws[index], self.rows[places], self.boxed)


def click_loss(model: nn.Module, batch: ClickBatch) -> Tensor:
    """Mean over the batch's objects and over its rounds; the model is a SAM."""
    assert isinstance(model, SAM)
    device = model.prompt_encoder.no_mask_embed.weight.device
    truths, draws = batch.truths.to(device).flatten(0, 1), batch.draws.to(device).flatten(0, 1)  # (P, ...)
    images = model.embed(batch.images.to(device)).repeat_interleave(batch.truths.shape[1], dim=0)
    prompts = first_prompts(truths, draws, model.img_size, batch.boxed)
    total = truths.new_zeros(len(truths))
    rounds = draws.shape[1] - DRAWS + 1
    for number in range(rounds):
        found = decode_round(model, images, prompts, ONE if number else ALL if batch.boxed else THREE)
        total = total + _round_loss(found, truths)
        if number + 1 < rounds:
            logits = surest(found)
            prompts = with_correction(prompts, logits, truths, draws[:, DRAWS + number], model.img_size)
    return total.mean() / rounds


def decode_round(model: SAM, images: Tensor, prompts: Prompts, which: slice) -> Masks:
    """The masks `which` of the four: (P, k, 4h, 4w). images: (P, C, h, w)."""
    read = model.read(images, prompts)
    return Masks(model.draw(read, which), read.iou[:, which])


def surest(found: Masks) -> Tensor:
    """(P, 1, 4h, 4w) logits of the masks with the highest estimated IoU, without gradient."""
    best = found.iou.detach().argmax(dim=1)
    return found.logits.detach()[torch.arange(len(best), device=best.device), best][:, None]


def _round_loss(found: Masks, truths: Tensor) -> Tensor:
    """(P,) loss of the one mask, the smallest of the three, or their mean, and the squared error of all estimates."""
    logits = found.logits.float()
    losses = mask_loss(logits, truths[:, None])  # (P, k)
    reached = overlap(logits.detach() > 0, truths[:, None] > 0.5)  # (P, k)
    learning = (losses[:, ONE], losses[:, THREE]) if losses.shape[1] == MASKS else (losses,)
    least = torch.stack([some.min(dim=1).values for some in learning]).mean(dim=0)
    return least + (found.iou.float() - reached).square().mean(dim=1)


def mask_loss(logits: Tensor, truths: Tensor) -> Tensor:
    """(..., h, w) logits and shares in 0..1 -> (...): 20 focal + dice.

    Focal loss (arXiv 1708.02002, equation 5), a mean over pixels; dice (arXiv 1606.04797) with 1 added above and below.
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, truths.expand_as(logits), reduction="none")
    missed = p + truths - 2 * p * truths  # 1 - p where the truth is 1, p where it is 0
    weight = FOCAL_ALPHA * truths + (1 - FOCAL_ALPHA) * (1 - truths)
    focal = (weight * missed**FOCAL_GAMMA * entropy).mean(dim=(-2, -1))
    both = (p * truths).sum(dim=(-2, -1))
    dice = 1 - (2 * both + 1) / (p.sum(dim=(-2, -1)) + truths.sum(dim=(-2, -1)) + 1)
    return FOCAL_TO_DICE * focal + dice


def overlap(masks: Tensor, others: Tensor) -> Tensor:
    """(..., h, w) bool twice -> (...): intersection over union, 0 where both are empty."""
    both = (masks & others).sum(dim=(-2, -1))
    either = (masks | others).sum(dim=(-2, -1))
    return both / either.clamp(min=1)


# prompts


def first_prompts(truths: Tensor, draws: Tensor, side: int, boxed: bool) -> Prompts:
    """A point in each mask (P, 4h, 4w), or its box with noise; places in pixels of the model's input."""
    if boxed:
        return Prompts(boxes=_noisy(_boxes(truths) * (side / truths.shape[-1]), draws[:, 2:6], side))
    return Prompts(points=_picked(_inside(truths), draws[:, 1], side), labels=_label(truths, FOREGROUND))


def with_correction(prompts: Prompts, logits: Tensor, truths: Tensor, draw: Tensor, side: int) -> Prompts:
    """The prompts with logits (P, 1, 4h, 4w) fed back, and a point from where their mask is wrong, or from the mask."""
    inside = _inside(truths)
    wrong = (logits[:, 0] > 0) != inside
    wrong = torch.where(wrong.any(dim=(-2, -1), keepdim=True), wrong, inside)
    points = _picked(wrong, draw, side)
    cells = (points[:, 0] * (truths.shape[-1] / side)).long()
    on = inside[torch.arange(len(inside), device=inside.device), cells[:, 1], cells[:, 0]]
    labels = torch.where(on, FOREGROUND, BACKGROUND)[:, None]
    if prompts.points is not None and prompts.labels is not None:
        points, labels = torch.cat([prompts.points, points], dim=1), torch.cat([prompts.labels, labels], dim=1)
    return Prompts(points, labels, prompts.boxes, logits)


def _inside(truths: Tensor) -> Tensor:
    """(P, h, w) bool: covered to a half or more; at least what is covered most."""
    return truths >= truths.amax(dim=(-2, -1), keepdim=True).clamp(max=0.5, min=1e-6)


def _picked(where: Tensor, draw: Tensor, side: int) -> Tensor:
    """(P, 1, 2) x, y: the middle of one of the places (P, h, w) that are true, by a draw (P,) in 0..1."""
    flat = where.flatten(1)
    counts = flat.sum(dim=1)
    wanted = (draw.double() * counts).long().clamp(max=(counts - 1).clamp(min=0)) + 1
    place = (flat.cumsum(dim=1) >= wanted[:, None]).int().argmax(dim=1)
    width = where.shape[-1]
    scale = side / width
    x, y = (place % width + 0.5) * scale - 0.5, (place // width + 0.5) * scale - 0.5
    return torch.stack([x, y], dim=-1)[:, None].float()


def _label(truths: Tensor, label: int) -> Tensor:
    return torch.full((len(truths), 1), label, device=truths.device)


def _boxes(truths: Tensor) -> Tensor:
    """(P, 4) x0, y0, x1, y1 around masks (P, h, w), x1 and y1 just outside, in places of the mask."""
    inside = _inside(truths)
    columns, rows = inside.any(dim=1), inside.any(dim=2)  # (P, w), (P, h)
    first = [one.int().argmax(dim=1) for one in (columns, rows)]
    last = [one.shape[1] - one.flip(1).int().argmax(dim=1) for one in (columns, rows)]
    return torch.stack([*first, *last], dim=1).float()


def _noisy(boxes: Tensor, draws: Tensor, side: int) -> Tensor:
    """Boxes (P, 4) whose corners are moved by normal noise, from draws (P, 4) in 0..1."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    most = MOST_NOISE * side
    noise = torch.special.ndtri(draws.clamp(1e-6, 1 - 1e-6)) * BOX_NOISE * sides
    return (boxes + noise.clamp(-most, most)).clamp(0, side)
