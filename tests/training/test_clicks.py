"""Prompts drawn from truths, and the loss of the masks they give, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from regard.models.sam import SAM, Masks
from regard.training import clicks
from regard.training.clicks import (
    DRAWS,
    ONE,
    THREE,
    ClickBatch,
    click_loss,
    decode_round,
    first_prompts,
    mask_loss,
    overlap,
    surest,
    with_correction,
)

SIDE, CELLS = 32, 16


def tiny() -> SAM:
    torch.manual_seed(0)
    return SAM(
        img_size=SIDE, patch_size=8, width=16, depth=1, num_heads=2, global_blocks=(0,), window=2, dim=16,
        decoder_heads=2, decoder_hidden=16,
    )  # fmt: skip


def truths_of(count: int, seed: int = 0) -> Tensor:
    """(count, CELLS, CELLS): rectangles with soft borders."""
    rng = np.random.default_rng(seed)
    truths = torch.zeros(count, CELLS, CELLS)
    for truth in truths:
        y, x, h, w = (*rng.integers(1, 8, 2), *rng.integers(3, 8, 2))
        truth[y : y + h, x : x + w] = 1
        truth[y, x : x + w] = 0.25
    return truths


def batch_of(images: int, objects: int, rounds: int, boxed: bool = False) -> ClickBatch:
    generator = torch.Generator().manual_seed(1)
    return ClickBatch(
        torch.randn(images, 3, SIDE, SIDE, generator=generator),
        truths_of(images * objects).unflatten(0, (images, objects)),
        torch.rand(images, objects, DRAWS + rounds - 1, generator=generator),
        np.arange(images),
        boxed,
    )


def plain_loss(logits: list[float], truths: list[float]) -> float:
    """20 focal + dice of one mask, pixel by pixel in double precision."""
    focal = both = predicted = true = 0.0
    for z, t in zip(logits, truths, strict=True):
        p = 1 / (1 + math.exp(-z))
        entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
        missed = t * (1 - p) + (1 - t) * p
        weight = t * clicks.FOCAL_ALPHA + (1 - t) * (1 - clicks.FOCAL_ALPHA)
        focal += weight * missed**2 * entropy / len(logits)
        both, predicted, true = both + p * t, predicted + p, true + t
    return 20 * focal + 1 - (2 * both + 1) / (predicted + true + 1)


def test_the_loss_of_a_mask_is_20_focal_and_dice() -> None:
    logits = 3 * torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truths = torch.rand(3, 1, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round(decimals=1)
    ours = mask_loss(logits, truths)
    for place in np.ndindex(3, 2):
        plain = plain_loss(logits[place].flatten().tolist(), truths[place[0], 0].flatten().tolist())
        assert ours[place].item() == pytest.approx(plain, rel=1e-9)


def test_only_the_best_of_three_masks_learns_from_the_truth() -> None:
    truths = truths_of(2)
    logits = torch.randn(2, 3, CELLS, CELLS, requires_grad=True)
    with torch.no_grad():
        logits[0, 1] = 6 * truths[0] - 3
        logits[1, 2] = 6 * truths[1] - 3
    found = Masks(logits, torch.zeros(2, 3, requires_grad=True))
    clicks._round_loss(found, truths).sum().backward()
    assert logits.grad is not None
    assert found.iou.grad is not None
    learned = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert learned.tolist() == [[False, True, False], [False, False, True]]
    reached = overlap(logits > 0, truths[:, None] > 0.5)
    assert torch.allclose(found.iou.grad, -2 * reached / 3)  # every estimate learns what its mask reached


def test_of_a_box_the_one_mask_learns_beside_the_best_of_three() -> None:
    truths = truths_of(1)
    logits = torch.randn(1, 4, CELLS, CELLS, requires_grad=True)
    with torch.no_grad():
        logits[0, 2] = 6 * truths[0] - 3
    clicks._round_loss(Masks(logits, torch.zeros(1, 4)), truths).sum().backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(dim=(2, 3)) > 0).tolist() == [[True, False, True, False]]


def test_one_round_trains_the_mask_that_answers_a_box() -> None:
    model = tiny()
    click_loss(model, batch_of(2, 2, 1, boxed=True)).backward()
    learned = model.get_parameter("mask_decoder.output_hypernetworks_mlps.0.layers.0.weight").grad
    assert learned is not None and learned.any()


def test_a_first_point_lies_in_the_mask_and_all_of_it_is_drawn() -> None:
    truth = truths_of(1, seed=3)
    draws = torch.zeros(1000, DRAWS)
    draws[:, 1] = (torch.arange(1000) + 0.5) / 1000
    prompts = first_prompts(truth.expand(1000, -1, -1), draws, SIDE, boxed=False)
    assert prompts.points is not None and prompts.labels is not None and prompts.boxes is None
    assert (prompts.labels == 1).all()
    cells = ((prompts.points[:, 0] + 0.5) / (SIDE / CELLS) - 0.5).round().long()
    hit = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    hit[cells[:, 1], cells[:, 0]] = True
    assert torch.equal(hit, truth[0] >= 0.5)


def test_a_mask_too_thin_for_its_squares_is_clicked_where_it_covers_most() -> None:
    truth = torch.zeros(1, CELLS, CELLS)
    truth[0, 4, 7], truth[0, 4, 8] = 0.3, 0.1
    prompts = first_prompts(truth, torch.full((1, DRAWS), 0.9), SIDE, boxed=False)
    assert prompts.points is not None
    assert prompts.points.tolist() == [[[14.5, 8.5]]]


def test_a_first_box_is_that_of_the_mask_with_bounded_noise() -> None:
    truths = truths_of(50)
    exact = first_prompts(truths, torch.full((50, DRAWS), 0.5), SIDE, boxed=True)
    noisy = first_prompts(truths, torch.rand(50, DRAWS, generator=torch.Generator().manual_seed(0)), SIDE, boxed=True)
    assert exact.boxes is not None and noisy.boxes is not None and exact.points is None
    for truth, box in zip(truths, exact.boxes, strict=True):
        y, x = torch.nonzero(truth >= 0.5, as_tuple=True)
        corners = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert box.tolist() == [2 * float(corner) for corner in corners]
    moved = (noisy.boxes - exact.boxes).abs()
    assert 0 < moved.max() <= 20 / 1024 * SIDE
    assert (moved > 0).any(dim=1).all()


@pytest.mark.parametrize("boxed", [False, True])
def test_a_correction_lies_where_the_mask_was_wrong(boxed: bool) -> None:
    truths = truths_of(30)
    draws = torch.rand(30, DRAWS + 1, generator=torch.Generator().manual_seed(0))
    logits = torch.roll(truths, 2, dims=2)[:, None] - 0.5
    logits[0] = torch.where(truths[0] >= 0.5, 1.0, -1.0)  # right everywhere: a point in the mask
    first = first_prompts(truths, draws, SIDE, boxed)
    second = with_correction(first, logits, truths, draws[:, DRAWS], SIDE)
    assert second.points is not None and second.labels is not None and second.masks is not None
    assert second.points.shape == (30, 1 if boxed else 2, 2)
    assert (second.boxes is None) != boxed
    assert torch.equal(second.masks, logits)
    for number in range(30):
        x, y = ((second.points[number, -1] + 0.5) / 2 - 0.5).long().tolist()
        inside = bool(truths[number, y, x] >= 0.5)
        assert int(second.labels[number, -1]) == int(inside)
        assert number == 0 or (bool(logits[number, 0, y, x] > 0) != inside)


def test_a_first_prompt_gives_three_masks_and_more_give_one() -> None:
    model = tiny().eval()
    image = model.embed(torch.randn(1, 3, SIDE, SIDE)).detach()
    truths = truths_of(2)
    prompts = first_prompts(truths, torch.full((2, DRAWS), 0.5), SIDE, boxed=False)
    images = image.expand(2, -1, -1, -1)
    with torch.no_grad():
        every = model.decode(image, prompts)
        three, one = (decode_round(model, images, prompts, which) for which in (THREE, ONE))
    assert torch.allclose(three.logits, every.logits[:, 1:], atol=1e-5)
    assert torch.allclose(one.logits, every.logits[:, :1], atol=1e-5)
    best = surest(three)
    for number in range(2):
        assert torch.equal(best[number, 0], three.logits[number, int(three.iou[number].argmax())])


@pytest.mark.parametrize(("rounds", "boxed"), [(1, False), (3, True)])
def test_the_parts_of_a_batch_add_up_to_it(rounds: int, boxed: bool) -> None:
    model, batch = tiny(), batch_of(4, 2, rounds, boxed)
    whole = click_loss(model, batch)
    parts = [click_loss(model, batch[np.array(places)]) for places in ((0, 3), (1,), (2,))]
    together = (2 * parts[0] + parts[1] + parts[2]) / 4
    assert whole.item() == pytest.approx(together.item(), rel=1e-5)


def test_every_part_of_the_model_learns() -> None:
    model = tiny()
    for boxed in (False, True):
        click_loss(model, batch_of(2, 2, 2, boxed)).backward()
    silent = {name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()}
    # What all keys have in common changes no softmax; of the three masks those that were never the best wait.
    silent = {name for name in silent if not name.endswith("k_proj.bias")}
    assert len({name.split(".")[2] for name in silent}) < 3
    assert all(name.startswith("mask_decoder.output_hypernetworks_mlps.") for name in silent)


def test_several_rounds_begin_with_what_one_round_says() -> None:
    model, batch = tiny().eval(), batch_of(2, 2, 1)
    one = click_loss(model, batch)
    images = model.embed(batch.images).repeat_interleave(2, dim=0)
    truths, draws = batch.truths.flatten(0, 1), batch.draws.flatten(0, 1)
    found = decode_round(model, images, first_prompts(truths, draws, SIDE, boxed=False), THREE)
    assert one.item() == pytest.approx(clicks._round_loss(found, truths).mean().item(), rel=1e-6)
