"""The one preprocessing object against Pillow + torchvision, and its dictionary against timm's."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from regard.data.decoding import decode
from regard.data.transforms import Preprocess
from regard.errors import RegardError

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "clothing"
MODES = {
    "bicubic": transforms.InterpolationMode.BICUBIC,
    "bilinear": transforms.InterpolationMode.BILINEAR,
}


def photo(height: int, width: int, grain: int = 9) -> Image.Image:
    """Smooth random structure of about `grain` pixels."""
    shape = (height // grain + 2, width // grain + 2, 3)
    coarse = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def reference(image: Image.Image, preprocess: Preprocess) -> torch.Tensor:
    side = preprocess.resized_side
    size = side if preprocess.resize == "short" else (side, side)
    return transforms.Compose(
        [
            transforms.Resize(size, MODES[preprocess.interpolation]),
            transforms.CenterCrop(preprocess.size),
            transforms.ToTensor(),
            transforms.Normalize(preprocess.mean, preprocess.std),
        ]
    )(image)


def grey_levels(left: torch.Tensor, right: torch.Tensor, preprocess: Preprocess) -> float:
    assert left.shape == right.shape and left.dtype == right.dtype == torch.float32
    return float(((left - right) * torch.tensor(preprocess.std).view(3, 1, 1)).abs().mean()) * 255


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", [(375, 500), (500, 375), (301, 301), (97, 410), (40, 31)])
def test_equals_torchvision(interpolation: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(224, 0.875, "short", interpolation)
    image = photo(*size)
    assert grey_levels(preprocess(image), reference(image, preprocess), preprocess) <= 0.05


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", [(375, 500), (500, 375), (97, 410)])
def test_squash_equals_torchvision(interpolation: str, size: tuple[int, int]) -> None:
    """Pillow resizes tall images down before across, torch always across first: the rounding differs."""
    preprocess = Preprocess(224, 0.875, "squash", interpolation)
    image = photo(*size)
    assert grey_levels(preprocess(image), reference(image, preprocess), preprocess) <= 0.2


@pytest.mark.parametrize("crop_pct", [0.8, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("size", [16, 65, 128])
def test_crop_is_timms(crop_pct: float, size: int) -> None:
    preprocess = Preprocess(size, crop_pct)
    image = photo(211, 333)
    result = preprocess(image)
    assert result.shape == (3, size, size) and result.is_contiguous()
    assert grey_levels(result, reference(image, preprocess), preprocess) <= 0.05


def test_equals_timms_transform() -> None:
    timm_data = pytest.importorskip("timm.data")
    preprocess = Preprocess(160, 0.9, "short", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    theirs = timm_data.create_transform(**{**preprocess.to_config(), "input_size": (3, 160, 160)})
    image = photo(300, 400)
    assert grey_levels(preprocess(image), theirs(image), preprocess) <= 0.05


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", [(1500, 2000), (1999, 1501), (1025, 1030)])
def test_scaled_decoding_is_close_and_not_shifted(interpolation: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(224, interpolation=interpolation)
    data = jpeg(photo(*size, grain=24))
    assert decode(data, preprocess.resized_side).shape[0] == -(-size[0] // 2)
    full = Image.open(io.BytesIO(data))
    assert grey_levels(preprocess(data), reference(full, preprocess), preprocess) <= 1.2


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="shared/data/clothing is not on this machine")
@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize(("size", "limit"), [(224, 0.05), (87, 1.2), (43, 1.2), (21, 1.2)])  # decoded at 1, 2, 4, 8
def test_real_photos(interpolation: str, size: int, limit: float) -> None:
    preprocess = Preprocess(size, interpolation=interpolation)
    differences = []
    for path in sorted(PHOTOS.rglob("*.jpg"))[::120]:
        image = Image.open(path).convert("RGB")
        differences.append(grey_levels(preprocess(path), reference(image, preprocess), preprocess))
    assert np.mean(differences) <= limit


def test_sources_are_equal(tmp_path: Path) -> None:
    image = photo(90, 120)
    path = tmp_path / "photo.png"
    image.save(path)
    preprocess = Preprocess(64)
    expected = preprocess.pixels(path)
    array = np.asarray(image)  # read-only: must neither warn nor be written to
    for source in (
        str(path),
        path.read_bytes(),
        image,
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ):
        assert torch.equal(preprocess.pixels(source), expected)


def test_the_right_size_is_left_alone() -> None:
    image = photo(32, 32)
    pixels = Preprocess(32, 1.0).pixels(image)
    assert torch.equal(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert pixels.dtype == torch.uint8


def test_normalise() -> None:
    preprocess = Preprocess(8)
    pixels = torch.randint(0, 256, (2, 5, 3, 8, 8), dtype=torch.uint8)
    kept = pixels.clone()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    torch.testing.assert_close(preprocess.normalise(pixels), (pixels / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert torch.equal(pixels, kept)


def test_hashable_and_equal() -> None:
    assert Preprocess(224, mean=[0.5, 0.5, 0.5]) == Preprocess(224, mean=(0.5, 0.5, 0.5))
    assert len({Preprocess(224), Preprocess(224), Preprocess(192)}) == 2


def test_config_round_trip() -> None:
    preprocess = Preprocess(240, 0.95, "squash", "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert Preprocess.from_config(preprocess.to_config()) == preprocess
    assert preprocess.to_config() == {
        "input_size": [3, 240, 240],
        "crop_pct": 0.95,
        "crop_mode": "squash",
        "interpolation": "bilinear",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
    }


def test_timms_own_config() -> None:
    timm = pytest.importorskip("timm")
    config = timm.get_pretrained_cfg("vit_small_patch16_224.augreg_in21k_ft_in1k").to_dict()
    assert Preprocess.from_config(config) == Preprocess(224, 0.9, "short", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 0},
        {"size": 8, "crop_pct": 0},
        {"size": 8, "crop_pct": 1.1},
        {"size": 8, "resize": "border"},
        {"size": 8, "interpolation": "lanczos"},
        {"size": 8, "std": (0.5, 0.0, 0.5)},
        {"size": 8, "mean": (0.5,)},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(RegardError, match="expected"):
        Preprocess(**arguments)


@pytest.mark.parametrize("config", [{"input_size": (1, 28, 28)}, {"input_size": (3, 8, 9)}, {"crop_mode": "border"}])
def test_bad_config(config: dict) -> None:
    with pytest.raises(RegardError, match="expected"):
        Preprocess.from_config(config)


@pytest.mark.parametrize("resize", ["short", "squash"])
@pytest.mark.parametrize(("height", "width"), [(90, 151), (151, 90), (40, 40)])
def test_what_is_seen_of_an_image_is_where_its_pixels_come_from(resize, height: int, width: int) -> None:
    preprocess = Preprocess(32, 0.8, resize, "bilinear")
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    ramps = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)  # each pixel says where it is
    left, top, right, bottom = preprocess.seen(height, width)
    seen = preprocess.pixels(ramps).numpy().astype(float)
    middles = (np.arange(32) + 0.5) / 32
    # The middle of pixel 7 is at 7.5.
    np.testing.assert_allclose(seen[0].mean(axis=1) + 0.5, top + middles * (bottom - top), atol=0.75)
    np.testing.assert_allclose(seen[1].mean(axis=0) + 0.5, left + middles * (right - left), atol=0.75)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
