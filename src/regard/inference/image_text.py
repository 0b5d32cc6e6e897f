"""CLIP with all that it takes to ask it: its weights, its tokenizer and how its images are prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.transforms import Interpolation, Preprocess
from regard.errors import RegardError
from regard.inference.memory import InParts
from regard.inference.precision import device_of
from regard.inference.tokenizer import load_tokenizer
from regard.models import model_spec
from regard.models.clip import CLIP
from regard.weights import (
    checkpoints_of,
    convert,
    expected_sha256,
    find_checkpoint,
    load_state,
    obtain,
    read_state,
    unverified,
)
from regard.weights.catalogue.clip import CLIP_MEAN, CLIP_STD
from regard.weights.download import obtain_beside
from regard.weights.read import file_in

TASK = "image-text"
HEAD_WIDTH = 64  # of OpenAI's models, whose files do not say it
TEXTS = 64  # encoded at once
INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR = "config.json", "open_clip_config.json", "preprocessor_config.json"
WANTED = "expected a name, a folder of the hub with model.safetensors and a tokenizer, or a file of weights in one"


@dataclass(frozen=True, eq=False)
class ImageText:
    """Images and texts in one space, as vectors of length 1; the product of two is their cosine.

    model: a CLIP in evaluation mode; tokenizer: texts -> (N, L) int64; preprocess: makes its images; messages: what
    loading changed and the user has to hear.
    """

    model: CLIP
    tokenizer: Callable[[Sequence[str]], Tensor]
    preprocess: Preprocess
    name: str = "CLIP"
    messages: tuple[str, ...] = field(default=(), repr=False)

    @property
    def scale(self) -> float:
        """By which cosines are multiplied before a softmax."""
        return float(self.model.logit_scale.detach().exp())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, E) float32 on the CPU. Raises RegardError for a text that is too long."""
        tokens = self.tokenizer(list(texts))
        tokens = tokens[:, : int((tokens.argmax(dim=1) + 1).max())]  # what follows the end of a text is not looked at
        encode = InParts(self.model.encode_text)
        found = [encode(part.to(device_of(self.model))) for part in tokens.split(TEXTS)]
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, E) float32 on the CPU."""
        images = self.preprocess.normalise(pixels.to(device_of(self.model)))
        return F.normalize(InParts(self.model.encode_image)(images).float(), dim=-1).cpu()


def load_clip(source: str | Path, announce: Callable[[str], object] = print) -> ImageText:
    """A CLIP ready to compare images with texts, on the GPU where there is one.

    source: a published name (`clip_vit_base_patch32`), a folder as the hub has it (weights, config.json, tokenizer), or
    a file of weights with the tokenizer beside it; announce: told before anything is downloaded.

    Raises RegardError, one line, for weights or a tokenizer that cannot be had or do not fit each other.
    """
    path = Path(source)
    if path.exists():
        folder = path if path.is_dir() else path.parent
        file = file_in(path)
        return _loaded(file, folder, _preprocess(folder), str(path), unverified(file))
    if len(path.parts) > 1:
        raise RegardError(f"{source}: no such file or folder; {WANTED}")
    architecture = str(source).partition(".")[0]
    spec = model_spec(architecture)
    if spec.task != TASK:
        named = checkpoints_of("clip_vit_base_patch32")[0].architecture
        raise RegardError(f"{source}: its task is {spec.task!r}, it reads no texts; choose {named}, or give a folder")
    checkpoint = find_checkpoint(str(source))
    file = obtain(checkpoint, announce=announce, otherwise="give a folder that holds them and the tokenizer")
    tokenizer = obtain_beside(checkpoint, "tokenizer.json", announce)
    messages = unverified(file) if expected_sha256(checkpoint, file) is None else []
    return _loaded(file, tokenizer, checkpoint.preprocess, checkpoint.tag, messages)


def _loaded(
    file: Path, tokenizer: Path, preprocess: Preprocess | None, name: str, messages: Sequence[str]
) -> ImageText:
    state = convert(read_state(file), "", file)
    sizes = _sizes(state, file)
    model = CLIP(**sizes, **_heads(file, sizes))
    said = load_state(model, state, file)
    preprocess = preprocess or Preprocess(sizes["img_size"], 1.0, "short", "bicubic", CLIP_MEAN, CLIP_STD)
    if preprocess.size != sizes["img_size"]:
        raise RegardError(
            f"{file}: the model sees {sizes['img_size']} pixels per side, {PREPROCESSOR} beside it makes "
            f"{preprocess.size}; restore one of them"
        )
    words = load_tokenizer(tokenizer, sizes["context_length"])
    if words.end != sizes["vocabulary"] - 1:
        raise RegardError(
            f"{tokenizer}: its end of text is number {words.end}, of the weights' {sizes['vocabulary']:,} words the "
            "last should be; give the tokenizer of this model"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ImageText(model.eval().to(device), words, preprocess, name, (*messages, *said))


def _sizes(state: Mapping[str, Tensor], path: Path) -> dict[str, int]:
    """Of a CLIP's weights under our names: the arguments of `CLIP` that they tell."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        places, _ = state["visual.positional_embedding"].shape
        context, text_width = state["positional_embedding"].shape
        vocabulary, _ = state["token_embedding.weight"].shape
        _, embed = state["visual.proj"].shape
    except (KeyError, ValueError) as error:
        raise RegardError(f"{path}: not weights of a CLIP with a ViT ({error} is missing or odd); {WANTED}") from None
    return {
        "img_size": patch * round((places - 1) ** 0.5),
        "patch_size": patch,
        "width": width,
        "depth": _depth(state, "visual.transformer.resblocks."),
        "embed_dim": embed,
        "text_width": text_width,
        "text_depth": _depth(state, "transformer.resblocks."),
        "context_length": context,
        "vocabulary": vocabulary,
    }


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)})


def _heads(file: Path, sizes: Mapping[str, int]) -> dict[str, int]:
    """Attention heads of both towers, which weights do not tell. Refuses another activation, which they do not either.

    Of the files beside the weights, Hugging Face's or open_clip's; without one, OpenAI's rule.
    """
    heads = {"num_heads": sizes["width"] // HEAD_WIDTH or 1, "text_heads": sizes["text_width"] // HEAD_WIDTH or 1}
    theirs, open_clips = file.with_name(CONFIG), file.with_name(OPEN_CLIP_CONFIG)
    path = theirs if theirs.is_file() else open_clips
    if not path.is_file():
        return heads
    config = _json(path)
    try:
        return _heads_there(path, config) if path == theirs else heads | _heads_of_open_clip(path, config, sizes)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RegardError(f"{path}: not the configuration of a CLIP ({error}); restore it") from None


def _heads_there(path: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """In Hugging Face's words, which leave out what is their default."""
    heads = {}
    for name, part, default in (("num_heads", "vision_config", 12), ("text_heads", "text_config", 8)):
        tower = config.get(part, {})
        _refuse_activation(path, str(tower.get("hidden_act", "quick_gelu")))
        heads[name] = _positive(tower.get("num_attention_heads", default))
    return heads


def _heads_of_open_clip(path: Path, config: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    model = config.get("model_cfg", {})
    _refuse_activation(path, "quick_gelu" if model.get("quick_gelu") else "gelu")
    width = _positive(model.get("vision_cfg", {}).get("head_width", HEAD_WIDTH))
    heads = {"num_heads": _positive(sizes["width"] // width)}
    text = model.get("text_cfg", {}).get("heads")
    return heads if text is None else heads | {"text_heads": _positive(text)}


def _positive(number: Any) -> int:
    if int(number) < 1:
        raise ValueError(f"{number} where a count was expected")
    return int(number)


def _refuse_activation(path: Path, activation: str) -> None:
    if activation != "quick_gelu":
        raise RegardError(
            f"{path}: a CLIP with the activation {activation}; ours has quick_gelu, as OpenAI's: give weights of that"
        )


def _preprocess(folder: Path) -> Preprocess | None:
    """From Hugging Face's file in a folder; None where there is none."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        return None
    config = _json(path)
    try:
        size, crop = _side(config["size"]), _side(config.get("crop_size", config["size"]))
        return Preprocess(
            crop,
            crop / size,
            "short",
            INTERPOLATIONS[int(config.get("resample", 3))],
            tuple(config.get("image_mean", CLIP_MEAN)),
            tuple(config.get("image_std", CLIP_STD)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RegardError(
            f"{path}: not the preprocessing of a CLIP ({type(error).__name__}: {error}); restore it"
        ) from None


def _side(size: int | Mapping[str, int]) -> int:
    """Pixels of the shorter side: Hugging Face writes a number, {"shortest_edge"}, or {"height", "width"}."""
    if isinstance(size, Mapping):
        return int(size["shortest_edge"] if "shortest_edge" in size else size["height"])
    return int(size)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RegardError(f"{path}: damaged ({(str(error).splitlines() or ['unreadable'])[0]}); restore it") from None
    if not isinstance(found, dict):
        raise RegardError(f"{path}: damaged (a {type(found).__name__} where an object was expected); restore it")
    return found
