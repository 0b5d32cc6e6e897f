"""Recurrent encoder and decoder, without attention (Cho et al. 2014, "Learning Phrase Representations using RNN
Encoder-Decoder", arXiv 1406.1078) and with it (Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to
Align and Translate", arXiv 1409.0473).

    h_j = [forward GRU; backward GRU] over the source                                     (1409.0473, section 3.2)
    without: c_i = c, the last states of both directions                                  (1406.1078, section 2.2)
    with:    e_ij = v^T tanh(W s_{i-1} + U h_j),  c_i = sum_j softmax_j(e_ij) h_j         (1409.0473, section 3.1)
    s_i = GRU(s_{i-1}, [E y_{i-1}; c_i]),  s_0 = tanh(W_s h)                              (1409.0473, appendix A.2.2)
    scores of y_i: W_o tanh(U_o [s_i; E y_{i-1}; c_i])

Deviations from the papers:
- the model without attention reads in both directions too, so that attention is all that differs between the two;
- h of s_0 is the last state of both directions; the papers take the forward (2014) or the backward one (2015);
- the hidden layer before the scores has tanh and looks at s_i; the papers' has maxout, and in 2015 looks at s_{i-1};
- initialisation is torch's; the papers draw orthogonal matrices and normal ones of std 0.01 or 0.001;
- `gru_tiny` and `gru_attention_tiny` are our sizes (the papers: 1,000 units, words of 100 and 620).

Taps: encoder.embedded, encoder.tokens and, of the model with attention, context.pattern (B, S), once per written word.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from regard.models.registry import ModelSpec
from regard.models.sequences import sequence_build
from regard.taps import Tap


class Memory(NamedTuple):
    """A source as read: tokens (B, S, 2 D), zero at padding; mask (B, S), False at padding; last (B, 2 D), the last
    states of both directions; keys (B, S, D) for attention, None without.
    """

    tokens: Tensor
    mask: Tensor
    last: Tensor
    keys: Tensor | None


class State(NamedTuple):
    """What was read, and the hidden state (B, D) after what was written."""

    memory: Memory
    hidden: Tensor


class Encoder(nn.Module):
    """One layer of GRUs in both directions. Taps: embedded (B, S, D), tokens (B, S, 2 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embedded, self.tokens = Tap(), Tap()
        self.gru = nn.GRU(dim, dim, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded words (B, S, D) and their mask (B, S) -> tokens (B, S, 2 D), last states (B, 2 D)."""
        packed = pack_padded_sequence(self.embedded(x), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        out, last = self.gru(packed)
        tokens, _ = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
        return self.tokens(tokens), last.transpose(0, 1).flatten(1)


class FixedContext(nn.Module):
    """The same context for every written word."""

    def keys(self, tokens: Tensor) -> None:
        return None

    def forward(self, state: State) -> Tensor:
        return state.memory.last  # (B, 2 D)


class AdditiveAttention(nn.Module):
    """A context for each written word. Tap: pattern (B, S), rows sum to 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(2 * dim, dim)
        self.score = nn.Linear(dim, 1, bias=False)
        self.pattern = Tap()

    def keys(self, tokens: Tensor) -> Tensor:
        """U h_j: (B, S, 2 D) -> (B, S, D)."""
        return self.key(tokens)

    def forward(self, state: State) -> Tensor:
        keys = state.memory.keys
        assert keys is not None  # made by `keys` above
        scores = self.score(torch.tanh(self.query(state.hidden)[:, None] + keys))[:, :, 0]  # (B, S)
        weights = self.pattern(scores.masked_fill(~state.memory.mask, -torch.inf).softmax(dim=1))
        return (weights[:, :, None] * state.memory.tokens).sum(1)  # (B, 2 D)


class GruSequence(nn.Module):
    """forward(source (B, S), target (B, T)) -> scores (B, T, V); a `SequenceModel` (regard.models.sequences).

    dim: width D of words, states and attention; attention: look at the source anew for each word; drop_rate: dropout on
    the embedded words and before the scores.
    """

    HEAD = "scores"

    def __init__(self, vocabulary: int, dim: int, attention: bool, drop_rate: float = 0.0, pad: int = 0) -> None:
        super().__init__()
        self.pad = pad
        self.words = nn.Embedding(vocabulary, dim)
        self.drop = nn.Dropout(drop_rate)
        self.encoder = Encoder(dim)
        self.first = nn.Linear(2 * dim, dim)
        self.context = AdditiveAttention(dim) if attention else FixedContext()
        self.cell = nn.GRUCell(3 * dim, dim)
        self.readout = nn.Linear(4 * dim, dim)
        self.scores = nn.Linear(dim, vocabulary)

    def encode(self, source: Tensor) -> Memory:
        mask = source != self.pad
        tokens, last = self.encoder(self.drop(self.words(source)), mask)
        return Memory(tokens, mask, last, self.context.keys(tokens))

    def start(self, memory: Memory) -> State:
        return State(memory, torch.tanh(self.first(memory.last)))

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        embedded, context = self.drop(self.words(words)), self.context(state)  # (B, D), (B, 2 D)
        hidden = self.cell(torch.cat([embedded, context], dim=1), state.hidden)  # (B, D)
        seen = self.readout(torch.cat([hidden, embedded, context], dim=1))  # (B, 4 D) -> (B, D)
        return self.scores(self.drop(torch.tanh(seen))), state._replace(hidden=hidden)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        state, scores = self.start(self.encode(source)), []
        for words in target.unbind(1):
            row, state = self.step(state, words)
            scores.append(row)
        return torch.stack(scores, dim=1)  # (B, T, V)


SPECS = (
    ModelSpec(
        name="gru_tiny",
        family="gru",
        build=sequence_build(GruSequence, dim=64, attention=False),
        img_size=0,
        task="seq2seq",
        paper="Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, 2014, arXiv 1406.1078",
        deviations="not a published size: width 64; reads in both directions; tanh for maxout",
    ),
    ModelSpec(
        name="gru_attention_tiny",
        family="gru",
        build=sequence_build(GruSequence, dim=64, attention=True),
        img_size=0,
        task="seq2seq",
        paper="Bahdanau et al., Neural Machine Translation by Jointly Learning to Align and Translate, 2015, "
        "arXiv 1409.0473",
        deviations="not a published size: width 64; tanh for maxout",
    ),
)
