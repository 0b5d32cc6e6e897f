"""Ours against torch.nn.Transformer and Hugging Face's Marian with the same weights, in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.generation import greedy
from regard.layers.position import sinusoidal_positions
from regard.models.sequences import Symbols
from regard.models.transformer import Transformer
from regard.weights.convert import convert, detect_dialect, left_out
from regard.weights.load import load_state

SIZES = {"dim": 24, "depth": 2, "num_heads": 4, "hidden_dim": 40}
WORDS = 19


def assert_parity(ours: Tensor, reference: Tensor) -> None:
    assert reference.std() > 0.01
    assert (ours - reference).abs().max() <= 1e-5 * reference.abs().max()


def shake(model: nn.Module) -> None:
    """Draws every parameter anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, mean=centre, std=0.25)


def sentences(pad: int) -> tuple[Tensor, Tensor]:
    """Sources of 9, 5 and 1 words, targets of 7; no padding symbol among the words."""
    torch.manual_seed(1)
    words = torch.tensor([word for word in range(WORDS) if word != pad])
    source, target = (words[torch.randint(len(words), (3, count))] for count in (9, 7))
    source[1, 5:] = pad
    source[2, 1:] = pad
    return source, target


def torchs(activation: str = "relu") -> tuple[nn.Transformer, dict[str, Tensor]]:
    """torch's stacks as the paper has them, without the two norms behind; its weights with a matrix of words."""
    layer = {"d_model": 24, "nhead": 4, "dim_feedforward": 40, "dropout": 0.0, "batch_first": True}
    theirs = nn.Transformer(
        **layer,
        custom_encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer, activation=activation), 2, enable_nested_tensor=False
        ),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer, activation=activation), 2),
    ).eval()
    shake(theirs)
    state = {**theirs.state_dict(), "decoder.words.table.weight": 0.3 * torch.randn(WORDS, 24)}
    return theirs, state


def torchs_scores(theirs: nn.Transformer, words: Tensor, source: Tensor, target: Tensor) -> Tensor:
    def embed(numbers: Tensor) -> Tensor:
        return words[numbers] * 24**0.5 + sinusoidal_positions(numbers.shape[1], 24)

    padding = source == 0
    causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
    out = theirs(
        embed(source),
        embed(target),
        tgt_mask=causal,
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    return out @ words.T


def test_scores_and_gradients_are_torchs() -> None:
    theirs, state = torchs()
    assert detect_dialect(state) is not None
    ours = Transformer(WORDS, **SIZES).eval()
    ours.load_state_dict(convert(state, "transformer_base"), strict=True)
    source, target = sentences(pad=0)
    words = state["decoder.words.table.weight"].clone().requires_grad_()
    theirs.requires_grad_()
    reference, scores = torchs_scores(theirs, words, source, target), ours(source, target)
    assert_parity(scores, reference)
    for result in (reference, scores):
        nn.functional.cross_entropy(result.transpose(1, 2), target).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()} | {"decoder.words.table.weight": words.grad}
    expected = convert({name: gradient for name, gradient in gradients.items() if gradient is not None})
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # shifts all scores of a query alike: its gradient is 0 but for rounding
            assert parameter.grad.abs().max() < 1e-6 and expected[name].abs().max() < 1e-6
        else:
            assert (parameter.grad - expected[name]).abs().max() <= 1e-4 * expected[name].abs().max(), name


def test_torchs_norms_behind_the_stacks_are_refused_by_name() -> None:
    with pytest.raises(RegardError, match=r"encoder\.norm\.weight: a norm behind the stack.*norm=None"):
        convert(nn.Transformer(24, 4, 1, 1, 40, batch_first=True).state_dict())


@pytest.fixture(scope="module")
def marian() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.MarianConfig(
        vocab_size=WORDS,
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=WORDS - 1,
        decoder_start_token_id=WORDS - 1,
        eos_token_id=0,
        forced_eos_token_id=None,
        max_position_embeddings=64,
    )
    model = transformers.MarianMTModel(config).eval()
    shake(model)
    with torch.no_grad():  # `shake` drew the positions too, which are no free parameters: sines, then cosines
        order = torch.arange(24).reshape(12, 2).T.flatten()
        for part in (model.model.encoder, model.model.decoder):
            part.embed_positions.weight.copy_(sinusoidal_positions(64, 24)[:, order])
        model.final_logits_bias.normal_(std=0.5)
    return model


def like_marian(state: dict[str, Tensor]) -> Transformer:
    ours = Transformer(WORDS, **SIZES, pad=WORDS - 1, activation="swish", output_bias=True).eval()
    assert load_state(ours, state) == left_out(state) != []
    return ours


@torch.no_grad()
def test_scores_are_marians(marian: Any) -> None:
    source, target = sentences(pad=WORDS - 1)
    reference = marian(input_ids=source, attention_mask=source != WORDS - 1, decoder_input_ids=target).logits
    assert_parity(like_marian(marian.state_dict())(source, target), reference)


@torch.no_grad()
def test_marians_own_positions_are_those_that_are_expected(marian: Any) -> None:
    """A fresh Marian model, whose positions nobody here has written."""
    state = type(marian)(marian.config).state_dict()
    assert "model.encoder.embed_positions.weight" in state
    like_marian(state)
    assert left_out(state) == [
        "left out model.encoder.embed_positions.weight, model.decoder.embed_positions.weight: sines and cosines, which "
        "the model computes"
    ]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")  # of Hugging Face's generate
def test_greedy_writes_what_marians_generate_writes(marian: Any) -> None:
    source, _ = sentences(pad=WORDS - 1)
    theirs = marian.generate(
        input_ids=source,
        attention_mask=(source != WORDS - 1).long(),
        num_beams=1,
        do_sample=False,
        max_new_tokens=20,
        bad_words_ids=[[WORDS - 1]],
    )
    found = greedy(like_marian(marian.state_dict()), source, 20, Symbols(pad=WORDS - 1, start=WORDS - 1, end=0))
    rows = theirs[:, 1:].tolist()
    expected = [tuple(row[: row.index(0)] if 0 in row else row) for row in rows]
    assert [one.words for one in found] == expected
    assert len(set(expected)) == 3


def test_marian_weights_that_the_transformer_has_no_place_for_are_refused(marian: Any) -> None:
    state = dict(marian.state_dict())
    with pytest.raises(RegardError, match=r"lm_head\.weight: differs from model\.shared\.weight"):
        convert(state | {"lm_head.weight": state["lm_head.weight"] + 1})
    with pytest.raises(RegardError, match=r"embed_positions\.weight: no sines and cosines"):
        convert(state | {"model.encoder.embed_positions.weight": torch.randn(64, 24)})
    with pytest.raises(RegardError, match=r"model\.encoder\.surprise: no part of a Marian"):
        convert(state | {"model.encoder.surprise": torch.zeros(1)})


def test_a_transformer_that_does_not_fit_is_refused_in_a_line(marian: Any) -> None:
    with pytest.raises(
        RegardError, match="weights of a Marian translator, but vit_nano_patch4_32 is of the family vit"
    ):
        convert(marian.state_dict(), "vit_nano_patch4_32")
    with pytest.raises(RegardError, match=r"decoder\.words\.bias has shape \(19,\), the model's has \(20,\)"):
        load_state(Transformer(WORDS + 1, **SIZES, activation="swish", output_bias=True), marian.state_dict())
    with pytest.raises(RegardError, match=r"the model has no decoder\.words\.bias; name the model"):
        load_state(Transformer(WORDS, **SIZES), marian.state_dict())
