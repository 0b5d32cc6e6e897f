"""The sheet of one model: what it is, what it costs, what an image becomes in it, and its published weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regard.data.transforms import Preprocess
    from regard.models.registry import ModelSpec, Task
    from regard.weights.catalogue.entry import Checkpoint

PATTERN_TAP = "pattern"
FLOAT_BYTES = 4
SEVERAL_PARTS = ("image-text", "mask-generation")  # tasks whose models are asked for an image once, then for the rest


class Passing(NamedTuple):
    """What leaves a tap or a part of the model: its shape for one example; `*` in the name stands for `times` parts."""

    name: str
    times: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelSheet:
    """What is known of one model without its weights.

    parameters, gmacs, shares, passing: with as many classes as published, for one example at img_size (pixels per side,
    0 where it sees no image); gmacs_of: what its large parts have of gmacs, where they can be asked one by one; shares:
    kind of layer -> (share of the parameters, share of the multiply-adds);
    pattern_bytes: float32 attention patterns of one example, held while somebody listens to all of them; checkpoints:
    the first is what the bare name means; timm: the architecture of timm whose weights have the same names and shapes.
    """

    name: str
    family: str
    task: str
    paper: str
    deviations: str
    img_size: int
    patch_size: int | None
    options: dict[str, tuple[str, ...]]
    parameters: int
    gmacs: float
    gmacs_of: dict[str, float]
    shares: dict[str, tuple[float, float]]
    passing: tuple[Passing, ...]
    pattern_bytes: int
    timm: str | None
    checkpoints: tuple[Checkpoint, ...]

    def lines(self) -> Iterator[str]:
        """The sheet in words."""
        yield self.name
        image = f"{self.img_size} pixels a side" if self.img_size else "none"
        parts = ", ".join(f"{name} {gmacs_words(gmacs)}" for name, gmacs in self.gmacs_of.items())
        yield from _table(
            ("paper", self.paper),
            ("deviations", self.deviations),
            ("task", self.task),
            ("image", f"{image}, patches of {self.patch_size}" if self.patch_size else image),
            ("options", ", ".join(f"{name}={'|'.join(values)}" for name, values in self.options.items())),
            ("parameters", f"{self.parameters:,}"),
            ("GMACs", f"{gmacs_words(self.gmacs)} for one example{f': {parts}' if parts else ''}"),
            ("patterns", memory_words(self.pattern_bytes)),
            ("in timm", self.timm or ""),
        )
        yield from ("", f"  {'share of':<14}parameters  multiply-adds")
        for kind, (parameters, macs) in self.shares.items():
            yield f"  {kind:<14}{parameters:>10.1%}  {macs:>13.1%}"
        yield from ("", "  on the way through it (one example; * stands for several)")
        width = max(len(row.name) for row in self.passing)
        for row in self.passing:
            times = f"{row.times} x" if row.times > 1 else ""
            yield f"  {row.name:<{width}}  {times:>4}  ({', '.join(map(str, row.shape))})"
        yield from ("", "  published weights" if self.checkpoints else "  no published weights are known")
        for checkpoint in self.checkpoints:
            yield from checkpoint_lines(checkpoint)


def model_sheet(name: str) -> ModelSheet:
    """The sheet of a registered model, `NAME` or `NAME+option=value`: sizes, costs, shapes, published weights.

    Nothing is downloaded and no weights are made. Raises RegardError for an unknown name, with the nearest.
    """
    from regard.models import count_parameters, model_spec
    from regard.models.counting import KINDS, cost_shares, gmacs_by_part
    from regard.models.examples import without_weights
    from regard.weights import checkpoints_of

    spec = model_spec(name)
    model, inputs = without_weights(spec)
    shares = cost_shares(model, spec.img_size, inputs)
    parts = gmacs_by_part(model, spec.img_size, inputs)
    passing, pattern_bytes = passing_through(model, inputs)
    return ModelSheet(
        name=spec.name,
        family=spec.family,
        task=spec.task,
        paper=spec.paper,
        deviations=spec.deviations,
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        options=dict(spec.options),
        parameters=count_parameters(model),
        gmacs=sum(parts.values()),
        gmacs_of=_large(parts) if spec.task in SEVERAL_PARTS else {},
        shares={kind: (shares.parameters[kind], shares.macs[kind]) for kind in KINDS},
        passing=passing,
        pattern_bytes=pattern_bytes,
        timm=_timm_words(spec),
        checkpoints=checkpoints_of(spec.name),
    )


def _large(parts: dict[str, float]) -> dict[str, float]:
    """The parts with a name that have a thousandth of all or more."""
    return {name: count for name, count in parts.items() if name and count >= sum(parts.values()) / 1000}


def passing_through(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[tuple[Passing, ...], int]:
    """Shapes on the way through a model, and the bytes of its attention patterns in float32.

    Every tap is there; of other modules only those at the top, and parts of a sequence there, that change the shape.
    Taps and parts that differ only by a number and have one shape are one row.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    from regard.taps import Tap, record

    with torch.no_grad(), record(model, "**") as seen:
        model(*inputs)
    rows: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    last: tuple[int, ...] = ()
    pattern_bytes = 0
    for name, value in seen.items():
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
        if not tensors:
            continue
        tap, shape = isinstance(model.get_submodule(name), Tap), tuple(tensors[0].shape)
        if tap or (re.fullmatch(r"[^.]+(\.\d+)?", name) and shape != last):
            rows.setdefault((re.sub(r"\b\d+\b", "*", name), shape), []).append(name)
            last = shape
        if tap and name.rpartition(".")[2] == PATTERN_TAP:
            pattern_bytes += sum(tensor.numel() for tensor in tensors) * FLOAT_BYTES
    return tuple(Passing(_common(names), len(names), shape) for (_, shape), names in rows.items()), pattern_bytes


def _common(names: list[str]) -> str:
    """One name for several: `*` where they differ."""
    parts = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


def checkpoint_lines(checkpoint: Checkpoint) -> Iterator[str]:
    """One published set of weights in words."""
    from regard.models import model_spec

    tops = ((label, top) for label, top in (("top1", checkpoint.top1), ("top5", checkpoint.top5)) if top is not None)
    figures = ", ".join(f"{label} {top:.1f}%" for label, top in tops)
    yield f"  {checkpoint.tag}"
    yield from _table(
        ("from", str(checkpoint.source)),
        ("sha256", checkpoint.sha256 or ""),
        ("licence", checkpoint.licence),
        ("pre-training", checkpoint.pretraining),
        ("classes", f"{checkpoint.num_classes:,}" if checkpoint.num_classes else ""),
        ("published", figures),
        ("images", preprocess_words(checkpoint.preprocess, model_spec(checkpoint.architecture).task)),
        ("note", checkpoint.note),
        indent=4,
    )


def preprocess_words(preprocess: Preprocess, task: Task) -> str:
    """How an image becomes the input of a model of this task, in words."""
    side = "shorter side" if preprocess.resize == "short" else "both sides"
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (preprocess.mean, preprocess.std))
    if task == "mask-generation":
        return (
            f"longer side to {preprocess.size} ({preprocess.interpolation}), mean {mean}, std {std}, then zeros at the "
            "right or the bottom"
        )
    return (
        f"{side} to {preprocess.resized_side} ({preprocess.interpolation}), middle {preprocess.size} x "
        f"{preprocess.size}, mean {mean}, std {std}"
    )


def gmacs_words(gmacs: float) -> str:
    """17.563828 -> '17.6', 0.04056 -> '0.0406', 1234.5 -> '1,234'."""
    return f"{gmacs:,.0f}" if gmacs >= 100 else f"{gmacs:.3g}"


def memory_words(pattern_bytes: int) -> str:
    """What listening to every attention pattern takes; empty where there is none."""
    if not pattern_bytes:
        return ""
    return f"{pattern_bytes / 1e6:,.1f} MB for one example while recorded (float32)"


def _timm_words(spec: ModelSpec) -> str | None:
    """timm's architecture with its arguments, `vit_tiny_patch16_224(img_size=32, ...)`."""
    if spec.timm is None:
        return None
    architecture, arguments = spec.timm
    return f"{architecture}({', '.join(f'{key}={value}' for key, value in arguments.items())})".replace("()", "")


def _table(*rows: tuple[str, str], indent: int = 2) -> Iterator[str]:
    """Labelled lines; a row without a value is left out."""
    for label, value in rows:
        if value:
            yield f"{' ' * indent}{label:<14}{value}"
