"""The fourth deck's experiment on a stand-in of its shape: 120 classes, a frozen S/16, 46,200 trained parameters."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from regard.models import create_model

RECIPE = Path(__file__).parents[2] / "recipes" / "stanford_dogs.py"


def load_recipe():
    spec = importlib.util.spec_from_file_location("stanford_dogs", RECIPE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_the_softmax_trains_and_it_has_46200_parameters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        for breed in range(120):
            folder = tmp_path / "dogs" / split / f"breed{breed:03d}"
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    files = []
    for name in ("vit_small_patch16_224", "resnet18"):
        torch.manual_seed(0)
        size = 64 if name.startswith("vit") else None
        files.append(tmp_path / f"{name}.safetensors")
        save_file(create_model(name, 1000, size).state_dict(), files[-1])
    recipe = load_recipe()
    vit, resnet = recipe.main(
        tmp_path / "dogs",
        tmp_path / "out",
        models=("vit_small_patch16_224", "resnet18"),
        weights=(files[0], files[1]),
        epochs=1.0,
        img_size=64,
    )
    assert vit.cost.trainable_parameters == 46_200
    assert resnet.cost.trainable_parameters == 512 * 120 + 120
    assert "<svg" in (tmp_path / "out" / "curves_vit.svg").read_text()
    assert (tmp_path / "out" / "vit" / "report.html").is_file()
    assert recipe.DECK[recipe.VIT] == 0.834 and recipe.DECK[recipe.RESNET] == 0.763
