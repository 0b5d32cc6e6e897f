"""Row 23: running out of memory is survived with the same result, or explained."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from figures import record
from together import CLASSES, SIZE, Job, images, make, stream_of
from torch import Tensor, nn

from regard.data.loader import Batch
from regard.errors import RegardError
from regard.inference.loaded import fresh_model
from regard.inference.memory import InParts
from regard.inference.rows import predict_rows
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
    "std::bad_alloc",
)
WHERE = ("forward", "backward", "optimiser", "evaluation", "prediction")
STEPS = 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Full:
    """No memory for more than `room` images at a time, or (optimiser) in the call after `calls`."""

    def __init__(self, text: str, room: int = 10**6):
        self.text, self.room = text, room

    def __call__(self, count: int) -> None:
        if count > self.room:
            raise RuntimeError(self.text)


def train(where: str = "", full: Callable[[int], None] = lambda count: None, broken: int = -1) -> dict[str, Tensor]:
    """Final weights, and the evaluation's number."""
    job = Job("", batch_size=8)
    model = make(job)
    # AdamW divides by the gradient's size, so that the rounding of one near zero would move a weight by 1e-5.
    optimiser = make_optimiser("sgd", parameter_groups(model, 0.01, 0.05), 0.01)
    held_out = next(stream_of(Job("", batch_size=8, mixing=False)).once())
    numbers: list[float] = []
    real, calls = optimiser.step, itertools.count()

    def step() -> None:
        if where == "optimiser" and next(calls) == broken + 1:  # the first call makes the moments
            full(10**9)
        real()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        value = nn.functional.cross_entropy(model(batch.images), batch.targets)
        if where == "forward":
            full(len(batch))
        if where == "backward":
            value.register_hook(lambda gradient: full(len(batch)))
        return value

    def answers(images: Tensor) -> Tensor:
        if where == "evaluation":
            full(len(images))
        return model(images)

    def evaluator(model: nn.Module):
        numbers.append(InParts(answers)(held_out.images).double().sum().item())
        yield "val/sum", numbers[-1]

    optimiser.step = step  # type: ignore[method-assign]
    plan = Plan(STEPS, 8, clip_norm=1.0, evaluate_every=2)
    fit(model, stream_of(job).from_step, loss, optimiser, plan, [evaluator])
    return dict(model.state_dict()) | {f"evaluation {n}": torch.tensor(v) for n, v in enumerate(numbers)}


def predict(full: Callable[[int], None]) -> Tensor:
    loaded = fresh_model("vit_nano_patch4_32", [str(number) for number in range(CLASSES)], img_size=SIZE)
    real = loaded.model.forward

    def forward(images: Tensor) -> Tensor:
        full(len(images))
        return real(images)

    loaded.model.forward = forward
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in loaded.model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    data = images(20)
    rows = list(predict_rows(loaded, data.ids, data.sources, batch_size=8))
    return torch.from_numpy(np.stack([row.logits for row in rows if row.logits is not None]))


def survived(cases: list[tuple[str, str, int]]) -> int:
    whole, answers = train(), predict(lambda count: None)
    for where, text, room in cases:
        if where == "prediction":
            torch.testing.assert_close(predict(Full(text, room)), answers, atol=1e-6, rtol=0)
            continue
        found = train(where, Full(text, room), broken=room % STEPS)
        for name, value in whole.items():
            atol = 1e-5 if name.startswith("evaluation") else 1e-6
            torch.testing.assert_close(found[name], value, atol=atol, rtol=0)
    return len(cases)


def test_survived_everywhere():
    cases = [(where, SAID[number % len(SAID)], 3) for number, where in enumerate(WHERE)]
    count = survived(cases)
    record(23, "no memory in forward, backward, optimiser, evaluation, prediction", count, f"{count} of {count} go on")


@pytest.mark.long
def test_survived_30_times():
    count = survived(list(itertools.product(WHERE, SAID, (1, 5))))
    assert count == 30
    outcome = f"{count} of {count} go on with the same result (1e-6)"
    record(23, "no memory in forward, backward, optimiser, evaluation, prediction", count, outcome)


@pytest.mark.parametrize("where", ["forward", "evaluation"])
def test_explained_where_nothing_fits(where: str):
    with pytest.raises(RegardError, match=r"out of memory with one image at a time.*--img-size.*--model"):
        train(where, Full(SAID[0], 0))


REAL = """
import json, resource, sys
import torch
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups

torch.set_num_threads(1)
limited = sys.argv[1] == "limited"

def batches(start):
    while True:
        yield torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(start))
        start += 1

torch.manual_seed(0)
layers = [layer for _ in range(12) for layer in (torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.Tanh())]
layers = [torch.nn.Conv2d(3, 16, 3, padding=1), *layers, torch.nn.Flatten(), torch.nn.Linear(65536, 1)]
model = torch.nn.Sequential(*layers)

def loss(model, images):
    return model(images).square().mean()

def used():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))

loss(model, next(batches(0))[:2]).backward()  # what torch loads at its first step
model.zero_grad()
events = []
optimiser = make_optimiser("adamw", parameter_groups(model, 1e-3, 0.05), 1e-3)
if limited:
    resource.setrlimit(resource.RLIMIT_AS, (used() + 250 * 2**20, resource.RLIM_INFINITY))
fit(model, batches, loss, optimiser, Plan(2, 64), on_event=events.append)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
warnings = [event["text"] for event in events if event["event"] == "warning"]
print(json.dumps([warnings, [parameter.double().sum().item() for parameter in model.parameters()]]))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is set by what /proc says is used")
def test_a_real_limit_of_the_address_space():
    def run(word: str) -> tuple[list[str], list[float]]:
        done = subprocess.run(
            [sys.executable, "-c", REAL, word], capture_output=True, text=True, check=True, timeout=300
        )
        return tuple(json.loads(done.stdout.splitlines()[-1]))

    (none, whole), (warnings, tight) = run("free"), run("limited")
    assert none == []
    assert warnings and "out of memory" in warnings[0]
    assert tight == pytest.approx(whole, abs=1e-4)
    parts = warnings[-1].split(" parts")[0].rpartition(" ")[2]
    record(23, "a real limit of the address space (RLIMIT_AS)", 1, f"went on in {parts} parts with the same weights")
