"""`regard look`: a page in which one photo is seen passing through a vision transformer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.verbs.command import command_line
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from regard.explanation.method import Method
    from regard.inference.loaded import LoadedModel
    from regard.pages.look import Explanation

ANSWERS = {"single_label": "softmax", "multi_label": "sigmoid", "regression": "number"}
CLASSES = 5  # that can be chosen on the page
FEW_PASSES = 5  # of the methods that run unasked: forward and backward passes for one class


@dataclass(frozen=True)
class Look:
    """The page. answer: the most probable class, score its probability; of numbers, the column and its number. target:
    the class that is explained first.

    errors: what a shown number is off by at most, by kind; absent: methods that are not on the page, and why.
    """

    model: str
    image: str
    answer: str
    target: str
    score: float
    probability: bool
    layers: int
    methods: tuple[str, ...]
    absent: tuple[str, ...]
    errors: dict[str, float]
    bytes: int
    page: Path

    def lines(self) -> Iterator[str]:
        """What the model answers, what the page shows, and where it is."""
        score = f"{self.score:.1%}" if self.probability else f"{self.score:.4g}"
        yield f"{self.image}: {self.answer}, {score}, says {self.model}"
        yield f"{self.layers} layers, attention weights within {self.errors['pattern']:.1g}; {', '.join(self.methods)}"
        yield from self.absent
        yield f"page: {self.page} ({self.bytes / 1e6:.1f} MB, opens without a network)"


def look(
    model: str | Path | LoadedModel | nn.Module,
    image: str | Path | Image.Image | np.ndarray | Tensor,
    *,
    html: str | Path,
    target: str = "top1",
    method: Sequence[str] = (),
    layers: Sequence[int] = (),
    img_size: int | None = None,
    weights: str | Path | None = None,
    on_event: OnEvent = silent,
) -> Look:
    """See a vision transformer think about one photo, in one offline page.

    Point at a patch to see what it attends to in every layer and head, and follow it from pixels through queries, keys
    and values to the class. Any transformer that classifies will do; where a CNN looks, `regard explain` says.

    Args:
        model: a run folder, a name, or a name with a weights tag
        image: one image file
        html: the page to write
        target: class that is explained first: its name, true (the photo's folder names it) or top1
        method: methods of explanation, NAME or NAME+option=value; those that take a pass or two where not given
        layers: numbers of the layers to show, from 0, or from -1 backwards; all where not given
        img_size: side of the square that the model sees, in pixels
        weights: weights file to use in place of a download
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    arguments = {**locals(), "image": image if isinstance(image, str | Path) else f"<{type(image).__name__}>"}
    from regard.analysis.inside import look_inside, shown_layers
    from regard.inference.loaded import named_images
    from regard.inference.precision import device_of
    from regard.pages.look import Depth, LookPage, best_class, errors_of, write_look

    one = _one(image)
    loaded = load_aloud(model, on_event, weights, img_size=img_size)
    chosen = shown_layers(loaded.model, tuple(layers) or None)
    (name,), (source,) = named_images([one])
    opened, pixels = _pixels(loaded, source)
    images = loaded.preprocess.normalise(pixels[None].to(device_of(loaded.model)))
    methods, absent = _methods(loaded.model, images, method)

    def progress(done: int, total: int) -> None:
        on_event({"event": "progress", "title": "layers", "done": done, "total": total})

    loaded.model.eval()
    inside = look_inside(loaded.model, images, chosen, progress)
    targets = _targets(loaded, inside.logits, target, one)
    explanations = _explanations(loaded.model, images, targets, methods, on_event)
    scores = _scores(loaded, inside.logits[None])[0]
    depth = None
    if inside.depth is not None:
        depth = Depth(inside.depth_labels, _scores(loaded, inside.depth))
    page = LookPage(
        title=f"{loaded.name}: {Path(name).name}",
        model=loaded.name,
        pretraining=loaded.pretraining,
        image=Path(name).name,
        shape=opened,
        prepared=_prepared(loaded),
        pixels=pixels.permute(1, 2, 0).numpy(),
        mean=loaded.preprocess.mean,
        std=loaded.preprocess.std,
        classes=loaded.classes,
        logits=inside.logits,
        scores=scores,
        answer=ANSWERS[loaded.problem],
        temperature=loaded.temperature,
        targets=targets,
        prefix=inside.prefix,
        reads=inside.reads,
        embedding=inside.embedding,
        layers=inside.layers,
        depth=depth,
        explanations=tuple(explanations),
        absent=tuple(absent),
        command=command_line(look, arguments),
    )
    path = write_look(page, html)
    return Look(
        model=loaded.name,
        image=page.image,
        answer=loaded.classes[best_class(page)],
        target=loaded.classes[targets[0]],
        score=float(scores[best_class(page)]),
        probability=page.answer != "number",
        layers=len(chosen),
        methods=tuple(one.name for one in explanations),
        absent=page.absent,
        errors=errors_of(page),
        bytes=path.stat().st_size,
        page=path,
    )


def _one(image: Any) -> Any:
    """The image, where it is one. Raises RegardError for a folder and for several."""
    several = getattr(image, "ndim", 0) == 4 or (isinstance(image, Sequence) and not isinstance(image, str | Path))
    if several:
        if len(image) != 1:
            raise RegardError(f"image: {len(image)} given; the page shows exactly one")
        return image[0]
    if isinstance(image, str | Path) and Path(image).is_dir():
        raise RegardError(f"{image}: a folder; the page shows exactly one image, name the file")
    return image


def _pixels(loaded: LoadedModel, source: Any) -> tuple[tuple[int, int], Tensor]:
    """(height, width) of the file, and (3, S, S) uint8, what the model sees of it. Raises ImageError."""
    from regard.data.decoding import open_image

    opened = open_image(source)
    return (opened.height, opened.width), loaded.preprocess.pixels(source)


def _prepared(loaded: LoadedModel) -> str:
    """How the file becomes the pixels, in words."""
    how = loaded.preprocess
    if how.resize == "squash":
        return f"both sides brought to {how.resized_side} pixels" + (
            f", the middle {how.size} × {how.size} cut out" if how.resized_side != how.size else ""
        )
    return f"the shorter side brought to {how.resized_side} pixels, the middle {how.size} × {how.size} cut out"


def _targets(loaded: LoadedModel, logits: np.ndarray, target: str, image: Any) -> tuple[int, ...]:
    """The classes on the page: the target, then the most probable ones; of numbers, the first columns."""
    from regard.verbs.explaining.targets import Photos, chooser, with_classes

    numbers = loaded.problem == "regression"
    best = np.arange(len(logits)) if numbers else np.argsort(-logits, kind="stable")
    if target == "top1":
        first = int(best[0])
    else:
        if target == "true" and not isinstance(image, str | Path):
            raise RegardError("target true: the image has no file whose folder could name its class; name the class")
        photos = with_classes(Photos([str(image)], [Path(str(image))]), target, [loaded])
        first = int(chooser(loaded, target)(logits[None], photos.truths)[0])
    return (first, *[int(one) for one in best[:CLASSES] if one != first][: CLASSES - 1])


def _scores(loaded: LoadedModel, logits: np.ndarray) -> np.ndarray:
    """(N, K): probabilities after the model's temperature, or the numbers themselves."""
    from regard.results import Predictions

    if loaded.problem == "regression":
        return logits
    ids = tuple(map(str, range(len(logits))))
    single = loaded.problem == "single_label"
    unknown = np.full(len(logits), -1, np.int64) if single else np.full(logits.shape, np.nan, np.float32)
    return Predictions(ids, logits, unknown, loaded.classes, loaded.problem).probabilities(loaded.temperature)


def _methods(model: nn.Module, images: Tensor, wanted: Sequence[str]) -> tuple[list[Method], list[str]]:
    """The methods to run, and of those that are defined but left out, why."""
    from regard.explanation.methods import METHODS, method

    if wanted:
        methods = [method(spec) for spec in wanted]
        for one in methods:
            if refused := one.refusal(model):
                raise RegardError(f"method {one.name}: {refused}")
        return methods, []
    methods, absent = [], []
    for name, one in METHODS.items():
        if one.refusal(model) is not None:
            continue
        cost = one.passes(model, images)
        passes = cost.forward + cost.backward
        if passes <= FEW_PASSES:
            methods.append(one)
        else:
            absent.append(f"{name} ({passes:,.0f} passes for each class)")
    return methods, [f"left out for what they cost, --method names them: {', '.join(absent)}"] if absent else []


def _explanations(
    model: nn.Module, images: Tensor, targets: Sequence[int], methods: Sequence[Method], on_event: OnEvent
) -> list[Explanation]:
    """The maps of each method for each target."""
    import torch

    from regard.pages.look import Explanation

    found = []
    for done, one in enumerate(methods, start=1):
        maps = [
            one.explain(model, images, torch.tensor([target], device=images.device)).float().cpu().numpy()
            for target in (targets if one.of_class else targets[:1])
        ]
        found.append(Explanation(one.name, np.concatenate(maps)))
        on_event({"event": "progress", "title": "explanations", "done": done, "total": len(methods)})
    return found
