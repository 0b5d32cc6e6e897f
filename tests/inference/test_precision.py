from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.inference.precision import WORTH_MEASURING, choose_precision


class Paced(nn.Module):
    """Takes a set time in each precision."""

    def __init__(self, fp32: float, bf16: float):
        super().__init__()
        self.fp32, self.bf16 = fp32, bf16
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        time.sleep(self.bf16 if torch.is_autocast_enabled("cpu") else self.fp32)
        return x.sum(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(0.05, 0.02, "bf16"), (0.02, 0.05, "fp32"), (0.05, 0.05, "fp32")])
def test_the_faster_precision_is_chosen(fp32: float, bf16: float, chosen: str) -> None:
    assert choose_precision(Paced(fp32, bf16), 8, 1000) == chosen


def test_little_work_is_not_measured() -> None:
    model = Paced(0.0, 0.0)
    assert choose_precision(model, 8, WORTH_MEASURING - 1) == "fp32"
    assert model.calls == 0


def test_a_named_precision_is_not_measured() -> None:
    model = Paced(0.0, 0.0)
    assert choose_precision(model, 8, 10_000, "bf16") == "bf16"
    assert model.calls == 0
    with pytest.raises(RegardError, match="expected auto, fp32 or bf16"):
        choose_precision(model, 8, 10, "fp16")  # type: ignore[arg-type]  # what a user may type


def test_the_mode_of_the_model_is_kept() -> None:
    model = Paced(0.0, 0.0).train()
    choose_precision(model, 8, 200)
    assert model.training
