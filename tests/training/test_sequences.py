from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.models import create_model
from regard.models.sequences import Symbols
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.schedule import noam_peak
from regard.training.sequences import SequenceBatch, sequence_loss


class Constant(nn.Module):
    """Gives the scores (B, T, V) that it was told, and keeps what it was given."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        self.given = target
        return self.scores[: len(target)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_words_and_then_over_sequences(smoothing: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 5)
    target = torch.tensor([[4, 3, 2], [3, 2, 0]])
    model = Constant(scores)
    loss = sequence_loss(smoothing)(model, SequenceBatch(torch.zeros(2, 1), target))
    assert model.given.tolist() == [[1, 4, 3], [1, 3, 2]]
    log_p = scores.log_softmax(2)
    rows = []
    for row, length in enumerate((3, 2)):
        words = []
        for place in range(length):
            wanted = torch.full((5,), smoothing / 5)
            wanted[target[row, place]] += 1 - smoothing
            words.append(-(wanted * log_p[row, place]).sum().item())
        rows.append(sum(words) / length)
    assert loss.item() == pytest.approx(sum(rows) / 2, rel=1e-6)


def test_other_symbols_and_parts_of_a_batch() -> None:
    torch.manual_seed(0)
    batch = SequenceBatch(torch.zeros(4, 1), torch.randint(1, 4, (4, 3)))
    batch.target[1, 2:] = 4
    loss = sequence_loss(0.1, Symbols(pad=4, start=4, end=0))
    model = Constant(torch.randn(4, 3, 5))
    whole = loss(model, batch)
    assert (model.given[:, 0] == 4).all()
    part = batch[np.array([1, 3])]
    assert len(part) == 2 and torch.equal(part.target, batch.target[[1, 3]])
    scores, sums = model.scores, []
    for row in range(4):
        model.scores = scores[row : row + 1]
        sums.append(loss(model, batch[np.array([row])]))
    assert whole.item() == pytest.approx(sum(sums).item() / 4, rel=1e-6)  # pyright: ignore[reportAttributeAccessIssue]


def reversing(start: int) -> Iterator[SequenceBatch]:
    """Three words, to be written backwards."""
    while True:
        words = torch.randint(3, 8, (32, 3), generator=torch.Generator().manual_seed(start))
        target = torch.cat([words.flip(1), torch.full((32, 1), 2)], dim=1)
        yield SequenceBatch(words, target)
        start += 1


def test_sequences_go_through_the_one_loop_with_the_papers_schedule() -> None:
    torch.manual_seed(0)
    model = create_model("transformer_tiny", 8)
    lr, rates, losses = noam_peak(64, 20), [], []

    def note(event: dict) -> None:
        if event["event"] == "step":
            rates.append(event["lr"])
            losses.append(event["loss"])

    fit(
        model,
        reversing,
        sequence_loss(0.1),
        make_optimiser("adam", parameter_groups(model, lr, 0.0), lr),
        Plan(40, 32, warmup=20, schedule="inverse_root"),
        on_event=note,
    )
    for step in range(1, 41):
        assert rates[step - 1] == pytest.approx(64**-0.5 * min(step**-0.5, step * 20**-1.5))
    floor = -(0.9125 * math.log(0.9125) + 7 * 0.0125 * math.log(0.0125))  # entropy of the smoothed words
    assert losses[0] > 1.8 and floor < losses[-1] < 0.8 * losses[0]


def test_accumulated_parts_add_up_to_the_whole_batch() -> None:
    def trained(parts: int) -> nn.Module:
        torch.manual_seed(0)
        model = create_model("gru_attention_tiny", 8)
        optimiser = make_optimiser("sgd", parameter_groups(model, 0.1, 0.0), 0.1)
        fit(model, reversing, sequence_loss(0.1), optimiser, Plan(3, 32, accumulation=parts))
        return model

    for a, b in zip(trained(1).parameters(), trained(4).parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
