"""k nearest neighbours as the last layer of a model: labelled features in, logits out.

Votes are weighted as in "Emerging Properties in Self-Supervised Vision Transformers" (Caron et al. 2021, arXiv
2104.14294, appendix F.1): exp(cosine / temperature) of each of the k nearest.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.results import Problem

AT_ONCE = 2**26  # cosines held in memory, 256 MB


class Neighbours(nn.Module):
    """Features (B, D) -> (B, K) by the votes of the `k` nearest of N known features.

    A vote of the nearest counts 1. Where the votes are to be a probability p, one more vote is spread evenly, so that
    no answer is certain: of classes logits are log p, of labels log p / (1 - p). Numbers are the mean of the votes.
    """

    features: Tensor  # (N, D) of length 1
    labels: Tensor  # (N,) int64, or (N, K) float32 with NaN where unknown
    k: Tensor  # int64 scalar
    temperature: Tensor  # float32 scalar

    def __init__(
        self, features: Tensor, labels: Tensor, num_classes: int, problem: Problem, k: int, temperature: float
    ) -> None:
        super().__init__()
        self.num_classes, self.problem = num_classes, problem
        self.register_buffer("features", F.normalize(features, dim=1))
        self.register_buffer("labels", labels)
        self.register_buffer("k", torch.tensor(k))
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    @classmethod
    def like(cls, state: Mapping[str, Tensor], prefix: str, num_classes: int, problem: Problem) -> Neighbours:
        """The layer whose tensors stand under `prefix` in a state dict, with their shapes and values."""
        features, labels, k, temperature = (
            state[f"{prefix}.{name}"] for name in ("features", "labels", "k", "temperature")
        )
        return cls(features, labels, num_classes, problem, int(k), float(temperature))

    @property
    def in_features(self) -> int:
        """D."""
        return self.features.shape[1]

    @property
    def out_features(self) -> int:
        """K."""
        return self.num_classes

    def forward(self, x: Tensor) -> Tensor:
        return self.vote(*self.nearest(x, int(self.k)), float(self.temperature))

    def nearest(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(cosines, places among the N), each (B, k), the nearest first."""
        step = max(1, AT_ONCE // len(self.features))
        found = [
            (F.normalize(part, dim=1) @ self.features.T).topk(k, dim=1)  # (b, N) -> (b, k)
            for part in x.float().split(step)
        ]
        return torch.cat([cosines for cosines, _ in found]), torch.cat([places for _, places in found])

    def vote(self, cosines: Tensor, places: Tensor, temperature: float) -> Tensor:
        """(B, K) from the cosines and places (B, k) of neighbours, the nearest first."""
        votes = ((cosines - cosines[:, :1]).float() / temperature).exp()  # (B, k)
        labels = self.labels[places]  # (B, k), or (B, k, K)
        if self.problem == "single_label":
            counted = votes.new_zeros(len(votes), self.num_classes).scatter_add_(1, labels, votes)
            return ((counted + 1 / self.num_classes) / (votes.sum(dim=1, keepdim=True) + 1)).log()
        known = ~labels.isnan()
        total = (votes[..., None] * known).sum(dim=1)  # (B, K)
        counted = (votes[..., None] * labels.nan_to_num()).sum(dim=1)  # (B, K)
        if self.problem == "multi_label":
            return ((counted + 0.5) / (total - counted + 0.5)).log()
        overall = self.labels.nanmean(dim=0)  # where no neighbour knows
        return torch.where(total > 0, counted / total.clamp_min(1e-30), overall)
