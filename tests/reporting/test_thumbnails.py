from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from synthetic import photo

from regard.reporting.thumbnails import LADDER, encode_thumbnail, make_thumbnails


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_no_metadata_survives(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "SECRETCAMERA"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    source = tmp_path / "gps.jpg"
    Image.fromarray(photo("a")).save(source, exif=exif, comment=b"SECRETCOMMENT", icc_profile=b"SECRETPROFILE")
    with Image.open(source) as image:
        thumbs = make_thumbnails(["a"], lambda _: np.asarray(image.convert("RGB")))
    raw = base64.b64decode(thumbs.data["a"])
    assert b"SECRET" not in raw
    assert not any(chunk in raw for chunk in (b"EXIF", b"Exif", b"XMP ", b"ICCP"))
    assert not opened(thumbs.data["a"]).getexif()


def test_longer_side_and_shape():
    image = opened(make_thumbnails(["a"], photo).data["a"])
    assert image.size == (96, 72)
    wide = Image.open(io.BytesIO(encode_thumbnail(np.zeros((3, 900, 3), np.uint8), 96, 70)))
    assert wide.size == (96, 1)


def test_tiny_images_are_kept_pixel_for_pixel():
    digit = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = opened(make_thumbnails(["a"], lambda _: digit).data["a"])
    assert np.array_equal(np.asarray(image.convert("RGB")), digit)


def test_budget_chooses_the_size_and_the_first_photos_stay():
    ids = [f"{i}" for i in range(60)]
    rich, poor = make_thumbnails(ids, photo), make_thumbnails(ids, photo, budget=40_000)
    assert rich.side == LADDER[0][0]
    assert poor.side < rich.side
    assert poor.size <= 40_000
    assert all(poor.data.values())
    starved = make_thumbnails(ids, photo, budget=3_000)
    assert 0 < starved.size <= 3_000
    assert starved.data["0"]
    assert not starved.data["59"]


def test_unreadable_photos_are_blank():
    assert make_thumbnails(["a", "b"], lambda id_: photo(id_) if id_ == "a" else None).data["b"] == ""
