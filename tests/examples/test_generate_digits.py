from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from regard.models.pixel_gpt import PixelGPT

EXAMPLE = Path(__file__).parents[2] / "examples" / "generate_digits.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_digits", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_digits"] = module
    spec.loader.exec_module(module)
    return module


def test_a_short_training_beats_independent_pixels(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bits = example.main(tmp_path / "digits.png", steps=50, batch_size=32, lr=4e-3)
    assert bits.model + 3 * bits.error < bits.independent < bits.uniform
    assert bits.uniform == pytest.approx(4.0875, abs=1e-4)
    assert f"independent pixels  {bits.independent:.3f}" in capsys.readouterr().out
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.format == "PNG" and picture.size == (422, 422)
        assert len(np.unique(np.asarray(picture))) > 10


@pytest.mark.parametrize("told", [False, True])
def test_independent_pixels_are_counted_by_hand(example: ModuleType, told: bool) -> None:
    train, _, test = (part[:200] for part in example.split_digits(told))
    total = 0.0
    for label in set(test.labels.tolist()):
        for place in range(64):
            levels = train.pixels[train.labels == label, place].tolist()
            for level in test.pixels[test.labels == label, place].tolist():
                total -= np.log2((levels.count(level) + 1) / (len(levels) + 17))
    assert example.independent_bits(train, test) == pytest.approx(total / test.pixels.numel(), rel=1e-5)


def test_no_digit_is_in_two_parts_and_classes_are_told_only_where_asked(example: ModuleType) -> None:
    parts = example.split_digits(told=True)
    assert [len(part) for part in parts] == [1200, 200, 397]
    found = [{pixels.numpy().tobytes() for pixels in part.pixels} for part in parts]
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    assert parts[0].pixels.min() == 0 and parts[0].pixels.max() == 16
    assert set(parts[0].labels.tolist()) == set(range(10))
    assert set(example.split_digits(told=False)[0].labels.tolist()) == {-1}


def test_a_model_that_prefers_no_level_costs_what_uniform_levels_cost(example: ModuleType) -> None:
    torch.manual_seed(0)
    _, _, test = example.split_digits(told=False)
    model = PixelGPT(embed_dim=32, depth=1, num_heads=2).eval()
    torch.nn.init.zeros_(model.head.weight)
    assert example.bits_of_images(model, test).mean().item() == pytest.approx(np.log2(17), rel=1e-5)


def test_kept_keys_and_values_draw_the_digits_that_are_drawn_without(example: ModuleType) -> None:
    torch.manual_seed(0)
    model = PixelGPT(embed_dim=64, depth=4, num_heads=4, num_classes=10).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    labels = torch.arange(10)
    kept, again = (
        model.generate(10, labels, 0.9, torch.Generator().manual_seed(5), keep=keep) for keep in (True, False)
    )
    assert torch.equal(kept, again) and len(kept.unique()) == 17


def test_the_picture_shows_each_digit_in_its_place(example: ModuleType) -> None:
    pixels = torch.zeros(100, 64, dtype=torch.long)
    pixels[23] = 16
    picture = np.asarray(example.draw_picture(pixels))
    assert (picture[2 + 2 * 42 : 42 + 2 * 42, 2 + 3 * 42 : 42 + 3 * 42] == 0).all()
    assert (picture[2:42, 2:42] == 255).all() and picture[0, 0] == 200
