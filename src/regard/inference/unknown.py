"""How well a photo fits what a run was trained on: the score by which unknown photos are told from known ones.

`distance`: minus the Euclidean distance of the photo's pooled features, brought to length 1, to the k-th nearest
training photo (Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", section 3). Chosen before
the (relative) Mahalanobis distance because it assumes no shape of the classes and no covariance, which a few hundred
photos of several hundred features cannot give. k is a thousandth of the training photos, as in the paper's CIFAR and
ImageNet experiments, but at least 5 (one mislabelled neighbour must not decide) and at most 50.
`probability`: the largest probability of the answer (Hendrycks and Gimpel 2017); of several labels, of one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from regard.errors import RegardError
from regard.runs.atomic import write_atomic
from regard.weights import read_state, save_state

Kind = Literal["distance", "probability"]
TENSORS, FACTS = "unknown.safetensors", "unknown.json"
AT_ONCE = 2**24  # similarities held in memory, 64 MB
FEWEST, MOST, SHARE = 5, 50, 1000


def neighbour(count: int) -> int:
    """Which of `count` training photos, by nearness, is measured to."""
    return min(count, max(FEWEST, min(MOST, round(count / SHARE))))


def unit(features: np.ndarray) -> np.ndarray:
    """(N, D) float32 of length 1; a row of zeros stays."""
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class UnknownScore:
    """The score that tells unknown photos best in one run, higher for photos that look more known.

    kind: which of the two; threshold: 95% of the validation photos score at least this; a photo below it is unknown;
    bank: (N, D) float32 features of training photos, of length 1.
    """

    kind: Kind
    threshold: float
    bank: np.ndarray

    def score(self, pooled: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """(B,) float64 from the features that the head multiplies (B, D) and the probabilities (B, K)."""
        return likelihood(probabilities) if self.kind == "probability" else nearness(self.bank, pooled)

    def save(self, folder: Path, facts: dict) -> None:
        """Write both files into a run folder; facts: what else unknown.json shall say. Raises RegardError."""
        try:
            save_state(folder / TENSORS, {"bank": torch.from_numpy(self.bank)})
            text = json.dumps({"score": self.kind, "threshold": self.threshold, **facts}, indent=1)
            write_atomic(folder / FACTS, text + "\n")
        except OSError as error:
            raise RegardError(f"{folder / FACTS}: cannot be written ({error.strerror or error}); make room") from None

    @classmethod
    def load(cls, folder: str | Path) -> UnknownScore | None:
        """The score of a run, None where it was given no unknown photos. Raises RegardError where it is damaged."""
        path = Path(folder) / FACTS
        if not path.is_file():
            return None
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            kind, threshold = facts["score"], float(facts["threshold"])
            if kind not in ("distance", "probability"):
                raise ValueError(f"score {kind!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegardError(
                f"{path}: damaged ({error}); train with --unknown again, or delete it to go without"
            ) from None
        return cls(kind, threshold, read_state(Path(folder) / TENSORS)["bank"].numpy())


def nearness(bank: np.ndarray, pooled: np.ndarray) -> np.ndarray:
    """(B,) float64: minus the distance (0 to 2) of each (B, D) to the k-th nearest row of the bank."""
    features, k = unit(pooled), neighbour(len(bank))
    found = []
    step = max(1, AT_ONCE // len(bank))
    for start in range(0, len(features), step):
        cosines = features[start : start + step] @ bank.T  # (b, N)
        found.append(np.partition(cosines, len(bank) - k, axis=1)[:, len(bank) - k])
    cosine = np.concatenate(found).astype(np.float64) if found else np.empty(0)
    return -np.sqrt(np.maximum(2 - 2 * cosine, 0))


def likelihood(probabilities: np.ndarray) -> np.ndarray:
    """(B,) float64: the largest of each row of probabilities (B, K)."""
    return np.asarray(probabilities, np.float64).max(axis=1)
