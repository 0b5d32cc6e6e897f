"""Augmentation: drawn from the given generator only, with the published statistics."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from regard.data import augment as module
from regard.data.augment import OPERATIONS, Augment, crop_box, erase_box, rand_augment, shift
from regard.data.transforms import Preprocess
from regard.errors import RegardError

FILL = [124.0, 116.0, 104.0]


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


EVERY = [
    Augment(),
    Augment("pad"),
    Augment("centre"),
    Augment(randaugment=(2, 9), erase=0.5),
    Augment("pad", padding=2, randaugment=(3, 5), erase=1.0),
]


@pytest.mark.parametrize("augment", EVERY)
def test_a_function_of_the_generator(augment: Augment) -> None:
    preprocess = Preprocess(32)

    def view(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        pixels = augment(picture(), preprocess, rng)
        assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8 and pixels.is_contiguous()
        return augment.finish(preprocess.normalise(pixels), rng)

    torch.manual_seed(0)
    first = [view(seed) for seed in range(12)]
    torch.manual_seed(1)
    np.random.seed(1)
    second = [view(seed) for seed in range(12)]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert any(not torch.equal(first[0], other) for other in first[1:])


@pytest.mark.parametrize("augment", EVERY)
def test_json_round_trip(augment: Augment) -> None:
    assert Augment.from_config(json.loads(json.dumps(augment.to_config()))) == augment
    assert hash(augment) == hash(Augment.from_config(augment.to_config()))


def test_unknown_key() -> None:
    with pytest.raises(RegardError, match="blur"):
        Augment.from_config({"crop": "pad", "blur": 1})


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop": "five"},
        {"scale": (0, 1)},
        {"scale": (0.5, 0.2)},
        {"ratio": (0, 1)},
        {"padding": -1},
        {"flip": 1.1},
        {"erase": -0.1},
        {"randaugment": (2, 11)},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(RegardError, match="expected"):
        Augment(**arguments)


# crops


def test_crop_statistics_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    ours = np.array([crop_box(300, 400, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(4000)], dtype=float)
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)],
        dtype=float,
    )
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 6
    assert np.abs(ours.std(axis=0) - theirs.std(axis=0)).max() < 5
    top, left, height, width = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 300).all() and (left + width <= 400).all()


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1), (1, 50), (3, 2)])
def test_crop_of_extreme_shapes(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, box_height, box_width = crop_box(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        assert box_height >= 1 and box_width >= 1
        assert top + box_height <= height and left + box_width <= width
    assert Augment()(np.zeros((height, width, 3), np.uint8), Preprocess(16), rng).shape == (3, 16, 16)


def test_the_whole_image_as_crop() -> None:
    """With scale and ratio pinned, the crop is the plain resize: nothing is shifted."""
    whole = Augment(scale=(1, 1), ratio=(1, 1), flip=0)
    square = picture(50, 50)
    expected = Preprocess(32, 1.0, "squash").pixels(square)
    assert torch.equal(whole(square, Preprocess(32), np.random.default_rng(0)), expected)


def test_crops_of_a_scaled_jpeg_show_the_same() -> None:
    y, x = np.mgrid[0:801, 0:1203]
    smooth = np.stack([255 * x / 1203, 255 * y / 801, x * 0], axis=2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=95)
    for seed in range(10):
        scaled = Augment()(stream.getvalue(), Preprocess(32), np.random.default_rng(seed))
        full = Augment()(smooth, Preprocess(32), np.random.default_rng(seed))
        assert float((scaled.float() - full.float()).abs().mean()) < 1.5


def test_flip_rate() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 255
    for rate in (0.0, 0.5, 1.0):
        augment, rng = Augment("centre", flip=rate), np.random.default_rng(0)
        flipped = [int(augment(image, Preprocess(8, 1.0), rng)[0, 0, 0]) == 0 for _ in range(400)]
        assert np.mean(flipped) == pytest.approx(rate, abs=0.08)


def test_shift_is_a_crop_of_the_padded_image() -> None:
    pixels = picture(9, 7).transpose(2, 0, 1)
    padded = np.pad(pixels, ((0, 0), (10, 10), (10, 10)))
    for down in range(-10, 11):
        for right in range(-10, 11):
            expected = padded[:, 10 - down : 19 - down, 10 - right : 17 - right]
            assert (shift(pixels, down, right) == expected).all()


def test_pad_reaches_every_offset_equally() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    image[4, 4] = 255
    rng = np.random.default_rng(0)
    counts = np.zeros((9, 9))
    for _ in range(2500):
        counts += Augment("pad", padding=2, flip=0)(image, Preprocess(9, 1.0), rng)[0].numpy() / 255
    assert (counts[2:7, 2:7] > 50).all() and counts[2:7, 2:7].sum() == 2500


def test_kept_pixels_give_the_same_view() -> None:
    preprocess, augment = Preprocess(32), Augment("pad", randaugment=(2, 9))
    kept = preprocess.pixels(picture()).numpy()
    before = kept.copy()
    for seed in range(10):
        one = augment(picture(), preprocess, np.random.default_rng(seed))
        assert torch.equal(one, augment.of_pixels(kept, preprocess, np.random.default_rng(seed)))
    assert (kept == before).all()


# random erasing


def test_erasing_statistics() -> None:
    rng = np.random.default_rng(0)
    areas, values = [], []
    for _ in range(600):
        image = torch.full((3, 64, 64), 9.0)
        erase_box(image, rng)
        hole = image != 9.0
        rows, columns = hole[0].any(dim=1).sum(), hole[0].any(dim=0).sum()
        assert hole[0].sum() == rows * columns and torch.equal(hole[0], hole[2])
        areas.append(float(hole[0].float().mean()))
        values.append(image[hole])
    noise = torch.cat(values)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01) and float(noise.std()) == pytest.approx(1, abs=0.01)
    assert min(areas) > 0.01 and max(areas) < 0.35
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.03)


def test_erasing_rate() -> None:
    rng = np.random.default_rng(0)
    changed = [bool(Augment(erase=0.25).finish(torch.zeros(3, 32, 32), rng).any()) for _ in range(800)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.05)


# RandAugment


def test_fifteen_operations_each_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 15
    seen: list[tuple[int, float, float]] = []

    def spy(number: int):
        return lambda image, strength, sign, fill: (seen.append((number, strength, sign)), image)[1]

    monkeypatch.setattr(module, "OPERATIONS", tuple(spy(number) for number in range(15)))
    rng = np.random.default_rng(0)
    for _ in range(6000):
        rand_augment(torch.zeros(3, 2, 2, dtype=torch.uint8), 2, 9, FILL, rng)
    numbers, strengths, signs = np.array(seen).T
    assert len(seen) == pytest.approx(6000, rel=0.05)  # two operations, each with probability one half
    assert np.bincount(numbers.astype(int), minlength=15) == pytest.approx(np.full(15, 400), rel=0.2)
    assert np.median(strengths) == pytest.approx(0.9, abs=0.005)
    assert strengths.max() == 1.0 and np.mean(strengths == 1.0) == pytest.approx(0.0228, abs=0.01)  # clipped at 10
    assert signs.mean() == pytest.approx(0, abs=0.05) and set(signs) == {-1.0, 1.0}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_operations_keep_shape_and_type(operation, strength: float, sign: float) -> None:
    image = torch.from_numpy(picture(17, 17)).permute(2, 0, 1).contiguous()
    kept = image.clone()
    result = operation(image, strength, sign, FILL)
    assert result.shape == image.shape and result.dtype == torch.uint8
    assert torch.equal(image, kept)


def ramp() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16).contiguous()


def test_operations_by_value() -> None:
    values = torch.arange(256)

    def of(name: str, strength: float, sign: float = 1.0) -> torch.Tensor:
        return getattr(module, name)(ramp(), strength, sign, FILL)[0].flatten().long()

    assert torch.equal(of("_invert", 0.9), 255 - values)
    assert torch.equal(of("_posterize", 0.9), values & 0b10000000)  # 4 - int(3.6) = 1 bit is kept
    assert torch.equal(of("_posterize", 0.0), values & 0b11110000)
    assert torch.equal(of("_solarize", 0.9), torch.where(values >= 26, 255 - values, values))  # 256 - int(230.4)
    assert torch.equal(of("_solarize", 0.0), values)
    assert torch.equal(of("_solarize_add", 0.9), torch.where(values < 128, values + 99, values))
    assert (of("_brightness", 0.9) - (values * 1.81).clamp(max=255)).abs().max() <= 1
    assert (of("_brightness", 1.0, -1.0) - values * 0.1).abs().max() <= 1
    assert torch.equal(of("_auto_contrast", 0.9), values)
    grey = torch.full((3, 9, 9), 77, dtype=torch.uint8)
    for name in ("_colour", "_contrast", "_sharpness"):
        assert (getattr(module, name)(grey, 0.9, 1.0, FILL).long() - 77).abs().max() <= 1


def test_geometry_by_value() -> None:
    image = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    moved = module._translate_x(image, 1.0, 1.0, [1.0, 2.0, 3.0])  # 0.45 of 40 pixels
    assert (moved[:, :, 19:] == 200).all()
    assert (moved[:, :, :17] == torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1)).all()
    down = module._translate_y(image, 1.0, -1.0, FILL)
    assert (down[:, :21] == 200).all() and (down[0, 23:] == 124).all()
    sheared = module._shear_x(image, 1.0, 1.0, FILL)[0] == 200  # 0.3 pixels per row
    edges = sheared.float().sum(dim=1)
    assert abs(float(edges[0] - edges[-1])) == pytest.approx(0.3 * 39, abs=1.5)
    turned = module._rotate(image, 1.0, 1.0, FILL)
    assert (turned[:, 18:22, 18:22] == 200).all() and (turned[0, 0, 0], turned[0, -1, -1]) == (124, 124)
