from __future__ import annotations

import sys

import pytest

from regard.errors import RegardError
from regard.training.tracking import tensorboard


def events() -> list[dict]:
    return [
        {"event": "note", "text": "hello"},
        {"event": "step", "step": 1, "steps": 2, "loss": 0.5, "lr": 0.1, "images_per_second": 10.0, "seconds_left": 1},
        {"event": "evaluation", "step": 2, "steps": 2, "loss": 0.25, "val/top1": 0.75, "images": 8, "lr": 0.1},
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_numbers_arrive(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard(tmp_path) as listen:
        for event in events():
            listen(event)
    found = reading.EventAccumulator(str(tmp_path))
    found.Reload()
    titles = {"train/loss", "train/lr", "train/images_per_second", "train/images", "val/top1"}
    assert set(found.Tags()["scalars"]) == titles
    assert [(point.step, point.value) for point in found.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(point.step, point.value) for point in found.Scalars("val/top1")] == [(2, 0.75)]


def test_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(RegardError, match=r"--track tensorboard: not installed.*regard\[track\]"),
        tensorboard(tmp_path),
    ):
        pass
