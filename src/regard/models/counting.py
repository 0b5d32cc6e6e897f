"""What a model costs, counted and not measured, and what that cost is spent on.

Multiply-adds are those of matrix products and convolutions, both products of attention included, as torch's flop
counter sees them. Sums over shifted maps are no such product: a layer that has them states them in a method `products`
(`regard.layers.local_attention`). Norms, softmax, pooling and activations are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, baddbmm_flop

from regard.models.registry import head_names
from regard.models.swin import PatchMerging
from regard.taps import Tap

KINDS = ("convolution", "attention", "mlp", "embedding", "other")
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm
# The counter does not know this form of it.
IN_PLACE = {torch.ops.aten.baddbmm_: lambda added, a, b, **_: baddbmm_flop(added, a, b)}
EMBEDDED = ("embed", "token", "pos")  # in names of parameters: positions, class and register tokens


class CostShares(NamedTuple):
    """Kind -> share in [0, 1] of the parameters and of the multiply-adds; each sums to 1 over `KINDS`."""

    parameters: dict[str, float]
    macs: dict[str, float]


@runtime_checkable
class HasProducts(Protocol):
    """A layer with multiply-adds of its own that the flop counter does not see."""

    def products(self, x: Tensor) -> int: ...


def count_parameters(model: nn.Module) -> int:
    """Number of weights, trainable or not; buffers (running means) are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_gmacs(model: nn.Module, img_size: int, inputs: tuple[Tensor, ...] = ()) -> float:
    """Multiply-adds of one forward pass of one (3, img_size, img_size) image, divided by 1e9.

    inputs: what the model takes instead of that image. The model runs once where it is; one on the meta device costs
    no time and no memory.
    """
    return sum(_macs(model, img_size, inputs).values()) / 1e9


def gmacs_by_part(model: nn.Module, img_size: int, inputs: tuple[Tensor, ...] = ()) -> dict[str, float]:
    """What the parts at the top of the model, and "" for itself, add to `count_gmacs`, where it is more than nothing.

    Arguments as there.
    """
    parts: Counter[str] = Counter()
    for name, count in _macs(model, img_size, inputs).items():
        parts[name.partition(".")[0]] += count
    return {name: count / 1e9 for name, count in parts.items() if count}


def cost_shares(model: nn.Module, img_size: int, inputs: tuple[Tensor, ...] = ()) -> CostShares:
    """What parameters and multiply-adds of one forward pass are spent on; arguments as of `count_gmacs`.

    Each weight and each product belongs to the module that holds or computes it, and that module is of one kind:

    | kind        | modules                                                                                     |
    |-------------|---------------------------------------------------------------------------------------------|
    | other       | norms wherever they are; the heads; anything that is none of the following (GRU, LayerScale) |
    | attention   | within a module with a tap `pattern`: projections, tables of positions, both products        |
    | mlp         | within a module with a tap `hidden`; linear layers that are of no other kind (VGG's, ConvNeXt's) |
    | embedding   | what turns patches into tokens: layers directly in a module with a tap `patches`, merging of |
    |             | patches; nn.Embedding; class token, registers, positions                                     |
    | convolution | all other convolutions, among them the CNN of a hybrid                                       |

    Of two nested taps the inner one decides.
    """
    modules = dict(model.named_modules())
    heads = head_names(model) if isinstance(getattr(model, "HEAD", None), str) else ()
    kinds = {name: _kind(modules, heads, name) for name in modules}
    weights: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        owner, _, own_name = name.rpartition(".")
        kind = kinds[owner]
        if kind == "other" and any(word in own_name for word in EMBEDDED):
            kind = "embedding"
        weights[kind] += parameter.numel()
    macs: Counter[str] = Counter()
    for name, count in _macs(model, img_size, inputs).items():
        macs[kinds[name]] += count
    return CostShares(_shares(weights), _shares(macs))


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {kind: counts[kind] / max(counts.total(), 1) for kind in KINDS}


def _kind(modules: dict[str, nn.Module], heads: tuple[str, ...], name: str) -> str:
    """The kind of the weights and products that are the module's own, by the table of `cost_shares`."""
    module = modules[name]
    if name in heads or isinstance(module, NORMS):
        return "other"
    if isinstance(module, nn.Embedding):
        return "embedding"
    around = [modules[name.rsplit(".", i)[0]] for i in range(name.count(".") + 1)]  # itself first
    around += [modules[""]] if name else []
    for i, outer in enumerate(around):
        if _has_tap(outer, "pattern"):
            return "attention"
        if _has_tap(outer, "hidden"):
            return "mlp"
        if i == 1 and (_has_tap(outer, "patches") or isinstance(outer, PatchMerging)):
            return "embedding"
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    return "mlp" if isinstance(module, nn.Linear) else "other"


def _has_tap(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), Tap)


def _macs(model: nn.Module, img_size: int, inputs: tuple[Tensor, ...]) -> Counter[str]:
    """Multiply-adds by the name of the module that computes them itself, and not one of its parts."""
    weight = next(model.parameters())
    inputs = inputs or (torch.zeros(1, 3, img_size, img_size, device=weight.device, dtype=weight.dtype),)
    own: Counter[str] = Counter()
    running = [""]
    counted = 0

    def settle() -> None:
        nonlocal counted
        total = counter.get_total_flops()
        own[running[-1]] += (total - counted) // 2
        counted = total

    def begins(name: str) -> Any:
        def hook(*_: Any) -> None:
            settle()
            running.append(name)

        return hook

    def ends(module: nn.Module, given: tuple[Any, ...], _: Any) -> None:
        settle()
        name = running.pop()
        if isinstance(module, HasProducts):
            own[name] += module.products(given[0])

    # The counter knows the plain form of attention on every device, but not every fused kernel.
    with (
        _still(model),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter,
        ExitStack() as hooks,
    ):
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(begins(name)).remove)
            hooks.callback(module.register_forward_hook(ends).remove)
        model(*inputs)
    return own


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and without gradients of any weight: the counter asks for those of views of weights, which
    there are none of (torch 2.15).
    """
    modes = [(module, module.training) for module in model.modules()]
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight in weights:
            weight.requires_grad = True
