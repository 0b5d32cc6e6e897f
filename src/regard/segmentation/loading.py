"""`load_segmenter`: a SAM ready to segment, from wherever it comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models import create_model, list_models, model_spec
from regard.models.sam import SAM
from regard.runs import Run
from regard.segmentation.segmenter import Segmenter
from regard.weights import (
    checkpoints_of,
    convert,
    expected_sha256,
    find_checkpoint,
    left_out,
    load_state,
    obtain,
    read_state,
    unverified,
)
from regard.weights.load import fitting_model

TASK = "mask-generation"


def load_segmenter(
    model: str | Path,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    cache: str | Path | None = None,
    clip: str | Path | None = None,
    announce: Callable[[str], object] = print,
) -> Segmenter:
    """A SAM ready to segment.

    Args:
        model: a name (`sam_vit_b`), the folder of a run that `regard train --task segment` made, or weights (Meta's
            .pth, safetensors, a folder of Hugging Face's), whose model is found by the names and shapes in them.
        weights: a file or folder of weights for a name, instead of the published ones.
        device: where it computes; by default a GPU where there is one.
        precision: of the image encoder, and of everything mode; the prompts of `predict` are decoded in float32.
        cache: a folder that keeps the embeddings of images for the next time.
        clip: a CLIP, by name or folder, that finds what texts say (`text=` of `predict`).
        announce: is told what is downloaded.

    Raises RegardError for another task's model, and for weights that cannot be had or do not fit.
    """
    path = Path(model)
    if os.path.exists(path):
        found = _of_run(path, weights) if (path / "config.yaml").is_file() else _of_weights(path, weights)
    elif len(path.parts) > 1:
        raise RegardError(f"{path}: no such file or folder; expected a run, weights, or one of {_known()}")
    else:
        found = _named(str(model), weights, announce)
    name, sam, messages = found
    segmenter = Segmenter(sam.to(_device(device)), name, precision, cache, messages=messages)
    if clip is not None:
        from regard.inference.image_text import load_clip
        from regard.segmentation.text_prompts import TextRanker

        segmenter.text_ranker = TextRanker(load_clip(clip, announce))
        segmenter.messages += segmenter.text_ranker.clip.messages
    return segmenter


def _named(name: str, weights: str | Path | None, announce: Callable[[str], object]) -> tuple[str, SAM, list[str]]:
    architecture = name.partition(".")[0]
    if architecture.partition("+")[0] not in list_models():
        raise RegardError(f"{name}: no such model, file or folder; choose {_known()}, a run, or weights")
    _check_task(architecture)
    if weights is not None:
        path = Path(weights)
        return name, *_filled(architecture, read_state(path), path, unverified(path, checkpoints_of(architecture)))
    if not checkpoints_of(architecture):
        raise RegardError(
            f"{architecture}: no weights of it were published; give those that you trained (weights=, --weights FILE), "
            "or the folder of their run in its place"
        )
    checkpoint = find_checkpoint(name)
    path = obtain(checkpoint, announce=announce, otherwise="give a file that you have (weights=, --weights FILE)")
    messages = unverified(path) if expected_sha256(checkpoint, path) is None else []
    return checkpoint.tag, *_filled(architecture, read_state(path), path, messages)


def _of_weights(path: Path, weights: str | Path | None) -> tuple[str, SAM, list[str]]:
    if weights is not None:
        raise RegardError(f"weights: not with {path}, which is weights itself; name the model instead")
    state = read_state(path)
    name = fitting_model(convert(state, path=path))
    if name is None or model_spec(name).task != TASK:
        found = f"they fit {name}" if name else "they fit no model that is known"
        raise RegardError(f"{path}: not weights of a SAM, {found}; expected those of {_known()}")
    return name, *_filled(name, state, path, unverified(path, checkpoints_of(name)))


def _of_run(folder: Path, weights: str | Path | None) -> tuple[str, SAM, list[str]]:
    if weights is not None:
        raise RegardError(f"weights: not with the run {folder}, which has its own; name the model instead")
    run = Run.open(folder)
    architecture = str(run.config["model"]).partition(".")[0]
    if architecture.partition("+")[0] not in list_models():
        raise RegardError(f"{folder}: was trained from {architecture}, which is not here; choose a run of {_known()}")
    _check_task(architecture, f"{folder}, a run of {architecture}")
    path = run.weights_path
    return architecture, *_filled(architecture, read_state(path), path, unverified(path), run.config["img_size"])


def _filled(
    architecture: str, state: Mapping[str, Tensor], path: Path, messages: list[str], img_size: int | None = None
) -> tuple[SAM, list[str]]:
    with torch.device("meta"):  # drawing weights that are replaced would take ViT-H many seconds
        sam = create_model(architecture, img_size=img_size)
    assert isinstance(sam, SAM)
    sam.to_empty(device="cpu")
    given = convert(state, architecture, path)
    return sam, [*messages, *left_out(state), *load_state(sam, given, path)]


def _check_task(architecture: str, told: str = "") -> None:
    task = model_spec(architecture).task
    if task != TASK:
        raise RegardError(
            f"{told or architecture}: its task is {task!r}, and here prompts become masks; choose {_known()}"
        )


def _known() -> str:
    return ", ".join(name for name in list_models() if model_spec(name).task == TASK)


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RegardError(f"device={str(wanted)!r}: cannot be used ({reason}); leave it out, or say cpu") from None
    return device
