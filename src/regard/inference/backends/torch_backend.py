"""The model as it is, in float32 or bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from regard.inference.backends.contract import Answers
from regard.inference.precision import Precision
from regard.inference.rows import run_batch

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel


class TorchBackend:
    """torch, on the device where the model lies."""

    converted = ""

    def __init__(self, loaded: LoadedModel, precision: Precision, features: bool = False):
        self.name = f"torch {precision}"
        self._loaded = loaded
        self._precision: Precision = precision
        self._answers = Answers(loaded, features).eval()

    def run(self, pixels: Tensor) -> np.ndarray:
        """See `Backend`."""
        return run_batch(self._loaded, self._answers, pixels, self._precision)
