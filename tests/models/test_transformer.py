from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import count_parameters, create_model
from regard.models.transformer import Decoder, Memory, Transformer, Words
from regard.taps import record

TINY = {"dim": 16, "depth": 2, "num_heads": 4, "hidden_dim": 24}


@pytest.mark.parametrize(("name", "count"), [("transformer_base", 63_082_496), ("transformer_big", 214_245_376)])
def test_counts_with_the_shared_vocabulary_of_37000_are_the_papers(name: str, count: int) -> None:
    with torch.device("meta"):
        model = create_model(name, 37_000)
    assert count_parameters(model) == count
    if name == "transformer_base":
        assert count - 37_000 * 512 == 44_138_496
        biases = (layer.bias for key, layer in model.named_modules() if key.endswith(("query", "key", "value", "proj")))
        assert count - sum(bias.numel() for bias in biases) == 63_045_632  # pyright: ignore[reportCallIssue]


def test_our_small_one_stays_small() -> None:
    with torch.device("meta"):
        assert count_parameters(create_model("transformer_tiny", 100)) == 239_872


@torch.no_grad()
def test_embedding_is_scaled_and_positioned_and_scores_use_the_same_matrix() -> None:
    model = Transformer(9, **TINY).eval()
    words = model.decoder.words
    x = words(torch.tensor([[4, 4]]), first=1)
    assert x.shape == (1, 2, 16)
    expected = 4 * words.table.weight[4] + words.positions[1:3]  # sqrt(16) = 4
    torch.testing.assert_close(x[0], expected)
    assert words.positions[1, :2].tolist() == pytest.approx([0.841471, 0.540302], abs=1e-6)
    seen = torch.randn(3, 16)
    torch.testing.assert_close(words.scores(seen), seen @ words.table.weight.T)
    assert [key for key in model.state_dict() if "words" in key] == ["decoder.words.table.weight"]


@torch.no_grad()
def test_every_sublayer_is_normed_behind_its_residual() -> None:
    """With fresh norms every token that leaves a block has mean 0 and variance 1."""
    torch.manual_seed(0)
    model = Transformer(9, **TINY).eval()
    with record(model, "**.tokens") as seen:
        model(torch.randint(3, 9, (2, 5)), torch.randint(3, 9, (2, 4)))
    assert len(seen) == 4
    for tokens in seen.values():
        torch.testing.assert_close(tokens.mean(-1), torch.zeros(tokens.shape[:2]), atol=1e-5, rtol=0)
        torch.testing.assert_close(tokens.var(-1, correction=0), torch.ones(tokens.shape[:2]), atol=1e-3, rtol=0)


@torch.no_grad()
def test_patterns_of_self_and_cross_attention_respect_the_masks() -> None:
    torch.manual_seed(0)
    model = Transformer(9, **TINY).eval()
    source = torch.tensor([[3, 4, 5, 6, 7], [8, 7, 0, 0, 0]])
    with record(model, "*.blocks.*.attn.pattern", "decoder.blocks.*.cross.pattern") as seen:
        model(source, torch.randint(3, 9, (2, 4)))
    assert len(seen) == 6
    for name, pattern in seen.items():
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:3]))
        if "cross" in name:
            assert pattern.shape == (2, 4, 4, 5)
        if name.startswith("encoder") or "cross" in name:
            assert not pattern[1, :, :, 2:].any() and pattern[0].all()
        else:
            assert pattern.shape == (2, 4, 4, 4)
            assert not pattern.triu(1).any() and pattern[..., torch.ones(4, 4).tril().bool()].all()


@torch.no_grad()
def test_word_by_word_patterns_grow_by_one_row() -> None:
    model = Transformer(9, **TINY).eval()
    with record(model, "decoder.blocks.0.attn.pattern") as seen:
        state = model.start(model.encode(torch.tensor([[3, 4, 5]])))
        for word in (1, 5, 6):
            _, state = model.step(state, torch.tensor([word]))
    assert [pattern.shape for pattern in seen["decoder.blocks.0.attn.pattern"]] == [(1, 4, 1, n) for n in (1, 2, 3)]


@torch.no_grad()
def test_a_decoder_writes_about_any_memory() -> None:
    decoder = Decoder(9, 16, 1, 4, 24).eval()
    memory = Memory(torch.randn(2, 6, 16), None)
    scores = decoder(memory, torch.tensor([[1, 3], [1, 4]]))
    assert scores.shape == (2, 2, 9) and torch.allclose(scores[0, :1], decoder(memory, torch.tensor([[1]] * 2))[0])


def test_a_sequence_longer_than_the_model_was_made_for() -> None:
    model = Transformer(9, **TINY, max_length=4)
    with pytest.raises(RegardError, match=r"a sequence of 5 words: the model was made for 4.*max_length"):
        model(torch.full((1, 5), 3), torch.full((1, 2), 3))
    model(torch.full((1, 4), 3), torch.full((1, 4), 3))


def test_dropout_sits_at_the_papers_positions() -> None:
    model = Transformer(9, **TINY, drop_rate=0.25)
    dropouts = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    blocks = [f"{part}.blocks.{number}.drop" for part in ("encoder", "decoder") for number in range(2)]
    assert dropouts == dict.fromkeys(["decoder.words.drop", *blocks], 0.25)
    sublayers: list[float] = []
    for name in blocks:
        model.get_submodule(name).register_forward_hook(lambda module, x, y: sublayers.append(float((y == 0).any())))
    model(torch.full((1, 4), 3), torch.full((1, 4), 3))
    assert len(sublayers) == 2 * 2 + 2 * 3


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    model = Transformer(500, dim=64, depth=2, num_heads=4, hidden_dim=256, output_bias=True)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not weight.any()
        elif "words" in name:
            assert weight.std().item() == pytest.approx(1 / 8, rel=0.05)
        else:
            bound = (6 / sum(weight.shape)) ** 0.5
            assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_words_are_exported_with_the_model() -> None:
    """No python list or cache of positions stands in the way of torch.export."""
    model = Transformer(9, **TINY).eval()
    arguments = (torch.tensor([[3, 4, 0]]), torch.tensor([[1, 5]]))
    exported = torch.export.export(model, arguments).module()
    torch.testing.assert_close(exported(*arguments), model(*arguments))
    assert isinstance(model.decoder.words, Words)
