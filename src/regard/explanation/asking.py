"""How any classifier is asked, a user's module too: its weights may be frozen, its first layer may work in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models.clip import CLIP

PASS = 16  # images in one pass where one image is asked many times: this bounds the memory, whatever the batch
NO_CAPTUM = "captum is not installed, and integrated_gradients and occlusion need it; pip install 'regard[explain]'"


@contextmanager
def observed(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, in which images do not influence each other, and with gradients; each module's mode goes
    back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def followed(images: Tensor) -> Tensor:
    """A copy of the images from which gradients are followed, so that frozen weights do not stop them.

    It is no leaf, because layers that work in place may not change one.
    """
    return images.detach().clone().requires_grad_().clone()


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """The logits (B, K) of a module that gives them, or an object with them as `.logits`, as Hugging Face's do.

    Raises RegardError where it gives something else.
    """
    answer = model(images)
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise RegardError(
            f"{type(model).__name__}: gave {found} for {len(images)} images; expected logits ({len(images)}, classes)"
        )
    return logits


def class_scores(logits: Tensor, classes: Tensor) -> Tensor:
    """(B,) of logits (B, K): those of classes (B,). Raises RegardError for a class that does not exist."""
    wrong = classes[(classes < 0) | (classes >= logits.shape[1])]
    if len(wrong):
        raise RegardError(f"class {int(wrong[0])}: does not exist; the model has 0 to {logits.shape[1] - 1}")
    return logits.gather(1, classes.to(logits.device)[:, None])[:, 0]


def scores_of(model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Images (B, 3, H, W), classes (B,) -> (B,) their logits; what Captum asks."""

    def scores(images: Tensor, classes: Tensor) -> Tensor:
        return class_scores(logits_of(model, images.clone()), classes)  # layers that work in place change the copy

    return scores


def captum() -> Any:
    """Captum's methods of attribution. Raises RegardError where it is not installed."""
    if find_spec("captum") is None:
        raise RegardError(NO_CAPTUM)
    return import_module("captum.attr")


def refuse_texts(model: nn.Module) -> str | None:
    """Why a model has no logit of a class; None where it is asked with images alone."""
    if isinstance(model, CLIP):
        return "CLIP: its classes are texts, so it has no logit of an image alone; attention and rollout are defined"
    return None


def refuse_without_captum(model: nn.Module) -> str | None:
    """As `refuse_texts`, of a method that Captum computes."""
    return refuse_texts(model) or (NO_CAPTUM if find_spec("captum") is None else None)
