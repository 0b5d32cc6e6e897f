"""Every kind of file becomes the same upright RGB, or an ImageError with its code."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from regard.data import decoding
from regard.data.decoding import ImageError, decode, open_image, reduction, upright
from regard.errors import RegardError

PHOTOS = Path(__file__).parents[2].parent / "shared" / "data" / "clothing"


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth, every corner different: JPEG keeps it, a wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=2).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def apart(left: np.ndarray, right: np.ndarray) -> float:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


# formats and modes


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 2),
        ("JPEG", {"quality": 95, "progressive": True}, 2),
        ("GIF", {}, 12),  # 256 colours
    ],
)
def test_formats(tmp_path: Path, kind: str, options: dict, tolerance: float) -> None:
    path = tmp_path / "photo.jpg"  # the name says nothing, the content counts
    path.write_bytes(encode(Image.fromarray(scene()), kind, **options))
    pixels = decode(path)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert apart(pixels, scene()) <= tolerance


@pytest.mark.parametrize("quality", [30, 90])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_equals_pillow(mode: str, quality: int) -> None:
    data = encode(Image.fromarray(scene(93, 121)).convert(mode), "JPEG", quality=quality)
    reference = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert apart(decode(data), reference) <= 0.05


def test_grey_and_one_bit() -> None:
    grey = Image.fromarray(scene()[:, :, 0])
    for kind in ("PNG", "TIFF", "BMP"):
        assert apart(decode(encode(grey, kind)), np.repeat(scene()[:, :, :1], 3, axis=2)) == 0
    black_and_white = decode(encode(grey.convert("1", dither=Image.Dither.NONE), "PNG"))
    assert set(np.unique(black_and_white)) == {0, 255}
    assert apart(black_and_white, np.repeat((scene()[:, :, :1] >= 128) * 255, 3, axis=2).astype(np.uint8)) < 3


def test_cmyk_is_not_inverted() -> None:
    data = encode(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    assert apart(decode(data), scene()) < 3


def test_ycck() -> None:
    """YCCK by hand: Pillow writes CMYK only; the Adobe marker's last byte says how to read it."""
    data = bytearray(encode(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95))
    place = data.index(b"Adobe") + 11
    data[place] = 2
    pixels = decode(bytes(data))
    reference = np.array(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    assert pixels.shape == scene().shape and apart(pixels, reference) == 0


def test_palette() -> None:
    image = Image.fromarray(scene()).quantize(64)
    assert apart(decode(encode(image, "PNG")), np.array(image.convert("RGB"))) == 0


def test_transparency_lies_on_white() -> None:
    clear_red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half_black = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    half_grey = Image.new("LA", (8, 8), (0, 128))
    for kind in ("PNG", "TIFF"):
        assert (decode(encode(clear_red, kind)) == 255).all()
        assert (decode(encode(half_black, kind)) == 127).all()
    assert (decode(encode(half_grey, "PNG")) == 127).all()
    assert (decode(encode(clear_red, "WEBP", lossless=True, exact=True)) == 255).all()


def test_transparent_palette_and_colour_key() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    assert (decode(encode(palette, "PNG", transparency=1)) == 255).all()
    assert (decode(encode(palette, "PNG", transparency=bytes([255, 0]))) == 255).all()
    assert (decode(encode(palette, "PNG", transparency=0)) == (200, 0, 0)).all()
    assert (decode(encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255).all()
    assert (decode(encode(palette, "GIF", transparency=1)) == 255).all()


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (decode(data) == (255, 0, 0)).all()


# sixteen bits: scaled, not clipped

RAMP = np.linspace(0, 65535, 256 * 64).astype(np.uint16).reshape(64, 256)


def big_endian_tiff(values: np.ndarray) -> bytes:
    """The smallest big-endian grey TIFF (Pillow writes only the machine's order): I;16B."""
    height, width = values.shape
    data = values.astype(">u2").tobytes()
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (277, 3, 1),
        (278, 3, height),
    ]
    entries = [(tag, kind, 1, value << 16) for tag, kind, value in tags]
    entries += [(273, 4, 1, 8), (279, 4, 1, len(data))]
    directory = b"".join(
        tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value.to_bytes(4, "big")
        for tag, kind, count, value in sorted(entries)
    )
    head = b"MM\0*" + (8 + len(data)).to_bytes(4, "big")
    return head + data + len(entries).to_bytes(2, "big") + directory + bytes(4)


def png_rgb16(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG by hand: Pillow cannot write one."""
    height, width = values.shape
    rows = np.repeat(values[:, :, None], 3, axis=2).astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


SIXTEEN = {
    "grey PNG": lambda: encode(Image.fromarray(RAMP), "PNG"),
    "RGB PNG": lambda: png_rgb16(RAMP),
    "grey TIFF": lambda: encode(Image.fromarray(RAMP), "TIFF"),
    "big-endian TIFF": lambda: big_endian_tiff(RAMP),
    "32-bit TIFF": lambda: encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "float TIFF 0..1": lambda: encode(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
    "float TIFF 0..65535": lambda: encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float TIFF 0..255": lambda: encode(Image.fromarray((RAMP / 257).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_sixteen_bit_ramp(kind: str) -> None:
    pixels = decode(SIXTEEN[kind]())
    assert pixels.shape == (64, 256, 3)
    assert pixels.mean() == pytest.approx(127.5, abs=0.3)  # clipping would give 254
    assert np.abs(pixels[:, :, 0].astype(float) - RAMP / 257).max() <= 1.01
    assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_pillow_modes_of_sixteen_bits() -> None:
    for mode, values in (("I;16", RAMP), ("I", RAMP.astype(np.int32))):
        image = Image.fromarray(values)
        assert image.mode == mode
        assert decode(image).mean() == pytest.approx(127.5, abs=0.3)
    assert Image.open(io.BytesIO(big_endian_tiff(RAMP))).mode == "I;16B"


@pytest.mark.parametrize("values", [[-1.0, 0.5], [np.nan, 0.5], [0.0, 1e6]])
def test_float_without_a_range(values: list[float]) -> None:
    with pytest.raises(ImageError, match="8-bit") as caught:
        decode(encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    assert caught.value.code == "unsupported"


# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "CMYK"])
def test_orientation(kind: str, orientation: int) -> None:
    image = Image.fromarray(scene())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image.convert("CMYK") if kind == "CMYK" else image
    data = encode(image, "JPEG" if kind == "CMYK" else kind, exif=exif, quality=95)
    pixels = decode(data)
    reference = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert apart(pixels, np.array(reference)) <= 0.05
    opened = open_image(data)
    assert (opened.height, opened.width) == pixels.shape[:2]
    assert pixels.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))
    assert apart(decode(Image.open(io.BytesIO(data))), pixels) <= 0.05


def test_orientation_in_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert decode(encode(Image.fromarray(scene()), "JPEG", xmp=xmp)).shape == (60, 40, 3)


def test_broken_exif_does_not_lose_the_picture() -> None:
    data = encode(Image.fromarray(scene()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnonsense")
    assert decode(data).shape == (40, 60, 3)


def test_upright_keeps_unknown_values() -> None:
    assert (upright(scene(), 1) == scene()).all()


# scaled decoding


def test_reduction_keeps_twice_the_target() -> None:
    for side in range(1, 2000, 7):
        for target in (16, 64, 224, 256):
            step = reduction(side, target)
            assert step == 1 or side / step >= 2 * target
            assert step == 8 or side / (2 * step) < 2 * target


@pytest.mark.parametrize(("size", "step"), [((63, 95), 1), ((65, 95), 2), ((130, 129), 4), ((260, 301), 8)])
def test_scaled_decoding(size: tuple[int, int], step: int) -> None:
    data = encode(Image.fromarray(scene(*size)), "JPEG", quality=90)
    pixels = decode(data, shorter_side=16)
    assert pixels.shape[:2] == tuple(-(-side // step) for side in size)
    assert decode(data).shape[:2] == size
    assert decode(encode(Image.fromarray(scene(*size)), "PNG"), shorter_side=16).shape[:2] == size


def test_turned_images_are_scaled_only_where_no_pixel_is_partial() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for width, expected in ((300, 150), (301, 301)):
        data = encode(Image.fromarray(scene(200, width)), "JPEG", exif=exif)
        assert decode(data, shorter_side=50).shape[1] == expected


# memory


def test_arrays_and_tensors() -> None:
    pixels = scene()
    assert (decode(pixels) == pixels).all()
    assert (decode(pixels[:, :, 0]) == pixels[:, :, :1]).all()
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    assert (decode(chw) == pixels).all()
    assert (decode(chw.float() / 255) == pixels).all()
    assert (decode(Image.fromarray(pixels)) == pixels).all()
    bad = [
        pixels.astype(np.float32),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        chw.float(),
        chw[None],
    ]
    for source in bad:
        with pytest.raises(ImageError, match="expected") as caught:
            decode(source)
        assert caught.value.code == "unsupported"


# what is no image, or no longer one


def truncated(kind: str, share: float) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    return data[: int(len(data) * share)]


def png_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


CONTENT = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "html"),
    "indented html": (b"\n  <html lang='en'>", "html"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "lfs-pointer"),
    "text": (b"not an image at all", "not-an-image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not-an-image"),
    "svg": (b"<?xml version='1.0'?><svg/>", "not-an-image"),
    "jpeg cut": (truncated("JPEG", 0.6), "truncated"),
    "jpeg end cut": (truncated("JPEG", 1)[:-2000], "truncated"),
    "jpeg header cut": (truncated("JPEG", 1)[:30], None),
    "png cut": (truncated("PNG", 0.6), "truncated"),
    "bmp cut": (truncated("BMP", 0.6), "truncated"),
    "tiff cut": (truncated("TIFF", 0.6), None),
    "gif cut": (truncated("GIF", 0.6), "truncated"),
    "webp cut": (truncated("WEBP", 0.6), None),
    "png bomb": (png_header(60_000, 60_000), "too-large"),
    "png warning": (png_header(13_000, 13_000), "too-large"),
    "jpeg bomb": (jpeg_header(65_000, 65_000), "too-large"),
    "jpeg warning": (jpeg_header(13_000, 13_000), "too-large"),
}


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # elsewhere it is an error, here none
def test_bad_content(tmp_path: Path, kind: str) -> None:
    data, code = CONTENT[kind]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        decode(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, RegardError)
    assert caught.value.code == code or (code is None and caught.value.code in ("truncated", "damaged", "not-an-image"))


def test_every_cut_of_a_jpeg_is_noticed() -> None:
    data = truncated("JPEG", 1)
    for end in range(1, len(data) - 2, 97):
        with pytest.raises(ImageError):
            decode(data[:end])


def test_damage_inside_a_jpeg_is_noticed() -> None:
    data = truncated("JPEG", 1)
    middle = len(data) // 2
    with pytest.raises(ImageError) as caught:
        decode(data[:middle] + b"\xff\xd9" * 40 + data[middle + 80 :])
    assert caught.value.code in ("damaged", "truncated")


def test_bytes_after_the_end_are_harmless() -> None:
    data = encode(Image.fromarray(scene()), "JPEG", quality=95)
    assert (decode(data + b"trailer of a phone" * 9) == decode(data)).all()
    padded = data[:-2] + b"\0\0\0" + data[-2:]  # libjpeg: extraneous bytes before marker 0xd9
    assert apart(decode(padded), decode(data)) <= 0.05


def test_what_lies_at_the_path(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    expected = {
        tmp_path: "directory",
        tmp_path / "gone.jpg": "missing",
        tmp_path / "dangling.jpg": "dangling-link",
        tmp_path / "pipe": "not-a-file",
        tmp_path / "zero\0byte": "unreadable",
    }
    for path, code in expected.items():
        with pytest.raises(ImageError) as caught:
            decode(path)
        assert caught.value.code == code


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(Image.new("RGB", (2, 2)), "PNG"))

    def refuse(self: Path) -> bytes:  # root reads everything, so the refusal is played
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ImageError, match="permission") as caught:
        decode(path)
    assert caught.value.code == "permission"


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encode(Image.new("RGB", (20, 20)), "PNG"))
    monkeypatch.setattr(decoding, "MAX_BYTES", 10)
    with pytest.raises(ImageError) as caught:
        decode(path)
    assert caught.value.code == "too-large"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="shared/data/clothing is not on this machine")
def test_real_photos_equal_pillow() -> None:
    photos = sorted(PHOTOS.rglob("*.jpg"))[::200]
    assert photos
    for path in photos:
        reference = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert apart(decode(path), np.array(reference)) <= 0.05
