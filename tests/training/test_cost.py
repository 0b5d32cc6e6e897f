from __future__ import annotations

import torch
from torch import nn

from regard.training.cost import inference_speed, peak_memory_mb, reset_peak_memory
from regard.training.environment import environment


def test_the_peak_is_the_peak():
    reset_peak_memory()
    before = peak_memory_mb()
    block = torch.ones(150_000_000)  # 600 MB: memory that other tests gave back may hold a part of them
    del block
    assert 300 < peak_memory_mb() - before < 1000


def test_speed_is_measured_in_evaluation_mode():
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.batches: list[int] = []

        def forward(self, images):
            assert not self.training
            self.batches.append(len(images))
            return images.mean((1, 2, 3)) * self.weight

    model = Watched()
    speed, latency = inference_speed(model, 8, batch_size=4, seconds=0.01)
    assert speed > 0 < latency
    assert set(model.batches) == {4, 1}


def test_the_environment_names_versions_and_nobody():
    import getpass
    import json
    from pathlib import Path

    found = environment()
    assert torch.__version__.startswith(found["packages"]["torch"])
    text = json.dumps(found)
    assert str(Path.home()) not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text
