"""Learning rate over the steps: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017), or one over
the root of the step (Vaswani et al. 2017, arXiv 1706.03762, section 5.3, after an author called "Noam").
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "inverse_root"]


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor in (0, 1] of the highest learning rate at `step` (0-based) of `steps`.

    During the first `warmup` steps it is (step + 1) / warmup; afterwards 0.5 (1 + cos(pi p)), p running from
    0 to nearly 1, so that no step is spent at a rate of zero.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def warmup_inverse_root(step: int, warmup: int) -> float:
    """Factor in (0, 1] of `noam_peak` at `step` (0-based): min(n / warmup, sqrt(warmup / n)) for n = step + 1."""
    number, warmup = step + 1, max(1, warmup)
    return min(number / warmup, math.sqrt(warmup / number))


def noam_peak(dim: int, warmup: int) -> float:
    """The highest learning rate for a model of width `dim`, reached at step `warmup`: 1 / sqrt(dim * warmup).

    Times `warmup_inverse_root` it is the paper's dim^-0.5 min(n^-0.5, n warmup^-1.5).
    """
    return 1 / math.sqrt(dim * warmup)


def rate(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """Factor in (0, 1] of the highest learning rate at `step` (0-based) of `steps`."""
    if schedule == "cosine":
        return warmup_cosine(step, steps, warmup)
    return warmup_inverse_root(step, warmup)
