"""HOG equals a plain loop over pixels, cells and blocks, and sees what it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard.errors import RegardError
from regard.models.hog import Hog, votes


def by_loops(image: np.ndarray) -> np.ndarray:
    """(3, S, S) -> features (blocks * 36,)."""
    _, height, width = image.shape
    cells = np.zeros((height // 8, width // 8, 9))
    for y in range(height):
        for x in range(width):
            steps = []
            for channel in image:
                across = channel[y, min(x + 1, width - 1)] - channel[y, max(x - 1, 0)]
                down = channel[min(y + 1, height - 1), x] - channel[max(y - 1, 0), x]
                steps.append((across**2 + down**2, across, down))
            size, across, down = max(steps, key=lambda step: step[0])
            place = (math.atan2(down, across) % math.pi) * 9 / math.pi - 0.5
            lower = math.floor(place)
            cells[y // 8, x // 8, lower % 9] += (1 - (place - lower)) * math.sqrt(size)
            cells[y // 8, x // 8, (lower + 1) % 9] += (place - lower) * math.sqrt(size)
    cells /= 64
    blocks = []
    for row in range(height // 8 - 1):
        for column in range(width // 8 - 1):
            block = cells[row : row + 2, column : column + 2].transpose(2, 0, 1).ravel()
            block = np.minimum(block / max(np.linalg.norm(block), 1e-3), 0.2)
            blocks.append(block / max(np.linalg.norm(block), 1e-3))
    return np.concatenate(blocks)


def test_equal_to_plain_loops() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = Hog(3, 32).features(images)
    assert found.tokens.shape == (2, 9, 36) and found.grid == (3, 3)
    for image, pooled in zip(images, found.pooled, strict=True):
        assert pooled.numpy() == pytest.approx(by_loops(image.double().numpy()), abs=1e-5)


@pytest.mark.parametrize("turn", [0.1, 0.7, 1.5, 2.2, 3.0])
def test_a_ramp_votes_for_its_own_orientation(turn: float) -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = (x * math.cos(turn) + y * math.sin(turn)).expand(1, 3, 16, 16)
    inside = votes(ramp)[0, :, 1:-1, 1:-1]
    assert inside.sum(dim=0) == pytest.approx(np.full((14, 14), 2.0), abs=1e-4)
    assert int(inside.mean(dim=(1, 2)).argmax()) == int(turn / math.pi * 9)


def test_brightness_and_contrast_do_not_count() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 20
    body = Hog(2, 32)
    assert torch.allclose(body.features(image).pooled, body.features(3 * image + 7).pooled, atol=1e-5)
    flat = body(torch.zeros(1, 3, 32, 32))
    assert flat.shape == (1, 2) and flat.isfinite().all()


def test_a_size_of_broken_cells_is_refused() -> None:
    with pytest.raises(RegardError, match="multiple of 8"):
        Hog(2, 60)
