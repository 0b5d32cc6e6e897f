"""`LoadedModel`: a model with its preprocessing, its classes and what is known of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.neighbours import Neighbours
from regard.inference.pooling import head_input, pooled_features, probe, set_head
from regard.inference.precision import Precision
from regard.inference.rows import outputs
from regard.inference.timm_models import make_timm, timm_outputs, timm_preprocess, timm_pretraining
from regard.models import create_model, head_names, list_models, model_spec
from regard.results import Predictions, Problem
from regard.runs import Run
from regard.weights import (
    Checkpoint,
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
from regard.weights.catalogue import imagenet_classes

if TYPE_CHECKING:
    from PIL import Image

    from regard.models.registry import ModelSpec
    from regard.results import RunResult

    OneImage = str | Path | Image.Image | np.ndarray | Tensor

FROM_SCRATCH = "none (trained from scratch)"
IN_PYTHON = {  # what takes models of the tasks that the verbs do not
    "segment": "regard.create_model makes it, a call gives logits of each pixel",
    "seq2seq": "examples/dates.py trains one and writes with it",
    "image-text": "regard.create_model makes it, encode_image and encode_text compare images with texts",
    "generate": "regard.create_model makes it, generate draws images",
    "mask-generation": "regard.load_segmenter makes masks with it, as `regard segment` does",
}


@dataclass
class LoadedModel:
    """A classifier that is ready to look at images.

    model: (B, 3, S, S) normalised float32 -> logits (B, K); preprocess: makes its input; classes: K names
    in the order of the logits; pretraining: the data it has seen, in a few words; head: dotted name of its
    last Linear ("" where there is none); temperature divides the logits before the softmax; answers below
    `unsure_below` are unsure; spec: its registry entry, None for a model from elsewhere; messages: what
    loading changed and the user has to hear. problem: what it answers (as in `Predictions`); thresholds: for
    multi_label, the probability from which each label is given; boxes: its numbers are boxes (as in `ImageSet`).
    source: "model" and "weights" as they were named, empty for a module; by these a run is done again.
    """

    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    name: str
    pretraining: str
    head: str = ""
    temperature: float = 1.0
    unsure_below: float = 0.0
    spec: ModelSpec | None = None
    messages: list[str] = field(default_factory=list)
    problem: Problem = "single_label"
    thresholds: tuple[float, ...] = ()
    boxes: bool = False
    source: dict[str, str | None] = field(default_factory=dict)

    def predict(
        self, images: OneImage | Sequence[OneImage], batch_size: int = 32, precision: Precision = "fp32"
    ) -> Predictions:
        """Logits (N, K) for one image or a sequence: paths, PIL images, HxWx3 uint8 arrays or tensors.

        Ids are the paths as given, or "image/0" where there is no path; labels are unknown. Raises ImageError
        by name.
        """
        ids, sources = named_images(images)
        logits = np.empty((len(ids), len(self.classes)), np.float32)
        found = outputs(self, self.model, ids, sources, batch_size, precision)
        for number, (_, answer, error) in enumerate(found):
            if error is not None:
                raise error
            logits[number] = answer
        single = self.problem == "single_label"
        unknown = np.full(len(ids), -1, np.int64) if single else np.full(logits.shape, np.nan, np.float32)
        return Predictions(ids, logits, unknown, self.classes, self.problem)

    def embed(
        self, images: OneImage | Sequence[OneImage], batch_size: int = 32, precision: Precision = "fp32"
    ) -> np.ndarray:
        """(N, D) float32: what the head multiplies, for the same kinds of images as `predict`.

        Raises ImageError by name.
        """
        ids, sources = named_images(images)
        vectors = []
        for _, vector, error in outputs(self, self.pooled, ids, sources, batch_size, precision):
            if error is not None:
                raise error
            vectors.append(vector)
        return np.stack(vectors) if vectors else np.empty((0, head_input(self)), np.float32)

    @property
    def heads(self) -> tuple[str, ...]:
        """Dotted names of all layers that answer, `head` first; empty where there is none."""
        return (self.head, *getattr(self.model, "OTHER_HEADS", ())) if self.head else ()

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, D) what the head multiplies."""
        return pooled_features(self.model, self.head, images)


def load_model(
    model: str | Path | nn.Module,
    weights: str | Path | None = None,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    announce: Callable[[str], object] = print,
) -> LoadedModel:
    """A model ready to look at images, from wherever it comes.

    Args:
        model: a published name (`vit_small_patch16_224`, with or without `.tag`), `timm:NAME`, the folder of a
            run, or any `nn.Module` that turns (B, 3, S, S) into logits (B, K).
        weights: a file of weights for a name, instead of the published ones.
        preprocess: how images become the model's input; needed for an `nn.Module`, else the model's own.
        classes: names of the outputs; else the model's own, or "class 0", "class 1", ...
        num_classes: replace the head by an untrained one with so many outputs (the number of `classes` where given).
        img_size: pixels per side of the input where the model can take another than its own.
        announce: told tag, size, licence and pre-training data before anything is downloaded.

    Returns:
        The model in evaluation mode, on the GPU where there is one (an `nn.Module` stays where it is).

    Raises:
        RegardError: one line for an unknown name, weights that cannot be had or do not fit, an incomplete
        run.
    """
    wanted = Wanted(preprocess, tuple(classes) if classes is not None else None, num_classes, img_size)
    if wanted.classes and wanted.num_classes not in (None, len(wanted.classes)):
        raise RegardError(
            f"num_classes={num_classes}: but classes= names {len(wanted.classes)}; give one, or both alike"
        )
    if isinstance(model, nn.Module):
        loaded = _given(model, weights, wanted)
    elif str(model).startswith("timm:"):
        loaded = _from_timm(str(model), weights, wanted)
    elif os.path.isdir(model):
        loaded = _from_run(Path(model), weights, wanted)
    elif len(Path(model).parts) > 1 and not os.path.exists(model):
        raise RegardError(f"{model}: no such folder; expected the folder of a run, or the name of a model")
    elif os.path.isfile(model):
        raise RegardError(f"{model}: is a file; name its architecture and give the file as weights (--weights {model})")
    else:
        loaded = _published(str(model), weights, wanted, announce)
    loaded.model.eval()
    if not isinstance(model, nn.Module):
        loaded.source = {"model": str(model), "weights": str(weights) if weights is not None else None}
    return loaded


def fresh_model(
    name: str,
    classes: Sequence[str],
    img_size: int | None = None,
    preprocess: Preprocess | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    force: bool = False,
) -> LoadedModel:
    """An untrained model for these classes, drawn from torch's random numbers as they stand.

    img_size: pixels per side, the model's own by default; preprocess: `default_preprocess(img_size)` by
    default; drop_rate, drop_path_rate: dropout and stochastic depth in training; force: allow fewer than 16
    patches. Raises RegardError for an unknown name.
    """
    size = img_size or (preprocess.size if preprocess else None)
    if name.startswith("timm:"):
        model = make_timm(name, False, len(classes), size, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        size = size or timm_preprocess(model).size
        spec, head = None, probe(model, size)[1]
    else:
        name = name.partition(".")[0]
        spec = _classifier(name)
        size = size or spec.img_size
        model = create_model(
            name,
            num_classes=len(classes),
            img_size=size,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            force=force,
        )
        head = head_names(model)[0]
    return LoadedModel(
        model=model.to(_device()),
        preprocess=_sized(preprocess or default_preprocess(size), size),
        classes=tuple(classes),
        name=name,
        pretraining=FROM_SCRATCH,
        head=head,
        spec=spec,
        source={"model": name, "weights": None},
    )


def default_preprocess(size: int) -> Preprocess:
    """The preprocessing of models trained here: bicubic, ImageNet's mean and std.

    From 64 pixels on the shorter side is brought to size / 0.9 and the middle cut out; below, where the
    object fills the frame and every pixel counts, the whole image is squashed into the square.
    """
    return Preprocess(size, 0.9) if size >= 64 else Preprocess(size, 1.0, "squash")


@dataclass(frozen=True)
class Wanted:
    """What the caller of `load_model` asks for beyond the model; None: as the model has it."""

    preprocess: Preprocess | None
    classes: tuple[str, ...] | None
    num_classes: int | None
    img_size: int | None

    @property
    def outputs(self) -> int | None:
        """The number of outputs asked for."""
        return self.num_classes or (len(self.classes) if self.classes else None)

    def names(self, count: int, own: Sequence[str] = ()) -> tuple[str, ...]:
        """Names for `count` outputs: those asked for, else `output_names`."""
        return self.classes or output_names(count, own)


def output_names(count: int, own: Sequence[str] = ()) -> tuple[str, ...]:
    """The model's own names where there are `count` of them, else "class 0", "class 1", ..."""
    return tuple(own) if len(own) == count else tuple(f"class {number}" for number in range(count))


def _classifier(name: str) -> ModelSpec:
    """The sheet of a registered model that classifies. Raises RegardError for one of another task."""
    spec = model_spec(name)
    if spec.task != "classify":
        raise RegardError(
            f"{name}: its task is {spec.task!r}, and here images are classified; "
            f"choose a model that does that, or use it from Python: {IN_PYTHON[spec.task]}"
        )
    return spec


def _published(name: str, weights: str | Path | None, wanted: Wanted, announce: Callable[[str], object]) -> LoadedModel:
    """A registered model with published weights, or with those of a file."""
    architecture, _, tag = name.partition(".")
    spec = _classifier(architecture)
    messages: list[str] = []
    if weights is None:
        checkpoint = find_checkpoint(name)
        path, name = obtain(checkpoint, announce=announce), checkpoint.tag
        messages += unverified(path) if expected_sha256(checkpoint, path) is None else []
    else:
        known = checkpoints_of(architecture)
        checkpoint = find_checkpoint(name) if tag else known[0] if known else None
        path = Path(weights)
        messages += unverified(path, known)
    preprocess = wanted.preprocess or (checkpoint.preprocess if checkpoint else default_preprocess(spec.img_size))
    preprocess = _sized(preprocess, wanted.img_size)
    published = read_state(path)
    messages += left_out(published)
    state = convert(published, architecture, path)
    model = _registered(architecture, state, path, preprocess.size, wanted, messages)
    outputs = _outputs(model)
    own = imagenet_classes() if outputs == 1000 and wanted.outputs is None else ()
    return LoadedModel(
        model=model.to(_device()),
        preprocess=preprocess,
        classes=wanted.names(outputs, own),
        name=name,
        pretraining=_pretraining(checkpoint) if checkpoint and weights is None else _unknown(path),
        head=head_names(model)[0],
        spec=spec,
        messages=messages,
    )


def _registered(
    architecture: str, state: dict[str, Tensor], path: Path, size: int, wanted: Wanted, messages: list[str]
) -> nn.Module:
    """The registered model that fits `state`, with a fresh head where another number of outputs is wanted."""
    with torch.device("meta"):
        head = head_names(create_model(architecture))[0]
    found = len(state[f"{head}.weight"]) if f"{head}.weight" in state else None
    outputs = wanted.outputs or found
    if outputs is None:
        raise RegardError(f"{path}: has no head {head!r}; say how many classes it shall answer (num_classes=)")
    model = create_model(architecture, num_classes=outputs, img_size=size)
    messages += load_state(model, state, path, wanted.outputs)
    return model


def _from_run(folder: Path, weights: str | Path | None, wanted: Wanted) -> LoadedModel:
    """The model of a run: its weights (verified), classes, preprocessing, temperature and threshold."""
    if weights is not None:
        raise RegardError(f"weights: not with the run {folder}, which has its own; name the architecture instead")
    run = Run.open(folder)
    result, config = run.result(), run.config
    name = str(config["model"])
    preprocess = _sized(wanted.preprocess or Preprocess.from_config(run.preprocess), wanted.img_size)
    state = read_state(run.weights_path)
    if name.startswith("timm:"):
        model, spec = make_timm(name, False, len(run.classes), preprocess.size), None
        head = probe(model, preprocess.size)[1]
        _put_neighbours(model, head, state, result)
        _strict(model, state, run.weights_path)
    else:
        architecture = name.partition(".")[0]
        if architecture.partition("+")[0] not in list_models():
            raise RegardError(
                f"{folder}: was trained from a module of yours ({name}); make that module and "
                f"load_model(module, weights={str(run.weights_path)!r}, preprocess=..., classes=...)"
            )
        spec = model_spec(architecture)
        model = create_model(architecture, num_classes=len(run.classes), img_size=preprocess.size, force=True)
        head = head_names(model)[0]
        if _put_neighbours(model, head, state, result):
            _strict(model, state, run.weights_path)
        else:
            load_state(model, state, run.weights_path)
    loaded = LoadedModel(
        model=model.to(_device()),
        preprocess=preprocess,
        classes=run.classes,
        name=name,
        pretraining=result.pretraining,
        head=head,
        temperature=result.temperature,
        unsure_below=result.unsure_below,
        spec=spec,
        problem=result.problem,
        thresholds=result.thresholds,
        boxes=bool(config.get("boxes", False)),
        messages=unverified(run.weights_path),
    )
    return _renamed(loaded, wanted)


def _put_neighbours(model: nn.Module, head: str, state: Mapping[str, Tensor], result: RunResult) -> bool:
    """Whether the state's head is one of nearest neighbours, which then takes the place of the model's Linear."""
    if not head or f"{head}.features" not in state:
        return False
    neighbours = Neighbours.like(state, head, len(result.test.classes), result.problem)
    for name in (head, *getattr(model, "OTHER_HEADS", ())):
        if f"{name}.features" in state:
            model.set_submodule(name, neighbours)
    return True


def _given(model: nn.Module, weights: str | Path | None, wanted: Wanted) -> LoadedModel:
    """A module of the user's."""
    name = type(model).__name__
    config = getattr(model, "pretrained_cfg", None)  # timm's models carry their preprocessing
    preprocess = wanted.preprocess or (timm_preprocess(model) if isinstance(config, Mapping) else None)
    if preprocess is None:
        raise RegardError(
            f"{name}: how its images are prepared is unknown; give preprocess=Preprocess(size, crop_pct, "
            "resize, interpolation, mean, std) as it was trained"
        )
    preprocess = _sized(preprocess, wanted.img_size)
    if weights is not None:
        _strict(model, read_state(weights), Path(weights))
    outputs, head = probe(model, preprocess.size)
    loaded = LoadedModel(model, preprocess, output_names(outputs), name, "unknown (a module of yours)", head)
    loaded.messages += unverified(Path(weights)) if weights is not None else []
    return _renamed(loaded, wanted)


def _renamed(loaded: LoadedModel, wanted: Wanted) -> LoadedModel:
    """With the wanted classes: other names for the same outputs, or a fresh head of `num_classes`."""
    before = len(loaded.classes)
    if wanted.num_classes is None and wanted.classes and len(wanted.classes) != before:
        raise RegardError(
            f"{loaded.name}: answers {before} classes, but classes= names {len(wanted.classes)}; "
            f"give num_classes={len(wanted.classes)} for a new head"
        )
    names = wanted.names(wanted.outputs or before, loaded.classes)
    if wanted.num_classes is not None and names != loaded.classes:
        fresh = nn.Linear(head_input(loaded), len(names))
        set_head(loaded, fresh.weight.detach(), fresh.bias.detach())
        loaded.temperature, loaded.unsure_below, loaded.thresholds = 1.0, 0.0, ()
        loaded.messages.append(
            f"{loaded.name}: its head of {before} classes gave way to an untrained one of {len(names)}"
        )
    loaded.classes = names
    return loaded


def _strict(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load `state` where names and shapes are the model's to the last one; else one line."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise RegardError(
            f"{path}: does not fit {type(model).__name__}: {odd[0]}{more} missing, unknown or of another "
            "shape; give the weights of this architecture"
        )
    model.load_state_dict(dict(state))


def _from_timm(name: str, weights: str | Path | None, wanted: Wanted) -> LoadedModel:
    """An installed timm model with timm's weights, or with those of a file."""
    if weights is None:
        model = make_timm(name, True, wanted.outputs, wanted.img_size)
        pretraining = timm_pretraining(model)
    else:
        state = read_state(weights)
        model = make_timm(name, False, timm_outputs(name, state), wanted.img_size)
        _strict(model, state, Path(weights))
        pretraining = _unknown(Path(weights))
    preprocess = _sized(wanted.preprocess or timm_preprocess(model), wanted.img_size)
    outputs, head = probe(model, preprocess.size)
    own = imagenet_classes() if outputs == 1000 else ()
    names = output_names(outputs, own)
    loaded = LoadedModel(model.to(_device()), preprocess, names, name, pretraining, head)
    loaded.messages += unverified(Path(weights)) if weights is not None else []
    if weights is None and wanted.classes:  # timm made a head of that many outputs already
        loaded.classes = wanted.classes
        return loaded
    return _renamed(loaded, wanted)


# Small things -----------------------------------------------------------------------------------------------


def _pretraining(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.pretraining} ({checkpoint.tag}, licence {checkpoint.licence})"


def _unknown(path: Path) -> str:
    """What is known of the training of a file that somebody brings: nothing, and that is said."""
    return f"unknown data (weights from {path.name})"


def _outputs(model: nn.Module) -> int:
    linear = model.get_submodule(head_names(model)[0])
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def _sized(preprocess: Preprocess, size: int | None) -> Preprocess:
    return replace(preprocess, size=size) if size is not None else preprocess


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_images(images: Any) -> tuple[tuple[str, ...], list[Any]]:
    """(ids, sources) of one image or a sequence of them; a 4-dimensional array or tensor is a sequence."""
    several = getattr(images, "ndim", 0) == 4 or (
        isinstance(images, Sequence) and not isinstance(images, str | bytes | Path)
    )
    sources = list(images) if several else [images]
    ids = tuple(
        Path(source).as_posix() if isinstance(source, str | Path) else f"image/{number}"
        for number, source in enumerate(sources)
    )
    return ids, [Path(source) if isinstance(source, str) else source for source in sources]
