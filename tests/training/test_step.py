"""One step: out of memory, what is not finite, and an optimiser that has its memory before it needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from regard.data.loader import Batch
from regard.errors import RegardError
from regard.training.loop import Plan, fit
from regard.training.nonfinite import NotFinite, first_bad_layer, keep_batch
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.state import States
from regard.training.step import allocate


@dataclass
class Images:
    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, places: np.ndarray) -> Images:
        return Images(self.values[places])


def batches(start: int) -> Iterator[Images]:
    while True:
        yield Images(torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(start)))
        start += 1


def make(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    normed: nn.Module = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(3, 4, 3), normed, nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))


def brightness(model: nn.Module, batch: Images) -> Tensor:
    return nn.functional.mse_loss(model(batch.values).squeeze(1), batch.values.mean((1, 2, 3)))


def optimiser_of(model: nn.Module, name: str = "adamw") -> torch.optim.Optimizer:
    return make_optimiser(name, parameter_groups(model, 0.01, 0.05), 0.01)


def no_room(*_: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Tight:
    """A loss with room for so many images, and none where `full` says so."""

    def __init__(self, room: int = 10**6, where: str = "forward"):
        self.room, self.where, self.sizes = room, where, []

    def __call__(self, model: nn.Module, batch: Images) -> Tensor:
        self.sizes.append(len(batch))
        value = brightness(model, batch)
        if len(batch) > self.room:
            if self.where == "forward":
                no_room()
            value.register_hook(no_room)
        return value


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("room", [1, 5, 6])
def test_smaller_parts_give_the_same_result(where: str, room: int, tmp_path):
    whole, tight, events = make(), make(), []
    fit(whole, batches, brightness, optimiser_of(whole), Plan(8, 12))
    loss = Tight(room, where)
    states = States(tmp_path)
    outcome = fit(tight, batches, loss, optimiser_of(tight), Plan(8, 12), states=states, on_event=events.append)
    for a, b in zip(whole.parameters(), tight.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    expected = [2, 4, 8, 12][: 4 if room == 1 else 2 if room == 5 else 1]
    assert [int(text.split(" parts")[0].rpartition(" ")[2]) for text in warnings] == expected
    assert all("step 1: out of memory; the 12 images" in text for text in warnings)
    assert outcome.progress.parts == expected[-1]
    # A resumed run begins with the parts that fitted.
    loss.sizes.clear()
    fit(tight, batches, loss, optimiser_of(tight), Plan(9, 12), states=states, resume=True)
    assert max(loss.sizes) <= room


def test_buffers_are_set_back(monkeypatch):
    """Batch norm has seen the batch once, however often the step was begun."""
    model, calls = make(norm=True), iter([True, True, False])

    def loss(model: nn.Module, batch: Images) -> Tensor:
        value = brightness(model, batch)
        return value if not next(calls, False) else no_room()

    fit(model, batches, loss, optimiser_of(model), Plan(1, 12))
    assert model[1].num_batches_tracked.item() == 4  # the parts of the attempt that went through


def test_memory_for_the_optimiser(monkeypatch):
    whole, tight = make(), make()
    fit(whole, batches, brightness, optimiser_of(whole), Plan(5, 12))
    optimiser = optimiser_of(tight)
    real, calls = optimiser.step, iter([False, False, False, True])  # the first prepares the moments
    monkeypatch.setattr(optimiser, "step", lambda: no_room() if next(calls, False) else real())
    fit(tight, batches, brightness, optimiser, Plan(5, 12))
    for a, b in zip(whole.parameters(), tight.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_an_optimiser_that_fails_after_it_changed_weights_is_not_run_again(monkeypatch):
    model = make()
    optimiser = optimiser_of(model)
    real, calls = optimiser.step, iter([False, False, True])

    def step() -> None:
        real()
        if next(calls, False):
            no_room()

    monkeypatch.setattr(optimiser, "step", step)
    with pytest.raises(RegardError, match=r"step 2: out of memory in the optimiser; use --resume"):
        fit(model, batches, brightness, optimiser, Plan(5, 12))


def test_no_room_for_a_single_image_or_for_the_moments(monkeypatch):
    model = make()
    with pytest.raises(RegardError, match=r"step 1: out of memory with one image at a time.*--img-size"):
        fit(model, batches, Tight(0), optimiser_of(model), Plan(2, 12))
    optimiser = optimiser_of(model)
    monkeypatch.setattr(optimiser, "step", no_room)
    with pytest.raises(RegardError, match=r"optimiser's state.*--optimiser sgd"):
        fit(model, batches, brightness, optimiser, Plan(2, 12))


def test_no_memory_while_reading_is_not_helped_by_smaller_parts():
    def reading(start: int) -> Iterator[Images]:
        raise MemoryError
        yield  # makes it a generator

    model = make()
    with pytest.raises(RegardError, match=r"step 1: out of memory while reading.*--batch-size"):
        fit(model, reading, brightness, optimiser_of(model), Plan(2, 12))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_moments_made_beforehand_change_nothing(name: str):
    def train(beforehand: bool) -> list[Tensor]:
        model = make()
        optimiser = optimiser_of(model, name)
        if beforehand:
            allocate(optimiser)
            assert all(state for state in optimiser.state.values())
        for batch in [next(batches(number)) for number in range(3)]:
            brightness(model, batch).backward()
            optimiser.step()
            optimiser.zero_grad()
        return list(model.parameters())

    for a, b in zip(train(False), train(True), strict=True):
        assert torch.equal(a, b)


class Poison(nn.Module):
    """Puts a value into one place of what flows, or of the gradient that flows back."""

    def __init__(self, value: float, backwards: bool = False):
        super().__init__()
        self.value, self.backwards = value, backwards

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        if self.backwards:
            x.register_hook(lambda gradient: gradient * self.value)
        else:
            x[0, 0] = self.value
        return x


def poisoned(value: float, backwards: bool = False) -> nn.Module:
    model = make()
    return nn.Sequential(model[0], Poison(value, backwards), *model[2:])


@pytest.mark.parametrize(
    ("model", "change", "layer"),
    [
        (make, lambda x: x.index_fill(0, torch.tensor([3]), float("nan")), "already in the input of 0"),
        (lambda: poisoned(float("inf")), lambda x: x, "first in the output of 1"),
        (lambda: poisoned(float("nan"), True), lambda x: x, "first in the gradient of 0.bias"),
    ],
)
def test_the_layer_is_named(model: Callable[[], nn.Module], change: Callable[[Tensor], Tensor], layer: str):
    trained = model()

    def changed(start: int) -> Iterator[Images]:
        return (Images(change(batch.values)) for batch in batches(start))

    with pytest.raises(NotFinite, match=rf"^step 1: the (loss|gradient's norm) is \w+, {layer}, stopped before"):
        fit(trained, changed, brightness, optimiser_of(trained), Plan(2, 12))


def test_looking_for_the_layer_leaves_no_hooks():
    model = make()
    assert first_bad_layer(model, lambda: model(torch.zeros(1, 3, 8, 8))) == ""
    assert not any(module._forward_hooks for module in model.modules())


def test_the_batch_is_kept(tmp_path: Path):
    model, rows = make(), np.arange(12)

    def labelled(start: int) -> Iterator[Batch]:
        images = torch.randn(12, 3, 8, 8)
        images[5] = float("nan")
        return repeat(Batch(images, torch.zeros(12), rows))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch.images).mean()

    path = tmp_path / "bad_batch.safetensors"
    with pytest.raises(NotFinite, match=r"bad_batch\.safetensors\): a, b"):
        fit(
            model,
            labelled,
            loss,
            optimiser_of(model),
            Plan(2, 12),
            name_batch=lambda batch: "a, b",
            keep_batch=lambda batch: keep_batch(path, batch, [f"{row}.png" for row in batch.rows]),
        )
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["ids"])[5] == "5.png"
        assert file.get_tensor("images")[5].isnan().all()
        assert file.get_tensor("rows").tolist() == rows.tolist()
