"""The loop with a toy regression: it knows no task."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.state import States
from regard.training.step import step_seed

WEIGHTS = torch.tensor([[1.0, -2.0, 0.5]])


@dataclass
class Pairs:
    """A batch: it has a length and can be cut."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, places: np.ndarray) -> Pairs:
        return Pairs(self.inputs[places], self.targets[places])


def regression_batches(start: int) -> Iterator[Pairs]:
    """y = w x; batch number n is a function of n."""
    while True:
        generator = torch.Generator().manual_seed(start)
        inputs = torch.randn(16, 3, generator=generator)
        yield Pairs(inputs, inputs @ WEIGHTS.T)
        start += 1


def squared_error(model: nn.Module, batch: Pairs) -> Tensor:
    return nn.functional.mse_loss(model(batch.inputs), batch.targets)


def make(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, 1))


def optimiser_of(model: nn.Module, lr: float = 0.02) -> torch.optim.Optimizer:
    return make_optimiser("adamw", parameter_groups(model, lr, 0.0), lr)


def error_on_new_data(model: nn.Module) -> Iterator[tuple[str, float]]:
    yield "val/error", squared_error(model, next(regression_batches(10**6))).item()


def test_a_regression_goes_through_unchanged():
    model = make()
    rows, events = [], []
    plan = Plan(300, 16, warmup=10, evaluate_every=50, watch="val/error", lower_is_better=True)
    outcome = fit(
        model,
        regression_batches,
        squared_error,
        optimiser_of(model),
        plan,
        [error_on_new_data],
        on_row=rows.append,
        on_event=events.append,
    )
    assert [row["step"] for row in rows] == [50, 100, 150, 200, 250, 300]
    assert rows[-1]["val/error"] < 0.1 < rows[0]["val/error"]
    assert rows[-1]["images"] == 4800
    assert outcome.progress.best_value == min(row["val/error"] for row in rows)
    assert dict(error_on_new_data(model))["val/error"] == outcome.progress.best_value
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == 300
    assert steps[-1]["seconds_left"] == 0
    assert not model.training


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_accumulation_equals_the_whole_batch(parts: int):
    one, two = make(), make()
    sgd = [make_optimiser("sgd", parameter_groups(model, 0.05, 0.0), 0.05) for model in (one, two)]
    fit(one, regression_batches, squared_error, sgd[0], Plan(20, 16))
    fit(two, regression_batches, squared_error, sgd[1], Plan(20, 16, accumulation=parts))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_clipping_bounds_the_step():
    model, before = make(), make()
    optimiser = make_optimiser("sgd", parameter_groups(model, 1.0, 0.0), 1.0)
    fit(model, regression_batches, squared_error, optimiser, Plan(1, 16, clip_norm=1e-3))
    moved = math.sqrt(
        sum((a - b).pow(2).sum().item() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    )
    assert moved == pytest.approx(1.9e-3, rel=0.01)  # Nesterov's first step is 1 + 0.9 gradients


def test_patience_stops_and_the_best_weights_stay():
    values = iter([0.5, 0.7, 0.6, 0.7, 0.6, 0.6])
    model = make()
    outcome = fit(
        model,
        regression_batches,
        squared_error,
        optimiser_of(model),
        Plan(100, 16, evaluate_every=5, watch="score", patience=3),
        [lambda model: [("score", next(values))]],
    )
    assert outcome.stopped_early
    assert outcome.progress.step == 25  # 0.7 at 10, then three that do not rise
    assert outcome.progress.best_step == 20  # of two equal ones the later


def test_watching_what_no_evaluator_gives():
    model = make()
    with pytest.raises(RegardError, match=r"val/top1.*the rows hold"):
        fit(model, regression_batches, squared_error, optimiser_of(model), Plan(2, 16, watch="val/top1"))


def test_ema_is_what_is_evaluated_and_kept():
    model, seen = make(), []

    def evaluator(average: nn.Module) -> Iterator[tuple[str, float]]:
        seen.append(average[0].weight.detach().clone())
        yield "score", 1.0

    outcome = fit(
        model,
        regression_batches,
        squared_error,
        optimiser_of(model),
        Plan(40, 16, ema=0.9, watch="score"),
        [evaluator],
    )
    torch.testing.assert_close(seen[-1], outcome.weights["0.weight"])
    plain = make()
    fit(plain, regression_batches, squared_error, optimiser_of(plain), Plan(40, 16))
    assert not torch.equal(plain[0].weight, seen[-1])


@pytest.mark.parametrize("where", ["data", "loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_never_reaches_the_weights(where: str, value: float):
    bad = 7
    model = make()

    def batches(start: int) -> Iterator[Pairs]:
        for number, batch in enumerate(regression_batches(start), start):
            if number == bad and where == "data":
                batch.inputs[3, 1] = value
            yield batch

    calls = 0

    def loss(model: nn.Module, batch: Pairs) -> Tensor:
        nonlocal calls
        result = squared_error(model, batch)
        if calls == bad and where == "loss":
            result = result * value
        if calls == bad and where == "gradient":
            result.register_hook(lambda gradient: gradient * value)
        calls += 1
        return result

    with pytest.raises(RegardError, match=rf"^step {bad + 1}: the .*cat\.png, dog\.png"):
        fit(
            model,
            batches,
            loss,
            optimiser_of(model),
            Plan(20, 16, clip_norm=1.0),
            name_batch=lambda batch: "cat.png, dog.png",
        )
    reference = make()
    schedule_of_twenty = Plan(20, 16, clip_norm=1.0)

    class Enough(Exception):
        pass

    def until(event: dict) -> None:
        if event["event"] == "step" and event["step"] == bad:
            raise Enough

    with pytest.raises(Enough):
        fit(
            reference,
            regression_batches,
            squared_error,
            optimiser_of(reference),
            schedule_of_twenty,
            on_event=until,
        )
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_follows_seed_and_step_only():
    def weights(seed: int, disturb: bool) -> Tensor:
        model = make(dropout=0.5)

        def loss(model: nn.Module, batch: Pairs) -> Tensor:
            value = squared_error(model, batch)
            if disturb:
                torch.rand(7)
            return value

        fit(model, regression_batches, loss, optimiser_of(model), Plan(10, 16, seed=seed))
        return model[0].weight.detach().clone()

    assert torch.equal(weights(0, False), weights(0, True))
    assert not torch.equal(weights(0, False), weights(1, False))
    assert len({step_seed(seed, step) for seed in range(20) for step in range(500)}) == 10_000


def test_the_global_random_state_is_left_alone():
    model, optimiser = make(), None
    optimiser = optimiser_of(model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, regression_batches, squared_error, optimiser, Plan(3, 16))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("stop", range(1, 20))
def test_resume_after_every_step_gives_the_same_bits(tmp_path, monkeypatch, stop: int):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # speed: no power cut here

    class Killed(Exception):
        pass

    plan = Plan(
        20,
        32,
        warmup=4,
        accumulation=2,
        clip_norm=1.0,
        ema=0.95,
        evaluate_every=6,
        watch="val/error",
        lower_is_better=True,
        save_every=0,
    )

    def run(states: States | None, resume: bool, until: int) -> tuple[dict[str, Tensor], list[dict]]:
        model = make(seed=0, dropout=0.3)
        rows: list[dict] = []

        def listen(event: dict) -> None:
            if event["event"] == "step" and event["step"] == until:
                raise Killed

        outcome = fit(
            model,
            regression_batches,
            squared_error,
            optimiser_of(model),
            plan,
            [error_on_new_data],
            states,
            resume,
            on_event=listen,
            on_row=rows.append,
        )
        return outcome.weights, rows

    whole, whole_rows = run(None, False, -1)
    with pytest.raises(Killed):
        run(States(tmp_path), False, stop)
    resumed, rows = run(States(tmp_path), True, -1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    strip = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert strip(rows) == strip(whole_rows)[len(whole_rows) - len(rows) :]


def test_bfloat16_trains():
    model = make()
    outcome = fit(model, regression_batches, squared_error, optimiser_of(model), Plan(200, 16, precision="bf16"))
    assert dict(error_on_new_data(model))["val/error"] < 0.2
    assert all(value.dtype == torch.float32 for value in outcome.weights.values())


@pytest.mark.parametrize(("snapshots", "steps"), [(0, []), (1, [0]), (2, [0, 10]), (4, [0, 3, 7, 10])])
def test_snapshots_are_spread_over_the_run(snapshots: int, steps: list[int]):
    model, taken = make(), {}

    def keep(step: int, average: nn.Module) -> None:
        assert step not in taken
        taken[step] = average[0].weight.detach().clone()

    fit(
        model,
        regression_batches,
        squared_error,
        optimiser_of(model),
        Plan(10, 16, ema=0.9, evaluate_every=5, snapshots=snapshots),
        on_snapshot=keep,
    )
    assert list(taken) == steps
    if 0 in taken:
        assert torch.equal(taken[0], make()[0].weight)
    if 10 in taken:
        assert torch.equal(taken[10], model[0].weight)  # what is evaluated and kept: the average


def test_a_resumed_run_takes_the_snapshots_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    class Killed(Exception):
        pass

    def run(until: int, resume: bool) -> list[int]:
        model, taken = make(), []

        def listen(event: dict) -> None:
            if event["event"] == "step" and event["step"] == until:
                raise Killed

        with contextlib.suppress(Killed):
            fit(
                model,
                regression_batches,
                squared_error,
                optimiser_of(model),
                Plan(10, 16, snapshots=6, save_every=0),
                states=States(tmp_path),
                resume=resume,
                on_event=listen,
                on_snapshot=lambda step, model: taken.append(step),
            )
        return taken

    assert run(5, False) == [0, 2, 4]
    assert run(-1, True) == [4, 6, 8, 10]  # the state saved last is that of step 4, before its snapshot
