"""Sequences for the one loop: a batch that can be cut, and the loss of a model of the task "seq2seq"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from regard.models.sequences import Symbols


@dataclass
class SequenceBatch:
    """Sources (B, ...) as the model's `encode` takes them; targets (B, T), each with its end symbol, then padding."""

    source: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, places: np.ndarray) -> SequenceBatch:
        return SequenceBatch(self.source[places], self.target[places])


def sequence_loss(
    smoothing: float = 0.0, symbols: Symbols | None = None
) -> Callable[[nn.Module, SequenceBatch], Tensor]:
    """The loss of `fit`: cross-entropy of each word given the true words before it, a mean over the words of a
    sequence, end symbol included, and then over sequences, so that parts of a batch add up to the whole.

    smoothing: probability that the target spreads evenly over the vocabulary, in [0, 1) (Szegedy et al. 2015,
    arXiv 1512.00567, section 7; the Transformer paper: 0.1). symbols: of the vocabulary, `Symbols()` where None.
    """
    pad, start, _ = symbols or Symbols()

    def loss(model: nn.Module, batch: SequenceBatch) -> Tensor:
        given = F.pad(batch.target[:, :-1], (1, 0), value=start)  # (B, T): what stands before each word
        scores = model(batch.source, given)  # (B, T, V)
        losses = F.cross_entropy(
            scores.transpose(1, 2), batch.target, ignore_index=pad, reduction="none", label_smoothing=smoothing
        )
        return (losses.sum(1) / (batch.target != pad).sum(1)).mean()

    return loss
