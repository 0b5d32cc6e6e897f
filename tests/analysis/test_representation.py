"""Distances, neighbours and retrieval against loops, and the deck's two dogs and a boat."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.analysis.representation import representation
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.models.vit import ViT

PREPARED = Preprocess(16)


@pytest.fixture(scope="module")
def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(16, 4, 12, 2, 2, num_classes=5).eval()


def pixels(count: int) -> Tensor:
    return torch.randint(256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_equals_loops(vit: ViT) -> None:
    given, labels = pixels(7), [0, 0, 1, 1, 1, 2, 0]
    normal = PREPARED.normalise(given)
    found = representation(vit, [normal[:4], normal[4:]], labels=labels, neighbours=2, classes=("a", "b", "c"))
    with torch.no_grad():
        vectors = vit.features(normal).pooled.double().tolist()
    flat = given.flatten(1).tolist()
    pixel, model = np.zeros((7, 7)), np.zeros((7, 7))
    for i in range(7):
        for j in range(7):
            pixel[i, j] = math.sqrt(sum((a - b) ** 2 for a, b in zip(flat[i], flat[j], strict=True)) / len(flat[i]))
            dot = sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True))
            model[i, j] = 1 - dot / (math.hypot(*vectors[i]) * math.hypot(*vectors[j]))
    np.testing.assert_allclose(found.pixel, pixel, rtol=1e-6)
    np.testing.assert_allclose(found.embedding, model, atol=1e-6)
    for distances, own in ((pixel, found.pixel), (model, found.embedding)):
        right = 0
        for i in range(7):
            order = sorted((j for j in range(7) if j != i), key=lambda j: distances[i, j])[:2]
            assert found.nearest(own)[i].tolist() == order
            right += sum(labels[j] == labels[i] for j in order)
        assert found.precision(own) == pytest.approx(right / 14)
    assert found.chance == pytest.approx((3 * 2 + 3 * 2 + 1 * 0) / (7 * 6))


class Colour(nn.Module):
    """Sees the colour of the thing in the middle alone, whatever surrounds it."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 6:10, 6:10].mean((2, 3))


def test_pixels_may_find_a_dog_nearer_to_a_boat_than_to_a_dog() -> None:
    """Two dogs before different backgrounds, and a boat before the first one's."""
    given = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    given[1] = 255  # the second dog stands in snow
    dog, boat = torch.tensor([200, 120, 40], dtype=torch.uint8), torch.tensor([20, 40, 220], dtype=torch.uint8)
    for number, colour in enumerate((dog, dog, boat)):
        given[number, :, 6:10, 6:10] = colour[:, None, None]
    model = Colour()
    found = representation(model, [PREPARED.normalise(given)], embed=model, labels=[0, 0, 1], neighbours=1)
    assert found.pixel[0, 2] < found.pixel[0, 1]
    assert found.embedding[0, 1] < 1e-6 < found.embedding[0, 2]
    assert found.precision(found.pixel) == pytest.approx(1 / 3)  # the dog in snow finds the other one
    assert found.precision(found.embedding) == pytest.approx(2 / 3)  # the boat has no other boat


def test_the_table_has_every_pair_with_its_ranks(vit: ViT) -> None:
    found = representation(vit, [PREPARED.normalise(pixels(5))], ids=[f"{n}.png" for n in range(5)])
    header, rows = found.table()
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    assert len(rows) == 20
    of_first = sorted((row for row in rows if row["image"] == "0.png"), key=lambda row: row["pixel_rank"])
    assert [row["pixel_rank"] for row in of_first] == [1, 2, 3, 4]
    assert [int(str(row["other"])[0]) for row in of_first] == found.nearest(found.pixel)[0].tolist()
    assert found.neighbours == 4 and found.precision(found.pixel) is None and found.chance is None


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("lang", ["en", "fr", "ro"])
def test_draws(vit: ViT, labelled: bool, lang: str) -> None:
    labels = [0, 1, 0, 1] if labelled else None
    given = [PREPARED.normalise(pixels(4))]
    found = representation(vit, given, labels=labels, classes=("<b>$x$</b>", "b") if labelled else ())
    assert ("&lt;b&gt;$x$" in found.svg(lang)) == labelled  # pyright: ignore[reportArgumentType]


def test_refusals(vit: ViT) -> None:
    given = PREPARED.normalise(pixels(4))
    with pytest.raises(RegardError, match="2 images; it needs 3 or more"):
        representation(vit, [given[:2]])
    with pytest.raises(RegardError, match="3 labels for 4 images"):
        representation(vit, [given], labels=[0, 1, 2])
    with pytest.raises(RegardError, match="neighbours=0"):
        representation(vit, [given], neighbours=0)
    with pytest.raises(RegardError, match="no method features"):
        representation(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), [given])
