"""What a model costs, measured: memory, inference speed, arithmetic."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn


def reset_peak_memory() -> None:
    """Let the peak of the resident set begin at what is resident now (Linux; elsewhere it counts from the
    process's start).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float:
    """Largest resident set in MB since `reset_peak_memory`."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage / 1e6 if sys.platform == "darwin" else usage * 1024 / 1e6


@torch.inference_mode()
def inference_speed(model: nn.Module, img_size: int, batch_size: int = 32, seconds: float = 1.0) -> tuple[float, float]:
    """(images per second in batches, milliseconds for one image) in float32: medians of calls during
    `seconds` each.
    """
    model.eval()
    device = next(model.parameters()).device
    batch = _median_seconds(model, torch.zeros(batch_size, 3, img_size, img_size, device=device), seconds)
    single = _median_seconds(model, torch.zeros(1, 3, img_size, img_size, device=device), seconds)
    return batch_size / batch, 1000 * single


def _median_seconds(model: nn.Module, images: torch.Tensor, seconds: float) -> float:
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 2 or (time.perf_counter() - began < seconds and len(taken) < 50):
        start = time.perf_counter()
        model(images)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
