"""Whether registered models are as they should be, without their weights: `regard models --verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from regard.verbs.events import OnEvent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regard.models.registry import ModelSpec

CLASSES = 7
VOCABULARY = 50
MOST_PARAMETERS = 120_000_000  # of a model that is tried with weights: half a gigabyte
TOLERANCE = 1e-5  # of the largest number, in float32
# What torchvision's builders need beside the name to draw no weights and to have all heads.
TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "deeplabv3_resnet50": {"weights_backbone": None, "aux_loss": True},
    "deeplabv3_resnet101": {"weights_backbone": None, "aux_loss": True},
}


class CheckFailed(Exception):
    """What a check found wrong, in a few words."""


@dataclass(frozen=True)
class Check:
    """One check of one model; detail: what was found, or why it was not run."""

    what: str
    outcome: Literal["passed", "failed", "not run"]
    detail: str


@dataclass(frozen=True)
class Verified:
    """The checks of one model."""

    name: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> bool:
        """True where one of them failed."""
        return any(check.outcome == "failed" for check in self.checks)


@dataclass(frozen=True)
class Verification:
    """The checks of several models."""

    models: tuple[Verified, ...]

    @property
    def failed(self) -> bool:
        """True where a check of any of them failed."""
        return any(model.failed for model in self.models)

    def lines(self) -> Iterator[str]:
        """A line per model, one per failure below it, and the sum."""
        width = max(len(model.name) for model in self.models)
        for model in self.models:
            passed = ", ".join(f"{check.what} {check.detail}" for check in model.checks if check.outcome == "passed")
            yield f"{model.name:<{width}}  {'FAILED' if model.failed else 'ok':<6}  {passed}"
            for check in model.checks:
                if check.outcome != "passed":
                    yield f"{'':<{width}}  {check.outcome}: {check.what}: {check.detail}"
        failed = sum(model.failed for model in self.models)
        yield f"{len(self.models)} models, {failed} failed"


def verify_models(names: Sequence[str], on_event: OnEvent) -> Verification:
    """Runs the checks of each model, one model in memory at a time."""
    found = []
    for done, name in enumerate(names, start=1):
        found.append(verify_model(name))
        on_event({"event": "progress", "title": "verifying", "done": done, "total": len(names)})
    return Verification(tuple(found))


def verify_model(name: str) -> Verified:
    """The checks of one registered model.

    | check      | what has to hold                                                                            |
    |------------|---------------------------------------------------------------------------------------------|
    | output     | full size, on the meta device: a row per example                                            |
    | names      | full size: names and shapes of the weights equal those of timm's, torchvision's, open_clip's |
    | counts     | full size: parameters and multiply-adds are those recorded in `regard.models.costs`         |
    | neighbours | smallest images: an example's answer does not depend on the others of its batch (float64)   |
    | taps       | smallest images: the answer is the same while everything is recorded, within float32        |
    """
    from regard.models import count_parameters, model_spec
    from regard.models.examples import without_weights

    spec = model_spec(name)
    full, small = cache(lambda: without_weights(spec, 2)), cache(lambda: _smallest(spec))
    checks = [_run("output", lambda: _output(*full()))]
    if checks[0].outcome == "failed":
        return Verified(name, tuple(checks))
    checks += [_run("names", lambda: _names(spec, full()[0])), _run("counts", lambda: _counts(spec))]
    if count_parameters(full()[0]) <= MOST_PARAMETERS:
        checks += [_run("neighbours", lambda: _neighbours(*small())), _run("taps", lambda: _taps(*small()))]
    else:
        reason = f"more than {MOST_PARAMETERS // 10**6} million weights; smaller ones of its family have its layers"
        checks += [Check(what, "not run", reason) for what in ("neighbours", "taps")]
    return Verified(name, tuple(checks))


class _NotRun(Exception):
    """Why a check does not apply."""


def _run(what: str, check: Callable[[], str]) -> Check:
    try:
        return Check(what, "passed", check())
    except _NotRun as reason:
        return Check(what, "not run", str(reason))
    except Exception as error:  # whatever breaks in a model is what this looks for
        kind = "" if isinstance(error, CheckFailed) else f"{type(error).__name__}: "
        return Check(what, "failed", kind + (str(error).splitlines() or ["no message"])[0])


def _output(model: nn.Module, examples: tuple[Tensor, ...]) -> str:
    import torch

    with torch.no_grad():
        answers = _answers(model, examples)
    shapes = " and ".join(str(tuple(answer.shape)) for answer in answers)
    if any(len(answer) != 2 for answer in answers):
        raise CheckFailed(
            f"gave {shapes} for two examples; expected {'two rows of each' if answers[1:] else 'two rows'}"
        )
    return shapes


def _answers(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensor that a model gives, or those that it gives by name (masks and how good they are)."""
    import torch

    answer = model(*inputs)
    if isinstance(answer, torch.Tensor):
        return (answer,)
    if not hasattr(answer, "_fields"):
        raise CheckFailed(f"gave {type(answer).__name__}; expected one tensor, or several by name")
    return tuple(answer)


def _names(spec: ModelSpec, model: nn.Module) -> str:
    publisher, theirs = _twin(spec)
    ours_shapes, their_shapes = (
        {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} for module in (model, theirs)
    )
    for name, shape in their_shapes.items():
        if ours_shapes.get(name) != shape:
            raise CheckFailed(f"{name} is {shape} in {publisher}, {ours_shapes.get(name, 'absent')} here")
    if more := [name for name in ours_shapes if name not in their_shapes]:
        raise CheckFailed(f"{publisher} has no {more[0]} and {len(more) - 1} more")
    return f"as {publisher}"


def _twin(spec: ModelSpec) -> tuple[str, nn.Module]:
    """The published implementation of the same model on the meta device, and whose it is."""
    import torch
    from torchvision import models as torchvision_models

    from regard.models import timm_reference

    if reference := timm_reference(spec, spec.img_size):
        try:
            import timm
        except ImportError:
            raise _NotRun("timm is not installed") from None
        with torch.device("meta"):
            return "timm", timm.create_model(reference[0], num_classes=1000, **reference[1])
    if spec.name in torchvision_models.list_models():
        with torch.device("meta"):
            arguments = TORCHVISION_ARGUMENTS.get(spec.name, {})
            return "torchvision", torchvision_models.get_model(spec.name, weights=None, **arguments)
    if spec.family == "clip":
        try:
            import open_clip
        except ImportError:
            raise _NotRun("open_clip_torch is not installed") from None
        config: Any = open_clip.get_model_config(f"ViT-B-{spec.patch_size}-quickgelu")
        with torch.device("meta"):
            return "open_clip", open_clip.CLIP(**config)
    if spec.family == "sam":
        try:
            from segment_anything import sam_model_registry
        except ImportError:
            raise _NotRun("segment-anything is not installed") from None
        if make := sam_model_registry.get(spec.name.removeprefix("sam_")):
            with torch.device("meta"):
                return "segment-anything", make()
    raise _NotRun("neither timm nor torchvision has this model")


def _counts(spec: ModelSpec) -> str:
    from regard.models.costs import COSTS, count_cost

    if spec.name not in COSTS:
        raise _NotRun("none are recorded for this name")
    found = count_cost(spec)
    if found != COSTS[spec.name]:
        raise CheckFailed(f"(parameters, GMACs) are {found}, recorded is {COSTS[spec.name]}")
    return f"{found[0]:,} parameters, {found[1]} GMACs"


def _smallest(spec: ModelSpec) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model with weights, few classes and the smallest image it takes, and three examples."""
    import torch

    from regard.models import create_model
    from regard.models.examples import example_inputs

    torch.manual_seed(0)
    if spec.task == "seq2seq":
        model, examples = create_model(spec.name, VOCABULARY), example_inputs(spec, 3, vocabulary=VOCABULARY)
    else:
        size = spec.smallest or (4 * spec.patch_size if spec.patch_size else 32)
        model, examples = create_model(spec.name, CLASSES, size), example_inputs(spec, 3, size)
    _settle(model, examples)
    return model.eval(), examples


def _settle(model: nn.Module, examples: tuple[Tensor, ...]) -> None:
    """Batch norms take the statistics of the examples: with a fresh model's (0 and 1), all answers may be the bias."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean of all it has seen
    if norms:
        with torch.no_grad():
            model.train()(*examples)


def _neighbours(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """In float64, in which what batch norms of a tiny variance amplify is not yet noise."""
    import torch

    model = deepcopy(model).double()
    inputs = tuple(given.double() if given.is_floating_point() else given for given in inputs)
    with torch.no_grad():
        together = _answers(model, inputs)
        alone = _answers(model, tuple(given[:1] for given in inputs))
    if not all(answer.isfinite().all() for answer in together):
        raise CheckFailed("the answer is not finite")
    if torch.equal(together[0][0], together[0][1]):
        raise CheckFailed("two examples have one answer")
    same = tuple(a[tuple(slice(side) for side in b.shape)] for a, b in zip(together, alone, strict=True))
    return _close(alone, same, "alone and in a batch of three")


def _taps(model: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    import torch

    from regard.taps import Tap, record

    with torch.no_grad():
        plain = _answers(model, inputs)
        with record(model, "**") as seen:
            listened = _answers(model, inputs)
    silent = [name for name, module in model.named_modules() if isinstance(module, Tap) and name not in seen]
    if silent:
        raise CheckFailed(f"nothing passes the tap {silent[0]}")
    return _close(listened, plain, "while recorded and not")


def _close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], when: str) -> str:
    difference = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
    if not difference <= TOLERANCE:
        raise CheckFailed(f"answers differ by {difference:.1e} of the largest {when}")
    return f"within {difference:.0e}"
