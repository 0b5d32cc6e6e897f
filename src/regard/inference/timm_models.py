"""Models of an installed timm, made by timm: every way in which it refuses becomes one line."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError

# Families that have to be told their image size; the others take any.
TIMM_SIZED = ("vit_", "deit", "swin", "beit", "eva", "test_vit", "cait", "xcit", "mixer")


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise RegardError(f"{name}: timm is not installed; pip install 'regard[timm]'") from None
    return timm


def make_timm(name: str, pretrained: bool, num_classes: int | None, size: int | None, **rates: float) -> nn.Module:
    """timm's model; every way in which timm refuses becomes one line."""
    timm = _timm(name)
    bare = name.removeprefix("timm:")
    known = timm.list_models()
    if bare.partition(".")[0] not in known:
        near = [f"timm:{other}" for other in get_close_matches(bare, known, n=3)]
        raise RegardError(
            f"{name}: timm has no such model; nearest: {', '.join(near) or 'none, see timm.list_models()'}"
        )
    arguments: dict[str, Any] = {key: rate for key, rate in rates.items() if rate}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    if size is not None and bare.startswith(TIMM_SIZED):
        arguments["img_size"] = size
    try:
        return timm.create_model(bare, pretrained=pretrained, **arguments)
    except Exception as error:  # timm, the hub and its HTTP client raise a dozen kinds between them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = "; give its file with --weights FILE, or use --method scratch" if pretrained else ""
        raise RegardError(f"{name}: timm could not make it: {reason}{advice}") from None


def timm_outputs(name: str, state: Mapping[str, Tensor]) -> int | None:
    """The number of outputs of weights for a timm model, read from their classifier; None without one."""
    config = _timm(name).get_pretrained_cfg(name.removeprefix("timm:"), allow_unregistered=True)
    classifier = config.classifier if config is not None else None
    weight = state.get(f"{classifier}.weight") if isinstance(classifier, str) else None
    return len(weight) if weight is not None else None


def timm_preprocess(model: nn.Module) -> Preprocess:
    """The preprocessing that timm's configuration of a model states."""
    from timm.data.config import resolve_model_data_config

    return Preprocess.from_config(resolve_model_data_config(model))


def timm_pretraining(model: nn.Module) -> str:
    """Tag and licence of timm's weights."""
    config = model.pretrained_cfg
    assert isinstance(config, Mapping)
    return f"timm tag {config.get('tag') or 'none'}, licence {config.get('license') or 'not stated'}"
