"""Which figures there are, what each needs, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError
from regard.verbs.events import OnEvent
from regard.verbs.figure_images import Shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from regard.inference.loaded import LoadedModel
    from regard.reporting.pictures import Picture

GRADIENT_IMAGES = 8  # of these at most the figures that need many backward passes are made


@dataclass(frozen=True)
class Options:
    """What the caller of `figures` chose; see there."""

    layers: tuple[str, ...]
    against_layers: tuple[str, ...]
    feature: Any
    layer: int
    head: int
    patch: tuple[int, int] | None
    neighbours: int
    batch_size: int


@dataclass
class Job:
    """A call of `figures`, resolved. before: the model with the weights its training began with, where these are."""

    model: LoadedModel
    against: LoadedModel | None
    before: nn.Module | None
    shown: Shown
    options: Options
    named: tuple[str, ...]
    on_event: OnEvent

    def batches(self, title: str, most: int | None = None) -> Iterator[Tensor]:
        """The images as the model takes them; how far a figure is, is said."""
        total = min(most or len(self.shown), len(self.shown))
        done = 0
        for batch in self.shown.batches(self.model, self.options.batch_size, most):
            yield batch
            done += len(batch)
            self.on_event({"event": "progress", "title": title, "done": done, "total": total})

    @property
    def pair(self) -> dict[str, Any]:
        """The arguments of a figure of two models, where there is a second one."""
        names = (self.model.name, self.against.name if self.against else self.model.name)
        if names[0] == names[1] and self.against is not None:
            names = (names[0], f"{names[1]} (2)")
        given = {"names": names, "layers": self.options.layers}
        if self.against is None:
            return given
        return {**given, "against": self.against.model, "against_layers": self.options.against_layers}

    def others(self, most: int | None = None) -> dict[str, Any]:
        """The images of the second model, where there is one."""
        if self.against is None:
            return {}
        return {"against_batches": self.shown.batches(self.against, self.options.batch_size, most)}

    @property
    def colours(self) -> dict[str, Any]:
        """By which the images were normalised."""
        return {"mean": self.model.preprocess.mean, "std": self.model.preprocess.std}

    @cached_property
    def depth(self) -> int:
        """Layers of the model, and of the one beside it."""
        import torch

        from regard.analysis.layers import layers_of

        sides = [(self.model, self.options.layers), (self.against, self.options.against_layers)]
        return sum(
            len(layers_of(side.model, torch.zeros(1, 3, side.preprocess.size, side.preprocess.size), layers))
            for side, layers in sides
            if side is not None
        )


@dataclass(frozen=True)
class Entry:
    """One figure. fewest: images that it needs, 0 for none; most: images that are used at most.

    passes: what it costs for each image, in forward passes, or None where that is nothing. attention: it looks at
    attention, or at tokens that attention mixes.
    """

    name: str
    make: Callable[[Job], Picture]
    fewest: int = 1
    most: int | None = None
    passes: Callable[[Job], float] = lambda job: 1.0
    attention: bool = False

    def refusal(self, job: Job) -> str | None:
        """Why the figure cannot be drawn of what is given, as far as that is plain at once."""
        from regard.models.attending import attention_layers

        if self.attention and not attention_layers(job.model.model):
            return f"{job.model.name} has no attention among the tokens of an image"
        if self.fewest and not len(job.shown):
            return "it needs images"
        if len(job.shown) < self.fewest:
            return f"it needs {self.fewest} images or more, {len(job.shown)} given"
        return None


def _filters(job: Job) -> Picture:
    from regard.analysis.filters import filters

    return filters(job.model.model)


def _position_similarity(job: Job) -> Picture:
    from regard.analysis.position_similarity import position_similarity

    return position_similarity(job.model.model)


def _position_products(job: Job) -> Picture:
    from regard.analysis.position_similarity import position_products

    try:
        return position_products(job.model.model)
    except RegardError as error:
        if "position_products" in job.named:  # the textbook's: 50 tokens of 128 numbers
            return position_products()
        raise RegardError(f"{error}; asked for by name, it shows the sinusoidal code of 50 tokens") from None


def _qkv_channels(job: Job) -> Picture:
    from regard.analysis.qkv_channels import qkv_channels

    batches = job.batches("qkv_channels", 1)
    return qkv_channels(job.model.model, batches, layer=job.options.layer, head=job.options.head, **job.colours)


def _class_attention(job: Job) -> Picture:
    from regard.analysis.class_attention import class_attention

    batches = job.batches("class_attention", 1)
    return class_attention(job.model.model, batches, patch=job.options.patch, **job.colours)


def _attention_distance(job: Job) -> Picture:
    from regard.analysis.attention_distance import attention_distance

    return attention_distance(job.model.model, job.batches("attention_distance"))


def _attention_entropy(job: Job) -> Picture:
    from regard.analysis.attention_entropy import attention_entropy

    return attention_entropy(job.model.model, job.batches("attention_entropy"))


def _token_similarity(job: Job) -> Picture:
    from regard.analysis.token_similarity import token_similarity

    return token_similarity(job.model.model, job.batches("token_similarity"))


def _prediction_by_layer(job: Job) -> Picture:
    from regard.analysis.prediction_by_layer import prediction_by_layer

    if job.model.problem != "single_label":
        raise RegardError(f"{job.model.name} answers {job.model.problem}, which is no choice of one class by softmax")
    batches = job.batches("prediction_by_layer")
    return prediction_by_layer(job.model.model, batches, classes=job.model.classes, **job.colours)


def _high_norm_tokens(job: Job) -> Picture:
    from regard.analysis.high_norm_tokens import high_norm_tokens

    return high_norm_tokens(job.model.model, job.batches("high_norm_tokens"), **job.colours)


def _field_of_view(job: Job) -> Picture:
    from regard.analysis.field_of_view import field_of_view

    batches = job.batches("field_of_view", GRADIENT_IMAGES)
    return field_of_view(job.model.model, batches, **job.pair, **job.others(GRADIENT_IMAGES))


def _signal_by_depth(job: Job) -> Picture:
    from regard.analysis.signal_by_depth import signal_by_depth

    batches = job.batches("signal_by_depth", GRADIENT_IMAGES)
    return signal_by_depth(job.model.model, batches, **job.pair, **job.others(GRADIENT_IMAGES))


def _cka(job: Job) -> Picture:
    from regard.analysis.cka import cka

    return cka(job.model.model, job.batches("cka"), feature=job.options.feature, **job.pair, **job.others())


def _representation(job: Job) -> Picture:
    from regard.analysis.representation import representation

    shown = job.shown
    return representation(
        job.model.model,
        job.batches("representation"),
        embed=job.model.pooled,
        labels=shown.labels,
        neighbours=job.options.neighbours,
        ids=shown.ids,
        classes=shown.classes,
        **job.colours,
    )


def _before_after(job: Job) -> Picture:
    from regard.analysis.before_after import before_after

    if job.before is None:
        raise RegardError(
            f"before_after: of {job.model.name} the weights before its training are not at hand; "
            "give the run of `regard train --snapshots 2`, which keeps them"
        )
    return before_after(job.model.model, job.before, _Again(job), layers=job.options.layers)


class _Again:
    """The images of a job, as often as they are asked for."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __iter__(self) -> Iterator[Tensor]:
        return self.job.batches("before_after")


FIGURES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("filters", _filters, fewest=0),
        Entry("position_similarity", _position_similarity, fewest=0),
        Entry("position_products", _position_products, fewest=0),
        Entry("qkv_channels", _qkv_channels, most=1, attention=True),
        Entry("class_attention", _class_attention, most=1, attention=True),
        Entry("attention_distance", _attention_distance, attention=True),
        Entry("attention_entropy", _attention_entropy, attention=True),
        Entry("token_similarity", _token_similarity, attention=True),
        Entry("prediction_by_layer", _prediction_by_layer, attention=True),
        Entry("high_norm_tokens", _high_norm_tokens, attention=True),
        Entry("field_of_view", _field_of_view, most=GRADIENT_IMAGES, passes=lambda job: 1 + 2 * job.depth),
        Entry("cka", _cka, fewest=4, passes=lambda job: 2.0 if job.against else 1.0),
        Entry(
            "signal_by_depth", _signal_by_depth, most=GRADIENT_IMAGES, passes=lambda job: 18.0 if job.against else 9.0
        ),
        Entry("representation", _representation, fewest=3),
        Entry("before_after", _before_after, fewest=0, passes=lambda job: 4.0 if job.before else 0.0),
    )
}
