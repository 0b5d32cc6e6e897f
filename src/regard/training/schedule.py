"""Learning rate over the steps: linear warm-up, then half a cosine to zero (Loshchilov and Hutter 2017)."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor in (0, 1] of the highest learning rate at `step` (0-based) of `steps`.

    During the first `warmup` steps it is (step + 1) / warmup; afterwards 0.5 (1 + cos(pi p)), p running from
    0 to nearly 1, so that no step is spent at a rate of zero.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
