"""Attention of each pixel to the window around it, in two forms.

    a_n = softmax over n of the logits of p and its neighbour p + n,   y(p) = sum_n a_n v(p + n)

`LocalAttention` is the general one: logits q(p) . k(p + n) / sqrt(D) of vectors. `LocalRelation` is the layer of
"Local Relation Networks for Image Recognition" (Hu et al. 2019, arXiv 1904.11491): logits of scalars, one per group of
channels, plus a geometry prior of n alone; it mixes the features themselves.

Maps are (B, G, c, H, W), G groups or heads of c channels. Neither layer copies the window of each pixel, R^2 times the
map: keys and values are read off R^2 shifted views, so that memory holds R^2 weights per pixel and group, and not R^2
vectors. Measured roughly (32 maps of 16 channels and 32x32 pixels, R = 7, one core), `unfold` with products took 10 to
20 times as long forwards and 7 to 10 times backwards. The gradients are written out below: what autograd makes of 49
slices took 4 times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.taps import Tap

OUTSIDE = -100.0  # added to the logits of neighbours outside the map, as in the authors' code
GEOMETRY_HIDDEN = 32
RELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": torch.mul,
    "squared": lambda q, k: -(q - k).square(),
    "absolute": lambda q, k: -(q - k).abs(),
}


def neighbours(x: Tensor, window: int, stride: int = 1) -> list[Tensor]:
    """R^2 views (..., H', W') of a map (..., H, W) with zeros around, R = `window`: the n-th holds each pixel's n-th
    neighbour, row after row. H' = ceil(H / stride): with a stride, only those of every stride-th pixel."""
    height, width = x.shape[-2:]
    x = F.pad(x, (window // 2,) * 4)
    rows = [x[..., i : i + height : stride, :] for i in range(window)]
    return [row[..., j : j + width : stride] for row in rows for j in range(window)]


def outside(x: Tensor, window: int, stride: int = 1) -> Tensor:
    """(R^2, H', W'), True where the n-th neighbour of a pixel lies outside the map x (..., H, W)."""
    return torch.stack(neighbours(torch.ones(x.shape[-2:], device=x.device), window, stride)) == 0


def local_scores(q: Tensor, k: Tensor, window: int, stride: int = 1) -> Tensor:
    """Products of queries (B, G, c, H', W') with the keys (B, G, c, H, W) around them: (B, G, R^2, H', W')."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return _Scores.apply(q, k, window, stride)  # pyright: ignore[reportReturnType]
    return _scores(q, k, window, stride)


def local_sum(weights: Tensor, v: Tensor, window: int, stride: int = 1) -> Tensor:
    """Sums of the values (B, G, c, H, W) around each pixel with weights (B, G, R^2, H', W'): (B, G, c, H', W')."""
    weights = weights.to(v.dtype)
    if torch.is_grad_enabled() and (weights.requires_grad or v.requires_grad):
        return _Sum.apply(weights, v, window, stride)  # pyright: ignore[reportReturnType]
    return _sum(weights, v, window, stride)


def _scores(q: Tensor, k: Tensor, window: int, stride: int) -> Tensor:
    return torch.stack([(q * neighbour).sum(2) for neighbour in neighbours(k, window, stride)], dim=2)


def _sum(weights: Tensor, v: Tensor, window: int, stride: int) -> Tensor:
    first, *others = zip(weights.unbind(2), neighbours(v, window, stride), strict=True)
    total = first[0].unsqueeze(2) * first[1]  # (B, G, 1, H', W') * (B, G, c, H', W')
    for weight, neighbour in others:
        total.addcmul_(weight.unsqueeze(2), neighbour)
    return total


def _spread(weights: Tensor, x: Tensor, like: Tensor, window: int, stride: int) -> Tensor:
    """The reverse of `_sum`: weights[:, :, n] x is added to each pixel's n-th neighbour of a map of zeros."""
    half = window // 2
    padded = F.pad(torch.zeros_like(like), (half,) * 4)
    height, width = like.shape[-2:]
    for n, weight in enumerate(weights.unbind(2)):
        i, j = divmod(n, window)
        padded[..., i : i + height : stride, j : j + width : stride].addcmul_(weight.unsqueeze(2), x)
    return padded[..., half : half + height, half : half + width]


class _Scores(torch.autograd.Function):
    """`local_scores` with its gradients: d q = sum_n g_n k(p + n); d k(p + n) += g_n q."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, window: int, stride: int) -> Tensor:
        ctx.save_for_backward(q, k)
        ctx.window, ctx.stride = window, stride
        return _scores(q, k, window, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,), (q, k) = grads, ctx.saved_tensors
        return _sum(grad, k, ctx.window, ctx.stride), _spread(grad, q, k, ctx.window, ctx.stride), None, None


class _Sum(torch.autograd.Function):
    """`local_sum` with its gradients: d a_n = g . v(p + n); d v(p + n) += a_n g."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, v: Tensor, window: int, stride: int) -> Tensor:
        ctx.save_for_backward(weights, v)
        ctx.window, ctx.stride = window, stride
        return _sum(weights, v, window, stride)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,), (weights, v) = grads, ctx.saved_tensors
        return _scores(grad, v, ctx.window, ctx.stride), _spread(weights, grad, v, ctx.window, ctx.stride), None, None


class LocalAttention(nn.Module):
    """Queries of D numbers, keys of R x R x D and values of R x R x C' in the window of each pixel.

    (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride)). Neighbours outside the map are left out. There are no
    positions: a shuffle of the window's other pixels changes nothing. Taps: q (B, 1, D, H', W'), k (B, 1, D, H, W), v
    (B, 1, C', H, W) and pattern (B, 1, R^2, H', W'), which sums to 1 over R^2.
    """

    def __init__(self, channels: int, dim: int, out_channels: int, window: int, stride: int = 1) -> None:
        super().__init__()
        _check_window(window)
        self.window, self.stride = window, stride
        self.query = nn.Conv2d(channels, dim, 1, bias=False)
        self.key = nn.Conv2d(channels, dim, 1, bias=False)
        self.value = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.q, self.k, self.v, self.pattern = Tap(), Tap(), Tap(), Tap()

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        q = self.q(self.query(x[..., :: self.stride, :: self.stride]).unsqueeze(1))  # (B, 1, D, H', W')
        k, v = self.k(self.key(x).unsqueeze(1)), self.v(self.value(x).unsqueeze(1))
        logits = local_scores(q * q.shape[2] ** -0.5, k, self.window, self.stride)  # (B, 1, R^2, H', W')
        missing = outside(x, self.window, self.stride)
        pattern = self.pattern(logits.masked_fill(missing, -torch.inf).softmax(dim=2))
        return local_sum(pattern, v, self.window, self.stride).squeeze(1)  # (B, C', H', W')

    def products(self, x: Tensor) -> int:
        """Multiply-adds of both products for maps x (B, C, H, W), for `regard.models.counting`."""
        channels = self.query.out_channels + self.value.out_channels
        return channels * self.window**2 * _pixels(x, self.stride)


class LocalRelation(nn.Module):
    """The local relation layer: groups of m = `shared` channels have one query, key and weight map.

    (B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride)); logits Phi(q(p), k(p + n)) + f(n), Phi one of
    `RELATIONS` (product, -squared or -absolute difference), f the geometry prior: offsets in [-1, 1] through a layer of
    32 units with ReLU (their number is unpublished). Outside the map keys and features are 0 and logits 100 lower. The
    mixed features pass a 1x1 convolution to C' channels. Taps: q (B, C/m, H', W'), k (B, C/m, H, W),
    geometry (C/m, R^2, 1, 1) and pattern (B, C/m, R^2, H', W'), which sums to 1 over R^2.
    """

    offsets: Tensor

    def __init__(
        self, channels: int, out_channels: int, window: int, shared: int, stride: int = 1, relation: str = "product"
    ) -> None:
        super().__init__()
        _check_window(window)
        if channels % shared:
            raise RegardError(f"shared={shared}: does not divide {channels} channels; choose a divisor")
        if relation not in RELATIONS:
            raise RegardError(f"relation={relation}: expected one of {', '.join(RELATIONS)}")
        groups = channels // shared
        self.window, self.shared, self.stride, self.relation = window, shared, stride, relation
        self.query = nn.Conv2d(channels, groups, 1, bias=False)
        self.key = nn.Conv2d(channels, groups, 1, bias=False)
        # No last bias: it is the same for the whole window, which the softmax does not see.
        self.prior = nn.Sequential(
            nn.Conv2d(2, GEOMETRY_HIDDEN, 1), nn.ReLU(), nn.Conv2d(GEOMETRY_HIDDEN, groups, 1, bias=False)
        )
        self.out = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.q, self.k, self.geometry, self.pattern = Tap(), Tap(), Tap(), Tap()
        axis = torch.linspace(-1, 1, window)
        self.register_buffer("offsets", torch.stack(torch.meshgrid(axis, axis, indexing="ij")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        q = self.q(self.query(x[..., :: self.stride, :: self.stride]))  # (B, C/m, H', W')
        k = self.k(self.key(x))  # (B, C/m, H, W)
        relate = RELATIONS[self.relation]
        around = torch.stack(neighbours(k, self.window, self.stride), dim=2)  # (B, C/m, R^2, H', W')
        geometry = self.prior(self.offsets[None])[0]  # (C/m, R, R)
        geometry = self.geometry(geometry.flatten(1)[..., None, None])  # (C/m, R^2, 1, 1)
        missing = outside(x, self.window, self.stride)
        logits = relate(q.unsqueeze(2), around) + geometry + OUTSIDE * missing.to(q.dtype)
        pattern = self.pattern(logits.softmax(dim=2))  # (B, C/m, R^2, H', W')
        y = local_sum(pattern, x.unflatten(1, (-1, self.shared)), self.window, self.stride)  # (B, C/m, m, H', W')
        return self.out(y.flatten(1, 2))  # (B, C', H', W')

    def products(self, x: Tensor) -> int:
        """Multiply-adds of the weighted sums for maps x (B, C, H, W), and of the logits where they are products."""
        channels = self.out.in_channels + (self.query.out_channels if self.relation != "absolute" else 0)
        return channels * self.window**2 * _pixels(x, self.stride)


def _check_window(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise RegardError(f"window={window}: has no pixel at its centre; choose an odd number")


def _pixels(x: Tensor, stride: int) -> int:
    return len(x) * -(-x.shape[-2] // stride) * -(-x.shape[-1] // stride)
