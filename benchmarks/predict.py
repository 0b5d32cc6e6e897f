"""From JPEG files to top-1: `regard predict` beside Hugging Face's pipeline and a timm DataLoader loop.

    python benchmarks/predict.py [--photos FOLDER] [--images 256] [--rounds 3] [--models vit_small_patch16_224,...]

Random weights, 1,000 classes (time does not depend on the values; what int8 costs in accuracy does, and is not
measured here: `regard predict --max-drop` measures it on validation photos). The ways take turns within a round, over
the same files; the figures are medians over the rounds, after one round of a few images that pays for set-up:

- HF, file by file: `pipeline("image-classification")` called with each path
- HF, list: the same called once with all paths and a batch size
- timm loop: timm's transform (PIL), `DataLoader` with a worker per core, float32, as in timm's inference script
- timm loop bf16: the same with the weights in bfloat16
- regard torch fp32, regard torch bf16, regard openvino bf16, regard openvino int8: what `regard predict` runs with
  each backend; making the OpenVINO models is not in the time and is printed below the table

Hugging Face's processor squashes to 224x224, timm and regard resize the shorter side and cut. Prints tables in
Markdown. Losses are shown as they are.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from regard.data.photos import PhotoList, find_photos
from regard.inference.backends import Maker, Rehearsal
from regard.inference.backends.openvino_backend import available, can_quantise
from regard.inference.loaded import LoadedModel, fresh_model
from regard.verbs.answers import Answerer

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"
CLASSES = tuple(f"class {number}" for number in range(1000))
CALIBRATED = 32
FEW = 8  # images of the round that does not count
MODELS = ("vit_small_patch16_224", "vit_base_patch16_224", "resnet50")

Way = Callable[[list[str]], list[int]]  # paths -> top-1


def write_photos(folder: Path, count: int) -> None:
    """Synthetic JPEG files: coarse colours under fine noise, about 100 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((500, 375))
        pixels = np.asarray(coarse, np.int16) + rng.normal(0, 18, (375, 500, 3)).astype(np.int16)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)


def hugging_face(name: str) -> Any:
    """The pipeline of the same architecture."""
    import transformers as hf

    if name == "resnet50":
        config = hf.ResNetConfig(num_labels=len(CLASSES))
        model, processor = hf.ResNetForImageClassification(config), hf.ConvNextImageProcessor()
    else:
        width = {"vit_small_patch16_224": 384, "vit_base_patch16_224": 768}[name]
        config = hf.ViTConfig(
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            num_labels=len(CLASSES),
        )
        model, processor = hf.ViTForImageClassification(config), hf.ViTImageProcessor()
    return hf.pipeline("image-classification", model=model.eval(), image_processor=processor, device="cpu")


class Files(Dataset[torch.Tensor]):
    """Photos as timm's inference script reads them."""

    def __init__(self, paths: list[str], transform: Any):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[place]).convert("RGB"))


def timm_loop(name: str, precision: torch.dtype, batch: int) -> Way:
    model = timm.create_model(name, num_classes=len(CLASSES)).eval().to(precision)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)

    def run(paths: list[str]) -> list[int]:
        found: list[int] = []
        with torch.inference_mode():
            for images in DataLoader(Files(paths, transform), batch, num_workers=os.cpu_count() or 1):
                found += model(images.to(precision)).argmax(1).tolist()
        return found

    return run


def ours(loaded: LoadedModel, name: str, batch: int, photos: PhotoList) -> Way:
    maker = Maker(loaded, batch, torch.get_num_threads())

    def calibration():
        return (loaded.preprocess.pixels(photos.path(place)) for place in range(min(CALIBRATED, len(photos))))

    rehearsal = Rehearsal(calibration, photos.digest, lambda first, second: (0.0, 0), "top1")
    answerer = Answerer(loaded, maker.make(name, rehearsal), None, 1, batch)
    number_of = {name: number for number, name in enumerate(CLASSES)}

    def run(paths: list[str]) -> list[int]:
        return [number_of.get(photo.label or "", -1) for photo in answerer.photos(photos, 0, len(paths))]

    return run


def ways(name: str, photos: PhotoList, batch: int) -> tuple[dict[str, Way], dict[str, float]]:
    """The ways by name, and the seconds that it took to make ours."""
    pipe = hugging_face(name)
    label = pipe.model.config.label2id
    found: dict[str, Way] = {
        "HF, file by file": lambda paths: [label[pipe(path, top_k=1)[0]["label"]] for path in paths],
        "HF, list": lambda paths: [label[one[0]["label"]] for one in pipe(paths, top_k=1, batch_size=batch)],
        "timm loop": timm_loop(name, torch.float32, batch),
        "timm loop bf16": timm_loop(name, torch.bfloat16, batch),
    }
    loaded = fresh_model(name, CLASSES)
    loaded.model.eval()
    backends = ["torch fp32", "torch bf16"]
    backends += ["openvino bf16"] if available() else []
    backends += ["openvino int8"] if can_quantise() else []
    made = {}
    for backend in backends:
        start = time.perf_counter()
        found[f"regard {backend}"] = ours(loaded, backend, batch, photos)
        made[backend] = time.perf_counter() - start
    return found, made


def measure(name: str, photos: PhotoList, rounds: int, batch: int) -> None:
    """Print the table of one model."""
    paths = [photos.path(place) for place in range(len(photos))]
    found, made = ways(name, photos, batch)
    seconds: dict[str, list[float]] = {way: [] for way in found}
    for number in range(rounds + 1):
        chosen = paths if number else paths[:FEW]
        for way, run in found.items():
            start = time.perf_counter()
            answers = run(chosen)
            taken = time.perf_counter() - start
            assert len(answers) == len(chosen), way
            if number:
                seconds[way].append(taken)
    speed = {way: len(paths) / statistics.median(values) for way, values in seconds.items()}
    print(f"\n### {name}, {len(paths)} files, {rounds} rounds, batches of {batch}\n")
    print("| way | img/s | / HF, file by file | / HF, list | / timm loop |")
    print("|---|---|---|---|---|")
    for way, value in speed.items():
        ratios = [f"{value / speed[peer]:.2f}" for peer in ("HF, file by file", "HF, list", "timm loop")]
        print(f"| {way} | {value:.1f} | {' | '.join(ratios)} |")
    print("\nmade in: " + ", ".join(f"{backend} {taken:.1f} s" for backend, taken in made.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads of {os.cpu_count()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = options.photos
        if not folder.is_dir():
            folder = Path(name)
            write_photos(folder, options.images)
        files = sorted(folder.rglob("*.jpg"))
        chosen = files[:: max(1, len(files) // options.images)][: options.images]
        photos = find_photos(chosen)
        for model in options.models.split(","):
            measure(model, photos, options.rounds, options.batch)


if __name__ == "__main__":
    main()
