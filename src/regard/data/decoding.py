"""One way from a file, array or tensor to upright HxWx3 uint8 pixels, the same in every verb.

JPEG goes through libjpeg-turbo (simplejpeg), everything else on the allow-list through Pillow. The rules:

- EXIF orientation (1-8) is applied;
- transparency (LA, RGBA, palette or colour key) is composited on white;
- 16 bits per channel are scaled to 8 by keeping the high byte, never clipped; float pixels are read as
  0..1, or as 0..255 or 0..65535 where they go beyond;
- CMYK and YCCK are converted by Pillow's plain formula; colour profiles are not applied;
- of animations the first frame counts;
- a file that can only be shown with a part missing is an error.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from regard.errors import RegardError

# Pillow warns above this and most readers go on; here the warning is the limit: 268 MB of RGB.
MAX_PIXELS = 89_478_485
MAX_BYTES = 2**30
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
ORIENTATION = 0x0112  # the EXIF tag

ImageSource = str | Path | bytes | Image.Image | np.ndarray | Tensor


class ImageError(RegardError):
    """An image that cannot be used; the message names it.

    `.code` is stable. Before the content is read: missing, dangling-link, directory, not-a-file,
    permission, unreadable. The content is something else: empty, html, lfs-pointer, not-an-image. An
    image, but: too-large, truncated, damaged, unsupported (of a kind that has no agreed 8-bit reading).
    """

    def __init__(self, message: str, code: str = "damaged"):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Opened:
    """An image whose header has been read and whose pixels have not.

    height, width: upright, full size, in pixels. pixels(reduce) decodes: HxWx3 uint8, where the sides of
    a JPEG shrink to ceil(side / reduce), reduce being 1, 2, 4 or 8, and other formats ignore it.
    """

    height: int
    width: int
    pixels: Callable[[int], np.ndarray]


def decode(source: ImageSource, shorter_side: int | None = None) -> np.ndarray:
    """Pixels of an image: HxWx3 uint8, C-contiguous, upright.

    shorter_side: the caller will shrink the shorter side to this many pixels, so a JPEG may be decoded at a
    half, a quarter or an eighth of its size (libjpeg-turbo's scaled inverse DCT), see `reduction`. Raises
    ImageError.
    """
    opened = open_image(source)
    reduce = 1 if shorter_side is None else reduction(min(opened.height, opened.width), shorter_side)
    return opened.pixels(reduce)


def open_image(source: ImageSource) -> Opened:
    """Read the header; the size is checked before anything is decoded. Raises ImageError."""
    if isinstance(source, np.ndarray):
        return _in_memory(_from_array(source))
    if isinstance(source, Tensor):
        return _in_memory(_from_tensor(source))
    if isinstance(source, Image.Image):
        return _open_pillow(source, getattr(source, "filename", "") or "image in memory")
    if isinstance(source, bytes):
        return _open_bytes(source, f"image of {len(source)} bytes")
    return _open_bytes(read_bytes(Path(source)), str(source))


def reduction(side: int, target: int) -> int:
    """By which power of two up to 8 a JPEG may be shrunk in decoding before `side` is resized to `target`.

    What is decoded keeps twice the target. On sharp photos the result then differs from a full decoding's by
    0.5 to 0.9 grey levels in the mean; with the target itself as the limit it would be up to 1.9.
    """
    return next((step for step in (8, 4, 2) if side >= 2 * step * target), 1)


def read_bytes(path: Path) -> bytes:
    """The content of an image file, or an ImageError that says what lies there instead."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: a folder, not an image file", "directory")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: not a regular file", "not-a-file")
        if status.st_size == 0:
            raise ImageError(f"{path}: empty file (0 bytes); copy it again or delete it", "empty")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"{path}: {status.st_size:,} bytes, the limit is {MAX_BYTES:,}", "too-large")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise ImageError(f"{path}: link to a file that is not there", "dangling-link") from None
        raise ImageError(f"{path}: no such file", "missing") from None
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it", "permission") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError(f"{path}: cannot be read ({error})", "unreadable") from None


def _open_bytes(data: bytes, name: str) -> Opened:
    if data[:3] == b"\xff\xd8\xff":
        return _open_jpeg(data, name)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(name, "more pixels") from None
    except UnidentifiedImageError:
        raise _not_an_image(data, name) from None
    except Exception as error:  # parsers of hostile files raise anything
        raise _broken(name, error) from None
    return _open_pillow(image, name)


def _not_an_image(data: bytes, name: str) -> ImageError:
    head = data[:512].lstrip().lower()
    if not data:
        return ImageError(f"{name}: empty, no image", "empty")
    if head.startswith(b"version https://git-lfs"):
        return ImageError(f"{name}: a Git LFS pointer, not the image; run `git lfs pull`", "lfs-pointer")
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return ImageError(f"{name}: a web page, not an image; download it again", "html")
    return ImageError(f"{name}: not an image of a known format ({', '.join(FORMATS)})", "not-an-image")


def _too_large(name: str, size: str) -> ImageError:
    return ImageError(f"{name}: {size}, the limit is {MAX_PIXELS:,} pixels; shrink it first", "too-large")


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large(name, f"{width} x {height} pixels")
    if height < 1 or width < 1:
        raise ImageError(f"{name}: {width} x {height} pixels", "damaged")


def _broken(name: str, error: BaseException) -> ImageError:
    text = " ".join(str(error).split())[:200]
    cut = ("truncated", "premature end", "unexpected end", "not enough", "could not read", "eof")
    if isinstance(error, EOFError) or any(word in text.lower() for word in cut):
        return ImageError(f"{name}: truncated, its end is missing ({text}); copy it again", "truncated")
    return ImageError(f"{name}: damaged ({text or type(error).__name__}); copy it again", "damaged")


# JPEG


def _open_jpeg(data: bytes, name: str) -> Opened:
    try:
        tall, wide, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise _broken(name, error) from None
    height, width = int(tall), int(wide)
    _check_size(height, width, name)
    if colours in ("CMYK", "YCCK"):  # libjpeg-turbo leaves the four inks to the caller
        return _open_pillow(_pillow_jpeg(data, name), name)
    orientation = _jpeg_orientation(data)

    def pixels(reduce: int) -> np.ndarray:
        if orientation > 1 and (height % reduce or width % reduce):
            reduce = 1  # the last, partial pixel would come to lie first and shift the others
        return upright(_decode_jpeg(data, name, -(-height // reduce), -(-width // reduce)), orientation)

    return Opened(*((width, height) if orientation >= 5 else (height, width)), pixels)


def _decode_jpeg(data: bytes, name: str, height: int, width: int) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError as error:
        # Two complaints of libjpeg that cost no pixel and that cameras provoke; Pillow finds a missing
        # end too.
        harmless = ("before marker 0xd9", "invalid sos parameters")
        if any(words in str(error).lower() for words in harmless):
            return _to_rgb(_pillow_jpeg(data, name), name)
        raise _broken(name, error) from None


def _pillow_jpeg(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG",))
    except Exception as error:  # as above
        raise _broken(name, error) from None


def _jpeg_orientation(data: bytes) -> int:
    """EXIF (or XMP) orientation; Pillow is asked only where the bytes mention one at all."""
    if b"Exif\0\0" not in data and b"tiff:Orientation" not in data:
        return 1
    try:
        return _orientation(Image.open(io.BytesIO(data), formats=("JPEG",)))
    except Exception:  # an unreadable header block does not make the picture unusable
        return 1


# everything else


def _open_pillow(image: Image.Image, name: str) -> Opened:
    width, height = image.size
    _check_size(height, width, name)
    orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFF by itself

    def pixels(reduce: int) -> np.ndarray:
        return upright(_to_rgb(image, name), orientation)

    return Opened(*((width, height) if orientation >= 5 else (height, width)), pixels)


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF is common and harmless
        return 1
    return value if 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """HxWx3 uint8 from any Pillow mode, not yet upright."""
    try:
        image.load()
        if image.mode == "RGB" and "transparency" not in image.info:
            return np.array(image)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return np.repeat(_to_eight_bits(np.asarray(image), name)[:, :, None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(paper, image)
        return np.array(image.convert("RGB"))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it", "too-large") from None
    except Exception as error:  # as in `_open_bytes`
        raise _broken(name, error) from None


def _to_eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """One channel of 16-bit, 32-bit or float values as uint8: scaled by the nominal range, never clipped."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return (values >> 8).astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also catches not-a-number
        raise ImageError(
            f"{name}: values from {low:g} to {high:g} have no agreed 8-bit reading; save it with 8 bits",
            "unsupported",
        )
    if values.dtype.kind != "f":
        return (values >> 8).astype(np.uint8)
    scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 255.0 / 65535.0
    return np.rint(values * scale).astype(np.uint8)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """HxWx3 pixels turned by an EXIF orientation (1-8; CIPA DC-008, tag 0x0112), C-contiguous."""
    if orientation in (2, 3):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4):
        pixels = pixels[::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
        if orientation in (6, 7):
            pixels = pixels[:, ::-1]
        if orientation in (7, 8):
            pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


# arrays and tensors


def _in_memory(pixels: np.ndarray) -> Opened:
    height, width = pixels.shape[:2]
    return Opened(height, width, lambda reduce: pixels)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 and 0 not in array.shape:
        if array.ndim in (2, 3):
            _check_size(array.shape[0], array.shape[1], "array")
        if array.ndim == 3 and array.shape[2] == 3:
            return np.ascontiguousarray(array)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
            return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    raise ImageError(
        f"array of shape {array.shape}, {array.dtype}: expected height x width x 3 or height x width, uint8",
        "unsupported",
    )


def _from_tensor(tensor: Tensor) -> np.ndarray:
    """(3, H, W) or (1, H, W), uint8 or float in 0..1."""
    tensor = tensor.detach().cpu()
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3) and 0 not in tensor.shape:
        _check_size(tensor.shape[1], tensor.shape[2], "tensor")
        if tensor.is_floating_point() and float(tensor.min()) >= 0 and float(tensor.max()) <= 1:
            return _from_array((tensor.float() * 255).round().byte().permute(1, 2, 0).numpy())
        if str(tensor.dtype) == "torch.uint8":
            return _from_array(tensor.permute(1, 2, 0).numpy())
    raise ImageError(
        f"tensor of shape {tuple(tensor.shape)}, {tensor.dtype}: expected (3, H, W), uint8 or float in 0..1",
        "unsupported",
    )
