"""Whether a file says what the model says of real photos, and the line that refuses it where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regard.data.decoding import ImageSource
from regard.errors import RegardError

LARGEST = 1e-4  # of max |difference| / max |answer of the model|, float32 in every engine


@dataclass(frozen=True)
class Agreement:
    """The largest difference of one output of a file in one engine, as a share of the largest answer of the model."""

    file: str
    engine: str
    output: str
    difference: float


class Differences:
    """Collects, for one file in one engine, the largest difference of each output."""

    def __init__(self, file: str, engine: str) -> None:
        self.file, self.engine = file, engine
        self._found: dict[str, float] = {}

    def add(self, answers: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
        """Raises RegardError where a shape or a number is not what the model gives."""
        for output, answer in answers.items():
            if answer.shape != wanted[output].shape:
                raise self._refuse(f"{output} has shape {answer.shape}, the model's {wanted[output].shape}")
            largest = float(np.abs(wanted[output]).max(initial=1e-30))
            difference = float(np.abs(answer - wanted[output]).max(initial=0.0)) / largest
            if not difference <= LARGEST:  # NaN too
                raise self._refuse(
                    f"{output} differs by {difference:.1e} of the largest, at most {LARGEST:.0e} is allowed"
                )
            self._found[output] = max(difference, self._found.get(output, 0.0))

    def agreements(self) -> tuple[Agreement, ...]:
        """One for each output."""
        return tuple(Agreement(self.file, self.engine, output, found) for output, found in self._found.items())

    def _refuse(self, found: str) -> RegardError:
        return RegardError(f"{self.file}: says something else in {self.engine}: {found}; nothing is left of the export")


def photos_to_check(given: tuple[Path, ...]) -> list[ImageSource]:
    """The user's, or the two that scikit-learn carries (640 x 427)."""
    if given:
        return list(given)
    from sklearn.datasets import load_sample_images

    return [np.asarray(image) for image in load_sample_images().images]
