"""From a JPEG file to the model's float tensor, one thread, against Pillow + torchvision's transforms.

    .venv/bin/python benchmarks/decoding.py [--photos FOLDER] [--count 120] [--rounds 5]

Both sides read the file, decode, resize the shorter side to 256, cut out 224 x 224 and normalise, to
float32 of shape (3, 224, 224). The variants run in turn over the same files, round by round; the median
round counts. The small set is the photos as they are (about 400 x 533), the large one is copies upscaled
to 1500 x 2000. "difference" is to the peer of the same interpolation, mean absolute, in grey levels.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from regard.data.transforms import Interpolation, Preprocess

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
Variant = Callable[[Path], Tensor]


def ours(interpolation: Interpolation) -> Variant:
    return Preprocess(224, 0.875, "short", interpolation)


def peer(interpolation: transforms.InterpolationMode) -> Variant:
    steps = transforms.Compose(
        [
            transforms.Resize(256, interpolation),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(Preprocess(224).mean, Preprocess(224).std),
        ]
    )

    def load(path: Path) -> Tensor:
        with Image.open(path) as image:
            return cast(Tensor, steps(image.convert("RGB")))

    return load


VARIANTS: dict[str, Variant] = {
    "regard bilinear": ours("bilinear"),
    "regard bicubic": ours("bicubic"),
    "Pillow + torchvision bilinear": peer(transforms.InterpolationMode.BILINEAR),
    "Pillow + torchvision bicubic": peer(transforms.InterpolationMode.BICUBIC),
}


def measure(files: list[Path], rounds: int) -> dict[str, float]:
    """Images per second by variant: median over the rounds, after one round of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for round_number in range(rounds + 1):
        for name, variant in VARIANTS.items():
            start = time.perf_counter()
            for file in files:
                variant(file)
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: len(files) / statistics.median(values) for name, values in seconds.items()}


def difference(files: list[Path], interpolation: str) -> float:
    """Mean absolute difference to the peer of the same interpolation, in grey levels (0..255)."""
    std = torch.tensor(Preprocess(224).std).view(3, 1, 1)
    left, right = VARIANTS[f"regard {interpolation}"], VARIANTS[f"Pillow + torchvision {interpolation}"]
    return statistics.mean(float(((left(file) - right(file)) * std).abs().mean()) * 255 for file in files)


def upscale(files: list[Path], folder: Path) -> list[Path]:
    copies = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            size = (2000, 1500) if image.width > image.height else (1500, 2000)
            copies.append(folder / f"{number}.jpg")
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(copies[-1], quality=90)
    return copies


def table(title: str, files: list[Path], rounds: int) -> str:
    speed = measure(files, rounds)
    lines = [f"### {title} ({len(files)} files)", ""]
    lines += ["| variant | img/s | / peer bilinear | / peer bicubic | difference |", "|---|---|---|---|---|"]
    for name, value in speed.items():
        ratios = [value / speed[f"Pillow + torchvision {kind}"] for kind in ("bilinear", "bicubic")]
        apart = f"{difference(files[:40], name.split()[-1]):.3f}" if name.startswith("regard") else ""
        lines.append(f"| {name} | {value:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {apart} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = sorted(options.photos.rglob("*.jpg"))
    if not photos:
        print(f"{options.photos}: no photos; name a folder with --photos")
        return
    photos = photos[:: max(1, len(photos) // options.count)][: options.count]
    print(table("0.2 megapixels", photos, options.rounds))
    with tempfile.TemporaryDirectory() as folder:
        print(table("3 megapixels", upscale(photos[: max(1, options.count // 4)], Path(folder)), options.rounds))


if __name__ == "__main__":
    main()
