"""Judges of the exercises: each tries a student's function and says in one line what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

CHECKERS: dict[str, Callable[[Callable[..., Any]], str | None]] = {}


def checker(judge: Callable[[Callable[..., Any]], str | None]) -> Callable[[Callable[..., Any]], str | None]:
    """Registers a judge under its own name."""
    CHECKERS[judge.__name__] = judge
    return judge


def verdict(name: str, function: Callable[..., Any]) -> str | None:
    """What is wrong with a student's function; None where it is right. Errors that it raises are said, too."""
    try:
        return CHECKERS[name](function)
    except Exception as error:
        return f"it stops with {type(error).__name__}: {error}"


def check(name: str, function: Callable[..., Any]) -> None:
    """Prints whether the function is right."""
    wrong = verdict(name, function)
    print(f"{name}: right" if wrong is None else f"{name}: not yet - {wrong}")


def shape_of(value: Any, wanted: tuple[int, ...]) -> str | None:
    """What is wrong with the kind or the shape of an answer."""
    if value is None or value is ...:
        return "it gives nothing back yet; write the missing lines and return the result"
    if not isinstance(value, torch.Tensor):
        return f"it gives a {type(value).__name__}; expected a tensor"
    if tuple(value.shape) != wanted:
        return f"it gives the shape {tuple(value.shape)}; expected {wanted}"
    return None


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors of one shape agree."""
    return a.shape == b.shape and bool((a.double() - b.double()).abs().max() <= tolerance)


@checker
def attention(function: Callable[..., Any]) -> str | None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(n, d, generator=generator) for n, d in ((3, 4), (5, 4), (5, 2)))
    answer = function(q, k, v)
    if wrong := shape_of(answer, (3, 2)):
        return wrong
    right = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    scores = q @ k.T
    if near(answer, right):
        return None
    if near(answer, scores.softmax(dim=-1) @ v):
        return "the scores are not divided by sqrt(d), d being the width of a key"
    if near(answer, (scores / 2).softmax(dim=0) @ v):
        return "the softmax runs over the queries; each row, one query, must sum to 1"
    if near(answer, (scores / 2) @ v):
        return "the softmax is missing: weights must be positive and sum to 1"
    if near(answer, (scores / 4).softmax(dim=-1) @ v):
        return "the scores are divided by d; divide by its square root"
    return "the shape is right, the numbers are not: softmax(q k^T / sqrt(d)) by rows, times v"


@checker
def position_code(function: Callable[..., Any]) -> str | None:
    count, dim = 9, 8
    answer = function(count, dim)
    if wrong := shape_of(answer, (count, dim)):
        return wrong
    place = torch.arange(count, dtype=torch.float64)[:, None]
    angle = place / 10_000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (9, 4)
    right = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
    if near(answer, right):
        return None
    if near(answer, torch.cat([angle.sin(), angle.cos()], dim=1)):
        return "sines stand in the first half, cosines in the second; here they alternate (2i and 2i + 1)"
    if near(answer, torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)):
        return "sines and cosines are exchanged: even coordinates are sines"
    one = place + 1
    shifted = one / 10_000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if near(answer, torch.stack([shifted.sin(), shifted.cos()], dim=2).flatten(1)):
        return "positions begin at 1; the first position is 0, so its code is 0, 1, 0, 1, ..."
    step = place / 10_000 ** (torch.arange(2, dim + 2, 2, dtype=torch.float64) / dim)
    if near(answer, torch.stack([step.sin(), step.cos()], dim=2).flatten(1)):
        return "the exponent begins at 2/d; of the first pair, i = 0, it is 0"
    double = place / 10_000 ** (2 * torch.arange(dim, dtype=torch.float64) / dim)
    even = torch.arange(dim) % 2 == 0
    if near(answer, torch.where(even, double.sin(), double.cos())):
        return "a sine and its cosine must share a frequency: i counts pairs, not coordinates"
    return "the shape is right, the numbers are not: sin(k / 10000^(2i/d)) at 2i, cos of the same at 2i + 1"


@checker
def field_of_view(function: Callable[..., Any]) -> str | None:
    cases = [([(3, 1)], 3), ([(3, 1)] * 7, 15), ([(3, 2)], 5), ([(5, 1), (3, 4)], 13), ([(1, 1)] * 3, 1)]
    for layers, right in cases:
        answer = function(layers)
        if answer is None or answer is ...:
            return "it gives nothing back yet; return the number of pixels a side"
        if answer == right:
            continue
        if answer == 1 + sum(kernel - 1 for kernel, _ in layers):
            return f"the dilation is forgotten: for {layers} expected {right}, got {answer}"
        if answer == sum(kernel for kernel, _ in layers):
            return (
                f"kernels do not add up, their reach beyond a pixel does: for {layers} expected {right}, got {answer}"
            )
        return f"for (kernel, dilation) = {layers} expected {right}, got {answer}"
    return None


@checker
def soft_split(function: Callable[..., Any]) -> str | None:
    image = torch.arange(2 * 3 * 6 * 9.0).reshape(2, 3, 6, 9)
    answer = function(image, 3, 2, 1)
    right = F.unfold(image, 3, stride=2, padding=1).transpose(1, 2)  # (2, 15, 27)
    if isinstance(answer, torch.Tensor) and answer.shape == right.transpose(1, 2).shape:
        return "tokens stand in the columns; they belong in the rows: (batch, tokens, numbers of a token)"
    if isinstance(answer, torch.Tensor) and answer.shape == F.unfold(image, 3, stride=2).transpose(1, 2).shape:
        return "the padding is forgotten: with zeros around, windows begin outside the map"
    if (
        isinstance(answer, torch.Tensor)
        and answer.shape == F.unfold(image, 3, stride=3, padding=1).transpose(1, 2).shape
    ):
        return "the windows do not overlap: they move by the stride, not by the kernel"
    if wrong := shape_of(answer, tuple(right.shape)):
        return wrong
    if near(answer, right):
        return None
    last = right.unflatten(2, (3, 9)).transpose(2, 3).flatten(2)
    if near(answer, last):
        return "the channel runs fastest; within a token it is the slowest, then row, then column"
    return "the shape is right, the numbers are not: window after window, row after row of windows"


@checker
def patchify(function: Callable[..., Any]) -> str | None:
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    answer = function(images, 2)
    right = F.unfold(images, 2, stride=2).transpose(1, 2)  # (2, 6, 12)
    if wrong := shape_of(answer, tuple(right.shape)):
        return wrong
    if near(answer, right):
        return None
    if near(answer.sort(dim=-1).values, right.sort(dim=-1).values):
        return "each token holds the right pixels in another order: channel slowest, then row, then column"
    if near(answer, images.reshape(2, 6, 12)):
        return "a reshape alone cuts across patches: split rows and columns into (patch, inside), then move axes"
    return "the shape is right, the patches are not: row after row of patches"


@checker
def quadratic_scores(function: Callable[..., Any]) -> str | None:
    """function(shift, alpha) gives the pattern (64, 64) on an 8x8 grid."""
    place = torch.stack([torch.arange(64) // 8, torch.arange(64) % 8], dim=1).double()
    for shift in ((0.0, 0.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 1.0)):
        towards = torch.tensor(shift).double()
        answer = function(towards, 2.0)
        if wrong := shape_of(answer, (64, 64)):
            return wrong
        relative = place[None, :] - place[:, None]

        def pattern(by: torch.Tensor, alpha: float, relative: torch.Tensor = relative) -> torch.Tensor:
            return (-alpha * (relative - by).square().sum(-1)).softmax(-1)

        if near(answer, pattern(towards, 2.0)):
            continue
        if near(answer, pattern(-towards, 2.0)):
            return "the head looks into the opposite direction: mind the sign of the middle term"
        if near(answer, pattern(towards / 2, 2.0)):
            return "the factor 2 of the middle term is missing"
        if near(answer, pattern(towards, -2.0)):
            return "the head looks at the farthest pixel: the score must fall with distance"
        return f"the pattern of the head that looks {shift} away is wrong: expected softmax of -alpha |d - shift|^2"
    return None


@checker
def causal_mask(function: Callable[..., Any]) -> str | None:
    answer = function(4)
    if wrong := shape_of(answer, (4, 4)):
        return wrong
    right = torch.ones(4, 4).tril().bool()
    if answer.dtype != torch.bool:
        return f"it gives numbers ({answer.dtype}); a mask is True where a word may look and False elsewhere"
    if torch.equal(answer, right):
        return None
    if torch.equal(answer, right.T):
        return "words look at what follows them: row i is the word that looks, column j the one it looks at"
    if torch.equal(answer, torch.ones(4, 4).tril(-1).bool()):
        return "a word may look at itself, too; else the first has nothing to look at"
    if torch.equal(answer, ~right):
        return "it is the wrong way round: True means that a word may look"
    return "row i must be True for the columns 0 to i"


@checker
def retrieval_precision(function: Callable[..., Any]) -> str | None:
    vectors = torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [5, 5], [5, 5.1], [0.15, 0.1]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    answer = function(vectors, labels, 2)
    if answer is None or answer is ...:
        return "it gives nothing back yet; return the share as a number"
    distance = torch.cdist(vectors, vectors)
    with_self = (labels[distance.topk(2, largest=False).indices] == labels[:, None]).float().mean()
    right = labels[distance.fill_diagonal_(torch.inf).topk(2, largest=False).indices] == labels[:, None]
    if abs(float(answer) - float(right.float().mean())) < 1e-4:
        return None
    if abs(float(answer) - float(with_self)) < 1e-4:
        return "each image is its own nearest neighbour, which is no merit: leave it out"
    return f"expected {float(right.float().mean()):.3f} on six points, got {float(answer):.3f}"


@checker
def soft_loss(function: Callable[..., Any]) -> str | None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(6, 5, generator=generator), 2 * torch.randn(6, 5, generator=generator)
    tau = 3.0
    answer = function(student, teacher, tau)
    if wrong := shape_of(answer, ()):
        return wrong

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:  # of logits
        return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1)

    right = tau**2 * kl(teacher / tau, student / tau).mean()
    if near(answer, right):
        return None
    if near(answer, right / tau**2):
        return "the factor tau^2 is missing: without it the gradients shrink as tau grows"
    if near(answer, tau**2 * kl(student / tau, teacher / tau).mean()):
        return "the two are exchanged: KL(teacher || student) asks the student to cover what the teacher holds possible"
    if near(answer, right / student.shape[1]):
        return "it is a mean over the classes, too; sum over classes, mean over the batch"
    if near(answer, right * len(student)):
        return "it is summed over the batch; take the mean"
    if near(answer, tau**2 * kl(teacher, student).mean()):
        return "the logits are not divided by tau"
    return "tau^2 times the mean over the batch of KL(softmax(teacher / tau) || softmax(student / tau)) is expected"


@checker
def mixup(function: Callable[..., Any]) -> str | None:
    images, targets = torch.arange(48.0).reshape(4, 3, 2, 2), torch.eye(4)
    answer = function(images, targets, 0.7)
    if answer is None or answer is ...:
        return "it gives nothing back yet; return the mixed images and the mixed targets"
    if not isinstance(answer, tuple) or len(answer) != 2:
        return "it must give two things: images and targets"
    mixed, soft = answer
    if wrong := shape_of(mixed, (4, 3, 2, 2)) or shape_of(soft, (4, 4)):
        return wrong
    if not near(mixed, 0.7 * images + 0.3 * images.flip(0)):
        if near(mixed, 0.3 * images + 0.7 * images.flip(0)):
            return "lambda is the share of the image itself, not of its partner"
        return "the images are not lambda x_i + (1 - lambda) x_j, with j the i-th from the end"
    if near(soft, targets):
        return "the images are mixed, their targets are not"
    if not near(soft, 0.7 * targets + 0.3 * targets.flip(0)):
        return "the targets are not mixed by the same share as the images"
    return None


@checker
def to_windows(function: Callable[..., Any]) -> str | None:
    tokens = torch.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    answer = function(tokens, 2)
    right = tokens.unfold(1, 2, 2).unfold(2, 2, 2).permute(0, 1, 2, 4, 5, 3).reshape(2, 6, 4, 3)
    if wrong := shape_of(answer, (2, 6, 4, 3)):
        return wrong
    if near(answer, right):
        return None
    if near(answer, tokens.reshape(2, 6, 4, 3)):
        return "a reshape alone makes windows of 1 x 4 tokens: split rows and columns, then move the axes"
    return "the shape is right, the windows are not: window after window, row after row, and so within a window"


@checker
def fourier_code(function: Callable[..., Any]) -> str | None:
    generator = torch.Generator().manual_seed(2)
    places, G = torch.rand(5, 2, generator=generator), torch.randn(2, 3, generator=generator)
    answer = function(places, G)
    if wrong := shape_of(answer, (5, 6)):
        return wrong

    def code(angles: torch.Tensor) -> torch.Tensor:
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    v = 2 * torch.pi * (2 * places - 1) @ G
    if near(answer, code(v)):
        return None
    if near(answer, code(2 * torch.pi * places @ G)):
        return "places must run from -1 to 1: it is 2c - 1 that meets G"
    if near(answer, code((2 * places - 1) @ G)):
        return "the factor 2 pi is missing"
    if near(answer, torch.cat([v.cos(), v.sin()], dim=1)):
        return "sines and cosines are exchanged: the sines come first"
    if near(answer, torch.stack([v.sin(), v.cos()], dim=2).flatten(1)):
        return "sines and cosines alternate; here all sines come first, then all cosines"
    return "the shape is right, the numbers are not: [sin v, cos v] with v = 2 pi (2c - 1) G"
