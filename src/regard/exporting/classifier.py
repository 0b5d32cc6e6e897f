"""A classifier as one ONNX file: images (N, 3, S, S), prepared -> logits (N, K)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from regard.data.decoding import ImageSource
from regard.exporting.agreement import Agreement, Differences
from regard.exporting.onnx_files import ENGINES, write_onnx
from regard.inference.backends.contract import Answers
from regard.inference.loaded import LoadedModel

FILE = "model.onnx"


def export_classifier(
    loaded: LoadedModel, folder: Path, opset: int, photos: Sequence[ImageSource]
) -> tuple[Agreement, ...]:
    """Writes the file into `folder` and compares it with the model in every engine. The model is on the CPU.

    Raises RegardError where the graph cannot be drawn, or says something else.
    """
    images = torch.stack([loaded.preprocess(photo) for photo in photos])
    example = {"images": torch.zeros(2, *images.shape[1:])}
    write_onnx(Answers(loaded, features=False), example, ("logits",), folder / FILE, opset, {"images": {0: "images"}})
    with torch.no_grad():
        wanted = loaded.model(images).float().numpy()
    found = []
    for engine, load in ENGINES.items():
        differences, run = Differences(FILE, engine), load(folder / FILE)
        for rows in (slice(0, 1), slice(None)):  # one photo, and all of them
            (logits,) = run({"images": images[rows].numpy()})
            differences.add({"logits": logits}, {"logits": wanted[rows]})
        found += differences.agreements()
    return tuple(found)
