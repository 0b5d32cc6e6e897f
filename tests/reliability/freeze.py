"""Freezes a tiny checkpoint of the installed release: `python tests/reliability/freeze.py` writes releases/VERSION.

finished/     a run folder, without its state to resume from
interrupted/  the same run, stopped by SIGTERM after three steps
answers.json  logits of the first images by the finished run

Run once per release, and commit what it wrote; nothing here is ever written again. `test_25_releases.py` loads every
folder with the code of the day.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import regard
from regard.data.sources import ImageSet, open_images
from regard.data.splits import split_images
from regard.inference.loaded import LoadedModel, fresh_model
from regard.models.registry import ModelSpec, list_models, register_model
from regard.models.vit import ViT
from regard.runs.run import Run
from regard.training.recipe import Recipe
from regard.training.run import train_run

RELEASES = Path(__file__).parent / "releases"
MODEL = "vit_frozen"
IMAGES, ANSWERED = 60, 8
RECIPE = Recipe(
    method="scratch", steps=6, batch_size=8, ema=0.9, evaluations=2, crop="pad", flip=False, precision="fp32",
    deterministic=True, mixup=0.2, dropout=0.1,
)  # fmt: skip


def register() -> None:
    """The smallest ViT that still has every kind of weight: 1,500 parameters."""
    if MODEL not in list_models():
        build = partial(ViT, patch_size=4, embed_dim=8, depth=1, num_heads=2)
        register_model(ModelSpec(MODEL, "vit", build, img_size=16, patch_size=4))


def digits() -> ImageSet:
    """The first images of scikit-learn's digits, which come with it."""
    return open_images("digits").select(range(IMAGES))


def fresh(images: ImageSet) -> LoadedModel:
    """The model before its first step."""
    return fresh_model(MODEL, images.classes, 16)


def freeze(folder: Path) -> None:
    """Write the two runs and the answers."""
    images = digits()
    split = split_images(images, 0)
    run = Run.create(folder / "finished")
    train_run(run, images, split, fresh(images), RECIPE)
    shutil.rmtree(run.folder / "last")
    pixels = [images.sources[row] for row in range(ANSWERED)]
    logits = regard.load_model(run.folder).predict(pixels).logits
    (folder / "answers.json").write_text(json.dumps(logits.tolist()) + "\n", encoding="utf-8")

    def stop(event: dict) -> None:
        if event["event"] == "step" and event["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    with suppress(SystemExit):
        train_run(Run.create(folder / "interrupted"), images, split, fresh(images), RECIPE, on_event=stop)


if __name__ == "__main__":
    register()
    place = RELEASES / regard.__version__
    if place.exists():
        sys.exit(f"{place}: is frozen already")
    freeze(place)
