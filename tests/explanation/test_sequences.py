"""Relevance and attention of the encoder-decoder Transformer against loops over words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from plain_attention import Matrix, eye, plus, times
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.sequences import Which, sequence_attention, sequence_relevance
from regard.models.transformer import Transformer
from regard.taps import edit, record

SOURCE = torch.tensor([[3, 4, 5, 6, 7], [8, 7, 2, 0, 0]])  # the second is padded
TARGET = torch.tensor([[1, 6, 3, 4], [1, 5, 8, 2]])


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    transformer = Transformer(9, dim=12, depth=2, num_heads=3, hidden_dim=16).eval().double()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return transformer


def positive_means(model: Transformer, target: Tensor, words: list[int]) -> dict[str, list[Matrix]]:
    """Name of layer -> mean_h max(0, A G) of each sentence, G by something that is added to the pattern."""
    names = [name for name, _ in model.named_modules() if name.endswith(".pattern")]
    added: dict[str, Tensor] = {}

    def add(name: str) -> Callable[[Tensor], Tensor]:
        def change(pattern: Tensor) -> Tensor:
            added[name] = torch.zeros_like(pattern, requires_grad=True)
            return pattern + added[name]

        return change

    with edit(model, {name: add(name) for name in names}), record(model, *names) as seen:
        scores = model(SOURCE, target)
    asked = sum(scores[sentence, -1, word] for sentence, word in enumerate(words))
    slopes = torch.autograd.grad(asked, [added[name] for name in names])
    return {
        name.removesuffix(".pattern"): [
            [[sum(max(v, 0) for v in heads) / len(heads) for heads in row] for row in sentence]
            for sentence in (seen[name] * slope).permute(0, 2, 3, 1).tolist()
        ]
        for name, slope in zip(names, slopes, strict=True)
    }


def normalised(matrix: Matrix) -> Matrix:
    rest = [[value - (i == j) for j, value in enumerate(row)] for i, row in enumerate(matrix)]
    return [
        [(value / sum(row) if sum(row) else 0.0) + (i == j) for j, value in enumerate(row)]
        for i, row in enumerate(rest)
    ]


@pytest.mark.parametrize("step", [0, 2])
def test_relevance_follows_the_rules(model: Transformer, step: int) -> None:
    words = [6, 4]
    found = sequence_relevance(model, SOURCE, TARGET, step, torch.tensor(words))
    means = positive_means(model, TARGET[:, : step + 1], words)
    assert found.source.shape == (2, 5) and found.target.shape == (2, step + 1)
    for sentence in range(2):
        source, target = eye(5), eye(step + 1)
        mixed = [[0.0] * 5 for _ in range(step + 1)]
        for layer in range(2):
            source = plus(source, times(means[f"encoder.blocks.{layer}.attn"][sentence], source))
        for layer in range(2):
            own = means[f"decoder.blocks.{layer}.attn"][sentence]
            target, mixed = plus(target, times(own, target)), plus(mixed, times(own, mixed))
            turned = [list(column) for column in zip(*normalised(target), strict=True)]
            across = means[f"decoder.blocks.{layer}.cross"][sentence]
            mixed = plus(mixed, times(turned, times(across, normalised(source))))
        torch.testing.assert_close(found.source[sentence].tolist(), mixed[-1], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.target[sentence].tolist(), target[-1], rtol=1e-6, atol=1e-9)
    assert found.source[0].std() > 1e-4 and not found.source[1, 3:].any()  # padding counts for nothing


def test_the_word_asked_for_is_the_likeliest_unless_named(model: Transformer) -> None:
    likeliest = model(SOURCE, TARGET)[:, 1].argmax(1)
    wanted = sequence_relevance(model, SOURCE, TARGET, 1, likeliest)
    model.requires_grad_(False)  # frozen weights, and nobody who wants gradients
    with torch.no_grad():
        found = sequence_relevance(model, SOURCE, TARGET, 1)
    assert torch.equal(found.source, wanted.source) and torch.equal(found.target, wanted.target)
    other = sequence_relevance(model, SOURCE, TARGET, 1, (likeliest + 1) % 9)
    assert not torch.allclose(found.source, other.source)


def test_sentences_do_not_meet_in_a_batch(model: Transformer) -> None:
    together = sequence_relevance(model, SOURCE, TARGET, 3)
    alone = sequence_relevance(model, SOURCE[1:, :3], TARGET[1:], 3)
    torch.testing.assert_close(together.source[1:, :3], alone.source)
    torch.testing.assert_close(together.target[1:], alone.target)


def test_attention_of_a_layer_and_head(model: Transformer) -> None:
    with record(model, "**.pattern") as seen:
        model(SOURCE, TARGET)
    shapes: dict[Which, tuple[int, ...]] = {"encoder": (2, 5, 5), "decoder": (2, 4, 4), "cross": (2, 4, 5)}
    for which, shape in shapes.items():
        name = {"encoder": "encoder.blocks.{}.attn", "decoder": "decoder.blocks.{}.attn"}.get(
            which, "decoder.blocks.{}.cross"
        )
        found = sequence_attention(model, SOURCE, TARGET, which)
        assert found.shape == shape
        torch.testing.assert_close(found, seen[f"{name.format(1)}.pattern"].mean(1))
        torch.testing.assert_close(found.sum(-1), torch.ones(shape[:2], dtype=torch.float64))
        one = sequence_attention(model, SOURCE, TARGET, which, layer=0, head=2)
        torch.testing.assert_close(one, seen[f"{name.format(0)}.pattern"][:, 2])


def test_what_does_not_exist_is_named_with_what_does(model: Transformer) -> None:
    with pytest.raises(RegardError, match="step=4: no such step; of a target of 4, 0 to 3"):
        sequence_relevance(model, SOURCE, TARGET, 4)
    with pytest.raises(RegardError, match="class 9: does not exist; the model has 0 to 8"):
        sequence_relevance(model, SOURCE, TARGET, 0, torch.tensor([3, 9]))
    with pytest.raises(RegardError, match="layer=2: no such layer; the model has 0 to 1"):
        sequence_attention(model, SOURCE, TARGET, "cross", layer=2)
    with pytest.raises(RegardError, match=r"head=3: no such head; decoder.blocks.1.cross has 0 to 2, or mean"):
        sequence_attention(model, SOURCE, TARGET, "cross", head=3)
