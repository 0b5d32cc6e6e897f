"""Row 20: what is not finite never reaches the weights, and is named: step, rank, images, layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from figures import record
from together import Job, final_state, progress, said
from torch import Tensor, nn

from regard.data.loader import Batch
from regard.training.loop import Plan, fit
from regard.training.nonfinite import NotFinite, keep_batch
from regard.training.optimiser import make_optimiser, parameter_groups

PLACES = ("pixels", "loss", "activation", "gradient")
STEPS = 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Gate(nn.Module):
    """Lets everything through, or puts `value` into the first number of what flows forwards or backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.value: float | None = None
        self.backwards = False

    def forward(self, x: Tensor) -> Tensor:
        if self.value is None:
            return x
        x = x.clone()
        if self.backwards:
            value = self.value
            x.register_hook(lambda gradient: torch.full_like(gradient, value))
        else:
            x.view(-1)[0] = self.value
        return x


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Gate(), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 2)
    )


def train(model: nn.Sequential, where: str, value: float, step: int, path: Path | None, parts: int) -> list[dict]:
    """Weights, buffers and moments after each step; NotFinite at the step that is spoilt."""
    states: list[dict[str, Tensor]] = []
    gate = model[2]
    assert isinstance(gate, Gate)

    def batches(start: int) -> Iterator[Batch]:
        for number in itertools.count(start):
            images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(number))
            if path and number == step and where == "pixels":
                images[5, 1, 2, 3] = value
            if path and number == step and where in ("activation", "gradient"):
                gate.value, gate.backwards = value, where == "gradient"
            yield Batch(images, torch.zeros(8, dtype=torch.int64), np.arange(8) + 8 * number)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        result = nn.functional.cross_entropy(model(batch.images), batch.targets)
        return result * value if path and where == "loss" and batch.rows[0] // 8 == step else result

    optimiser = make_optimiser("adamw", parameter_groups(model, 0.01, 0.05), 0.01)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            moments = [value for kept in optimiser.state.values() for value in kept.values()]
            named = {f"moment {number}": value.clone() for number, value in enumerate(moments)}
            states.append({name: value.clone() for name, value in model.state_dict().items()} | named)

    def name_batch(batch: Batch) -> str:
        return ", ".join(f"{row}.jpg" for row in batch.rows)

    def keep(batch: Batch) -> Path:
        assert path is not None
        return keep_batch(path, batch, [f"{row}.jpg" for row in batch.rows])

    try:
        fit(
            model,
            batches,
            loss,
            optimiser,
            Plan(STEPS, 8, accumulation=parts, clip_norm=1.0),
            on_event=listen,
            name_batch=name_batch,
            keep_batch=keep,
        )
    except NotFinite as error:
        moments = [value for kept in optimiser.state.values() for value in kept.values()]
        named = {f"moment {number}": value for number, value in enumerate(moments)}
        states.append({"now": dict(model.state_dict()) | named, "line": str(error)})  # pyright: ignore
    return states


def injected(tmp_path: Path, cases: list[tuple[str, float, int, int]]) -> int:
    clean = {parts: train(make(), "", 0.0, -1, None, parts) for parts in {case[3] for case in cases}}
    for number, (where, value, step, parts) in enumerate(cases):
        path = tmp_path / f"{number}.safetensors"
        *_, last = train(make(), where, value, step, path, parts)
        line, now = last["line"], last["now"]
        assert line.startswith(f"step {step + 1}: the ")
        assert f"{8 * step}.jpg" in line and f"({path})" in line
        layer = {"pixels": "already in the input of 0", "activation": "first in the output of 2", "loss": ""}
        assert layer.get(where, "first in the gradient of 1.bias") in line
        before = clean[parts][step - 1] if step else None
        if before is not None:
            assert now.keys() == before.keys()
            assert all(torch.equal(now[name], before[name]) for name in now)
        assert path.is_file()
    return len(cases)


VALUES = (math.nan, math.inf)


def test_injected(tmp_path):
    cases = [(where, value, 3, 1 + (where == "loss")) for where, value in zip(PLACES, VALUES * 2, strict=True)]
    count = injected(tmp_path, cases)
    record(20, "NaN or Inf in pixels, loss, activation, gradient", count, f"{count} of {count} stopped before the step")


@pytest.mark.long
def test_injected_40_times(tmp_path):
    cases = list(itertools.product(PLACES, VALUES, (1, 2, 4, 5, 7), (1,)))
    count = injected(tmp_path, cases)
    assert count == 40
    record(20, "NaN or Inf in pixels, loss, activation, gradient", count, f"{count} of {count} stopped before the step")


def test_in_one_process_of_two(together, tmp_path):
    fault = {"kind": "nan", "rank": 1, "step": 3}
    ended = together.train(Job(str(tmp_path / "bad"), fault=fault, save_every=0))
    assert 2 in ended["codes"]
    assert ended["reason"].startswith("rank 1: step 4: the loss is nan")
    assert "photo-" in ended["reason"]
    assert said(tmp_path / "bad") == [f"regard: {ended['reason']}"]
    assert progress(tmp_path / "bad")["step"] == 3
    together.train(Job(str(tmp_path / "three"), fault={"kind": "kill", "rank": 0, "step": 3}, save_every=0))
    one, other = final_state(tmp_path / "bad"), final_state(tmp_path / "three")
    assert all(torch.equal(one[name], other[name]) for name in other)
    record(20, "NaN in one process of two", 1, "all stopped before the step, its rank and images named")
