"""MixUp, CutMix, smoothing: the targets say exactly what the images contain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regard.data.mixing import Mixing, cut_and_paste
from regard.errors import RegardError


def batch(count: int = 8, classes: int = 5, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is filled with the value i."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 3, side, side).contiguous()
    return images, F.one_hot(torch.arange(count) % classes, classes).float()


def test_nothing_on_passes_through() -> None:
    images, _ = batch()
    labels = torch.arange(8)
    for mixing in (Mixing(), Mixing(mixup=0.8, probability=0)):
        assert not mixing.active
        same, targets = mixing(images, labels, np.random.default_rng(0))
        assert same is images and targets is labels


def test_smoothing() -> None:
    images, targets = batch()
    same, soft = Mixing(smoothing=0.1)(images, targets, np.random.default_rng(0))
    assert torch.equal(same, images)
    torch.testing.assert_close(soft.max(dim=1).values, torch.full((8,), 0.9 + 0.1 / 5))
    torch.testing.assert_close(soft.min(dim=1).values, torch.full((8,), 0.1 / 5))
    loss = F.cross_entropy(images[:, 0, 0, :5], targets.argmax(1), label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(images[:, 0, 0, :5], soft), loss)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("count", [8, 7, 1])
def test_targets_match_images(mixup: float, cutmix: float, smoothing: float, count: int) -> None:
    images, targets = batch(count, classes=10)
    kept_images, kept_targets = images.clone(), targets.clone()
    for seed in range(20):
        mixed, soft = Mixing(mixup, cutmix, smoothing=smoothing)(images, targets, np.random.default_rng(seed))
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(count))
        # image i is filled with its class number: its mean is the expected class of the unsmoothed target
        expected = ((soft - smoothing / 10) / (1 - smoothing)) @ torch.arange(10.0)
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(images, kept_images) and torch.equal(targets, kept_targets)


def test_mixup_share_is_beta() -> None:
    images, targets = batch()
    rng = np.random.default_rng(0)
    shares = [float(Mixing(mixup=0.8)(images, targets, rng)[1][0, 0]) for _ in range(2000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(0.25 / 2.6, rel=0.1)  # of Beta(0.8, 0.8)


def test_cutmix_box() -> None:
    images, _ = batch(side=20)
    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, 30):
        mixed, kept = cut_and_paste(images, share, rng)
        pasted = mixed[0] == 7
        assert kept == pytest.approx(1 - float(pasted.float().mean()), abs=1e-6)
        assert kept >= share - 1e-9  # the box is clipped and rounded down, never larger
        rows, columns = pasted[0].any(dim=1), pasted[0].any(dim=0)
        assert pasted[0].sum() == rows.sum() * columns.sum()  # one rectangle


def test_both_on_is_a_fair_coin() -> None:
    images, targets = batch()
    rng = np.random.default_rng(0)
    both = Mixing(mixup=1.0, cutmix=1.0)
    cut = [bool((both(images, targets, rng)[0] % 1 == 0).all()) for _ in range(600)]  # cutting keeps whole values
    assert np.mean(cut) == pytest.approx(0.5, abs=0.07)


def test_probability() -> None:
    images, targets = batch()
    rng = np.random.default_rng(0)
    mixing = Mixing(mixup=1.0, probability=0.3)
    mixed = [not torch.equal(mixing(images, targets, rng)[0], images) for _ in range(600)]
    assert np.mean(mixed) == pytest.approx(0.3, abs=0.06)


def test_same_generator_same_batch() -> None:
    images, targets = batch()
    first, second = (Mixing(0.8, 1.0)(images, targets, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    "arguments",
    [{"mixup": -1}, {"cutmix": -0.1}, {"probability": 1.5}, {"smoothing": 1.0}, {"smoothing": -0.1}],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(RegardError, match="expected"):
        Mixing(**arguments)


def test_several_labels_are_mixed_by_the_share_of_the_image() -> None:
    """A label of both images stays; of one, it has that image's share; unknown stays unknown in both."""
    images, _ = batch(2)
    targets = torch.tensor([[1.0, 1.0, 0.0, np.nan], [1.0, 0.0, 0.0, 1.0]])
    for seed in range(20):
        for mixing in (Mixing(mixup=0.8, several=True), Mixing(cutmix=1.0, several=True)):
            mixed, soft = mixing(images, targets, np.random.default_rng(seed))
            share = 1 - mixed[0].mean()  # image 0 is dark, image 1 is 1
            expected = torch.tensor([[1.0, share, 0.0, np.nan], [1.0, 1 - share, 0.0, np.nan]])
            torch.testing.assert_close(soft, expected, equal_nan=True)


def test_several_labels_are_smoothed_towards_a_half() -> None:
    images, _ = batch(1)
    _, soft = Mixing(smoothing=0.1, several=True)(images, torch.tensor([[1.0, 0.0, 0.0]]), np.random.default_rng(0))
    torch.testing.assert_close(soft, torch.tensor([[0.95, 0.05, 0.05]]))
