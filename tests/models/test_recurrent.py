from __future__ import annotations

import torch

from regard.models import count_parameters, create_model
from regard.models.recurrent import GruSequence
from regard.taps import record


@torch.no_grad()
def test_attention_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    model = GruSequence(9, 8, attention=True).eval()
    source = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    memory = model.encode(source)
    state = model.start(memory)
    with record(model, "context.pattern") as seen:
        _, after = model.step(state, torch.tensor([1, 1]))
    attention = model.context
    for row, length in enumerate((4, 2)):
        energy = [
            attention.score(torch.tanh(attention.query(state.hidden[row]) + attention.key(memory.tokens[row, j])))
            for j in range(length)
        ]
        weights = torch.cat(energy).softmax(0)
        torch.testing.assert_close(seen["context.pattern"][row, :length], weights)
        assert not seen["context.pattern"][row, length:].any()
        context = sum(weight * memory.tokens[row, j] for j, weight in enumerate(weights))
        given = torch.cat([model.words.weight[1], context])
        torch.testing.assert_close(after.hidden[row], model.cell(given[None], state.hidden[row : row + 1])[0])


@torch.no_grad()
def test_the_encoder_reads_in_both_directions_and_stops_at_padding() -> None:
    torch.manual_seed(0)
    model = GruSequence(9, 8, attention=False).eval()
    memory = model.encode(torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]))
    assert memory.tokens.shape == (2, 4, 16) and not memory.tokens[1, 2:].any() and memory.keys is None
    assert torch.equal(memory.last[0], torch.cat([memory.tokens[0, 3, :8], memory.tokens[0, 0, 8:]]))
    assert torch.equal(memory.last[1], torch.cat([memory.tokens[1, 1, :8], memory.tokens[1, 0, 8:]]))


@torch.no_grad()
def test_only_attention_differs_between_the_two() -> None:
    plain, attending = create_model("gru_tiny", 20), create_model("gru_attention_tiny", 20)
    more = {name for name, _ in attending.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert more == {"context.query.weight", "context.key.weight", "context.key.bias", "context.score.weight"}
    assert count_parameters(attending) - count_parameters(plain) == 64 * 64 + 128 * 64 + 64 + 64
