"""Row 18: decoded pixels are right: a golden set beside what was put in, or beside an independent decoder."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from figures import record
from PIL import Image, ImageCms
from torchvision.io import ImageReadMode, decode_jpeg

from regard.data.decoding import ImageError, decode
from regard.data.transforms import Preprocess
from regard.inference.loaded import LoadedModel

Golden = tuple[bytes, np.ndarray]


def scene(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth, every corner different: JPEG keeps it, a wrong turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (width + height)], axis=2).astype(np.uint8)


SCENE = scene()
GREY = SCENE[..., 2]
ALPHA = np.linspace(0, 255, SCENE.shape[0] * SCENE.shape[1]).round().astype(np.uint8).reshape(SCENE.shape[:2])
DEEP = np.linspace(0, 65535, SCENE.shape[0] * SCENE.shape[1]).astype(np.uint16).reshape(SCENE.shape[:2])


def three(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def saved(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def turned(orientation: int, kind: str) -> Golden:
    """A file that says how it is to be turned, and the scene turned so by hand (CIPA DC-008, tag 0x0112)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    right = {
        1: SCENE,
        2: SCENE[:, ::-1],
        3: SCENE[::-1, ::-1],
        4: SCENE[::-1],
        5: SCENE.swapaxes(0, 1),
        6: np.rot90(SCENE, -1),
        7: SCENE[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(SCENE, 1),
    }[orientation]
    if kind != "JPEG":
        return saved(SCENE, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})), right
    data = saved(SCENE, "JPEG", exif=exif, quality=95)
    return data, by_torchvision(data, turn=True)


def by_torchvision(data: bytes, turn: bool = False) -> np.ndarray:
    """The same JPEG through torchvision's own bindings of libjpeg."""
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(raw, ImageReadMode.RGB, apply_exif_orientation=turn).permute(1, 2, 0).numpy()


def jpeg(**options: object) -> Golden:
    data = saved(SCENE, "JPEG", **options)
    return data, by_torchvision(data)


def over_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return pixels * share + 255 * (1 - share)


def rgba() -> np.ndarray:
    return np.dstack([SCENE, ALPHA])


def png(colour: int, bits: int, rows: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG by hand, rows of bytes: what Pillow cannot write (PNG 1.2, sections 4 and 11)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", SCENE.shape[1], SCENE.shape[0], bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def few_bits(bits: int) -> Golden:
    """Grey of 1, 2 or 4 bits, packed by hand."""
    values = GREY >> (8 - bits)
    unpacked = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1)
    return png(0, bits, np.packbits(unpacked, axis=1)), three((values * (255 // (2**bits - 1))).astype(np.uint8))


def interlaced() -> Golden:
    """Adam7 (PNG 1.2, section 8.2): seven passes, each a small picture."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row for top, left, down, right in passes for row in SCENE[top::down, left::right]]
    data = bytearray(png(2, 8, np.array(rows, dtype=object)))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data), SCENE


def deep_rgb(alpha: bool = False) -> Golden:
    channels = [DEEP] * 3 + ([np.full_like(DEEP, 65535)] if alpha else [])
    return png(6 if alpha else 2, 16, np.dstack(channels).astype(">u2")), three(DEEP / 257)


def big_endian_tiff() -> Golden:
    tags = ((256, DEEP.shape[1]), (257, DEEP.shape[0]), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1))
    data = DEEP.astype(">u2").tobytes()
    tags += ((278, DEEP.shape[0]), (279, len(data)))
    directory = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">I", 8 + len(data))
    return head + data + struct.pack(">H", len(tags)) + directory + bytes(4), three(DEEP / 257)


def palette(**options: object) -> Image.Image:
    image = Image.fromarray((GREY // 64).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    return image


PALETTE = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [0, 0, 200]])[GREY // 64]
FIRST_CLEAR = np.where((GREY // 64 == 0)[..., None], 255, PALETTE)


def frames(kind: str, **options: object) -> Golden:
    """An animation whose first frame counts."""
    first, second = Image.fromarray(PALETTE.astype(np.uint8)), Image.fromarray(255 - SCENE)
    return saved(first, kind, save_all=True, append_images=[second], **options), PALETTE


def cmyk(**options: object) -> Golden:
    inks = np.dstack([255 - SCENE, np.zeros_like(GREY)])
    data = saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0, **options)
    return data, SCENE


def profiled(kind: str) -> Golden:
    """A colour profile is not applied: the numbers in the file are what a model sees in training and after."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return saved(SCENE, kind, icc_profile=profile), SCENE


def floats(scale: float) -> Golden:
    return saved((DEEP / 65535 * scale).astype(np.float32), "TIFF"), three(DEEP / 257)


# name -> (file and right pixels, levels that they may differ by at most)
GOLDEN: dict[str, tuple[Callable[[], Golden], float]] = {
    **{
        f"{kind}, orientation {number}": (lambda k=kind, n=number: turned(n, k), 1.0)
        for kind in ("JPEG", "PNG", "TIFF", "WEBP")
        for number in range(1, 9)
    },
    **{f"grey PNG of {bits} bits": (lambda b=bits: few_bits(b), 0) for bits in (1, 2, 4)},
    "grey PNG": (lambda: (saved(GREY, "PNG"), three(GREY)), 0),
    "grey PNG of 16 bits": (lambda: (saved(DEEP, "PNG"), three(DEEP / 257)), 1.01),
    "RGB PNG": (lambda: (saved(SCENE, "PNG"), SCENE), 0),
    "RGB PNG of 16 bits": (deep_rgb, 1.01),
    "RGBA PNG of 16 bits": (lambda: deep_rgb(alpha=True), 1.01),
    "interlaced PNG": (interlaced, 0),
    "RGBA PNG": (lambda: (saved(rgba(), "PNG"), over_white(SCENE, ALPHA)), 1.01),
    "LA PNG": (lambda: (saved(np.dstack([GREY, ALPHA]), "PNG"), over_white(three(GREY), ALPHA)), 1.01),
    "RGBA WebP": (lambda: (saved(rgba(), "WEBP", lossless=True, exact=True), over_white(SCENE, ALPHA)), 1.01),
    "RGBA TIFF": (lambda: (saved(rgba(), "TIFF"), over_white(SCENE, ALPHA)), 1.01),
    "palette PNG": (lambda: (saved(palette(), "PNG"), PALETTE), 0),
    "palette PNG with a clear colour": (lambda: (saved(palette(), "PNG", transparency=0), FIRST_CLEAR), 0),
    "palette PNG with alphas": (lambda: (saved(palette(), "PNG", transparency=b"\0\xff\xff"), FIRST_CLEAR), 0),
    "palette GIF": (lambda: (saved(palette(), "GIF"), PALETTE), 0),
    "palette GIF with a clear colour": (lambda: (saved(palette(), "GIF", transparency=0), FIRST_CLEAR), 0),
    "palette BMP": (lambda: (saved(palette(), "BMP"), PALETTE), 0),
    "RGB BMP": (lambda: (saved(SCENE, "BMP"), SCENE), 0),
    "grey BMP": (lambda: (saved(GREY, "BMP"), three(GREY)), 0),
    "TIFF, LZW": (lambda: (saved(SCENE, "TIFF", compression="tiff_lzw"), SCENE), 0),
    "TIFF, deflate": (lambda: (saved(SCENE, "TIFF", compression="tiff_adobe_deflate"), SCENE), 0),
    "TIFF, packbits": (lambda: (saved(SCENE, "TIFF", compression="packbits"), SCENE), 0),
    "grey TIFF of 16 bits": (lambda: (saved(DEEP, "TIFF"), three(DEEP / 257)), 1.01),
    "grey TIFF of 16 bits, big-endian": (big_endian_tiff, 1.01),
    "grey TIFF of 32 bits": (lambda: (saved(DEEP.astype(np.int32), "TIFF"), three(DEEP / 257)), 1.01),
    "float TIFF, 0 to 1": (lambda: floats(1), 1.01),
    "float TIFF, 0 to 255": (lambda: floats(255), 1.01),
    "float TIFF, 0 to 65535": (lambda: floats(65535), 1.01),
    "JPEG, 4:2:0": (lambda: jpeg(quality=85), 1),
    "JPEG, 4:4:4": (lambda: jpeg(quality=85, subsampling=0), 1),
    "JPEG, progressive": (lambda: jpeg(quality=85, progressive=True), 1),
    "JPEG, restart markers": (lambda: jpeg(quality=85, restart_marker_blocks=1), 1),
    "grey JPEG": (lambda: ((data := saved(GREY, "JPEG")), by_torchvision(data)), 1),
    "CMYK JPEG, Adobe": (cmyk, 3),
    "animated GIF": (lambda: frames("GIF"), 0),
    "animated WebP": (lambda: frames("WEBP", lossless=True), 0),
    "TIFF of two pages": (lambda: frames("TIFF"), 0),
    "PNG with a colour profile": (lambda: profiled("PNG"), 0),
    "lossless WebP": (lambda: (saved(SCENE, "WEBP", lossless=True), SCENE), 0),
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "AVIF": (lambda: b"\0\0\0\x20ftypavif" + bytes(64), "not-an-image"),
    "HEIC": (lambda: b"\0\0\0\x18ftypheic" + bytes(64), "not-an-image"),
    "float TIFF without a range": (lambda: saved(np.array([[-1.0, 1e9]], np.float32), "TIFF"), "unsupported"),
}


@pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
def test_the_golden_set(tmp_path: Path) -> None:
    path, wrong = tmp_path / "photo", []
    for kind, (make, allowed) in GOLDEN.items():
        data, right = make()
        path.write_bytes(data)
        pixels = decode(path)
        if pixels.shape != right.shape:
            wrong.append(f"{kind}: {pixels.shape} instead of {right.shape}")
        elif (worst := np.abs(pixels - right.astype(float)).max()) > allowed:
            wrong.append(f"{kind}: up to {worst:.1f} levels off")
    assert not wrong
    for kind, (build, code) in REFUSED.items():
        path.write_bytes(build())
        with pytest.raises(ImageError) as caught:
            decode(path)
        assert (caught.value.code, str(path) in str(caught.value)) == (code, True), kind
    count = len(GOLDEN) + len(REFUSED)
    record(
        18, "golden files beside an independent decoder", count, f"{len(GOLDEN)} right, {len(REFUSED)} refused by name"
    )


def test_training_and_prediction_see_the_same_pixels(tmp_path: Path) -> None:
    """A turned photo with transparency, through the one object that every verb uses."""
    seen: list[torch.Tensor] = []

    class Eye(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return self.head(images.mean(dim=(2, 3)))

    data, _ = turned(6, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    preprocess = Preprocess(16, 1.0, "squash")
    LoadedModel(Eye().eval(), preprocess, ("a", "b"), "eye", "none").predict(tmp_path / "a.png")
    trained_on = preprocess.normalise(preprocess.pixels(tmp_path / "a.png")[None])
    assert torch.equal(seen[-1], trained_on)


def test_images_are_opened_in_one_place() -> None:
    """`boxes.py` reads headers only, and asks the decoder where a header can turn the photo; `overlays.py` and
    `outputs.py` read what they drew themselves; `mask_sets.py` reads label maps, whose pixels are numbers."""
    source = Path(__file__).parents[2] / "src" / "regard"
    opening = [
        path.relative_to(source).as_posix() for path in source.rglob("*.py") if "Image.open(" in path.read_text()
    ]
    assert set(opening) == {
        "data/decoding.py",
        "data/boxes.py",
        "data/mask_sets.py",
        "reporting/overlays.py",
        "verbs/segmenting/outputs.py",
    }
