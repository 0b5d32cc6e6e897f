"""The Transformer: "Attention Is All You Need" (Vaswani et al. 2017, arXiv 1706.03762).

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V                                     (1)
    FFN(x) = max(0, x W_1 + b_1) W_2 + b_2                                                (2)
    every sublayer: LayerNorm(x + Dropout(Sublayer(x)))                                   (sections 3.1, 5.4: post-norm)
    input: Dropout(sqrt(d_model) E[word] + PE[position]);  scores of the next word: x E^T (section 3.4: one E)

Encoder block: self-attention, FFN. Decoder block: self-attention to what is written so far, attention to the
encoder's output, FFN. The encoder does not see padding. Padding lies behind the words, so the causal mask hides it
from the words of a target, and a loss does not look at what follows it.

Deviations from the paper:
- it names neither the epsilon of its norms (here torch's 1e-5) nor its initialisation (see `init_weights`);
- dropout is off unless asked for (the paper: 0.1; big on English-German 0.3);
- `transformer_tiny` is our size for small vocabularies and CPUs;
- variant=marian is what Marian (Junczys-Dowmunt et al. 2018, arXiv 1804.00344) makes of it for its published
  translators: swish for ReLU, a bias at the scores, and the padding symbol at the end of the vocabulary.

Taps: in encoder and decoder: embedded, and in blocks.*: attn.q, attn.k, attn.v, attn.pattern, mlp.hidden, tokens; in
decoder.blocks.* also cross.q, cross.k, cross.v, cross.pattern. A decoder that writes word by word passes its taps once
per word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.layers.cross_attention import CrossAttention
from regard.layers.position import sinusoidal_positions
from regard.models.registry import ModelSpec
from regard.models.sequences import sequence_build
from regard.taps import Tap

Activation = Literal["relu", "swish"]
ACTIVATIONS = {"relu": F.relu, "swish": F.silu}


class Memory(NamedTuple):
    """What a decoder may look at: tokens (B, S, D); mask (B, S), False at padding, None where there is none."""

    tokens: Tensor
    mask: Tensor | None


class Cache(NamedTuple):
    """The state of a decoder: keys and values (B, H, N, D/H) of each block.

    own: of the words so far; memory: of what the decoder looks at; mask: (B, 1, 1, S) or None, as in `Memory`.
    """

    own: tuple[tuple[Tensor, Tensor], ...]
    memory: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor | None


class Words(nn.Module):
    """Words in and out by one matrix E (V, D), rows being words.

    forward: word numbers (B, T) from position `first` on -> (B, T, D); scores: (..., D) -> (..., V).
    """

    positions: Tensor

    def __init__(self, vocabulary: int, dim: int, drop: float, max_length: int, bias: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, dim)
        self.bias = nn.Parameter(torch.zeros(vocabulary)) if bias else None
        self.register_buffer("positions", sinusoidal_positions(max_length, dim), persistent=False)
        self.drop = nn.Dropout(drop)

    def forward(self, words: Tensor, first: int = 0) -> Tensor:
        last = first + words.shape[1]
        if last > len(self.positions):
            raise RegardError(
                f"a sequence of {last} words: the model was made for {len(self.positions)}; cut it, or make the model "
                "with a larger max_length"
            )
        x = self.table(words) * self.table.embedding_dim**0.5  # (B, T, D)
        return self.drop(x + self.positions[first:last])

    def scores(self, x: Tensor) -> Tensor:
        return F.linear(x, self.table.weight, self.bias)


class FeedForward(nn.Module):
    """Equation (2) on (..., D). Tap: hidden (..., hidden_dim), after the activation."""

    def __init__(self, dim: int, hidden_dim: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.activation = ACTIVATIONS[activation]
        self.hidden = Tap()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(self.activation(self.fc1(x))))


class EncoderBlock(nn.Module):
    """Tokens (B, S, D) look at each other. Tap: tokens (B, S, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, drop: float, activation: Activation) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, hidden_dim, activation)
        self.norm2 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(drop)
        self.tokens = Tap()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(x + self.drop(self.attn(x, x, mask)))
        return self.tokens(self.norm2(x + self.drop(self.mlp(x))))


class DecoderBlock(nn.Module):
    """Tokens (B, T, D) look back at themselves and at a memory (B, S, D). Tap: tokens (B, T, D), what leaves it."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, drop: float, activation: Activation) -> None:
        super().__init__()
        self.attn = CrossAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, hidden_dim, activation)
        self.norm3 = nn.LayerNorm(dim)
        self.drop = nn.Dropout(drop)
        self.tokens = Tap()

    def forward(
        self,
        x: Tensor,
        own: tuple[Tensor, Tensor],
        causal: Tensor | None,
        memory: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """own, memory: keys and values of the words that x may look back at, and of the memory."""
        x = self.norm1(x + self.drop(self.attn.attend(x, *own, causal)))
        x = self.norm2(x + self.drop(self.cross.attend(x, *memory, mask)))
        return self.tokens(self.norm3(x + self.drop(self.mlp(x))))


class Encoder(nn.Module):
    """Embedded words (B, S, D) -> (B, S, D); mask (B, S), False at padding. Tap: embedded (B, S, D)."""

    blocks: Sequence[EncoderBlock]

    def __init__(
        self, dim: int, depth: int, num_heads: int, hidden_dim: int, drop: float = 0.0, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.embedded = Tap()
        blocks = (EncoderBlock(dim, num_heads, hidden_dim, drop, activation) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        keys = None if mask is None else mask[:, None, None]  # (B, 1, 1, S)
        x = self.embedded(x)
        for block in self.blocks:
            x = block(x, keys)
        return x


class Decoder(nn.Module):
    """Writes words, one after the other, about any memory of the same width: of words, of an image's patches.

    forward(memory, target (B, T)) -> scores (B, T, V) of the word after each; `start` and `step` give the same word by
    word and keep the keys and values of what is past. vocabulary: words, symbols included; max_length: words in the
    longest sequence. Tap: embedded (B, T, D).
    """

    blocks: Sequence[DecoderBlock]

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int,
        drop: float = 0.0,
        max_length: int = 1024,
        activation: Activation = "relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.words = Words(vocabulary, dim, drop, max_length, bias)
        self.embedded = Tap()
        blocks = (DecoderBlock(dim, num_heads, hidden_dim, drop, activation) for _ in range(depth))
        self.blocks = nn.ModuleList(blocks)  # pyright: ignore[reportAttributeAccessIssue]
        init_weights(self)

    def forward(self, memory: Memory, target: Tensor) -> Tensor:
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()  # (T, T)
        return self._write(target, self.start(memory), causal)[0]

    def start(self, memory: Memory) -> Cache:
        own = []
        for block in self.blocks:
            empty = memory.tokens.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2)[:, :, :0]  # (B, H, 0, D/H)
            own.append((empty, empty))
        mask = None if memory.mask is None else memory.mask[:, None, None]
        return Cache(tuple(own), tuple(block.cross.keys_values(memory.tokens) for block in self.blocks), mask)

    def step(self, cache: Cache, words: Tensor) -> tuple[Tensor, Cache]:
        scores, cache = self._write(words[:, None], cache, None)
        return scores[:, 0], cache

    def _write(self, words: Tensor, cache: Cache, causal: Tensor | None) -> tuple[Tensor, Cache]:
        """Scores (B, T, V) after words (B, T) that follow those of the cache, and the cache with them."""
        x = self.embedded(self.words(words, cache.own[0][0].shape[2]))
        own = []
        for block, (k, v), memory in zip(self.blocks, cache.own, cache.memory, strict=True):
            new_k, new_v = block.attn.keys_values(x)
            own.append((torch.cat([k, new_k], dim=2), torch.cat([v, new_v], dim=2)))
            x = block(x, own[-1], causal, memory, cache.mask)
        return self.words.scores(x), cache._replace(own=tuple(own))


class Transformer(nn.Module):
    """forward(source (B, S), target (B, T)) -> scores (B, T, V); a `SequenceModel` (regard.models.sequences).

    Word numbers of one vocabulary, padded with `pad` behind the words; each source has a word. Arguments as in
    `Decoder`; defaults: base. depth: blocks of the encoder, and of the decoder.
    """

    HEAD = ""  # the matrix of the words, which are the classes

    def __init__(
        self,
        vocabulary: int,
        dim: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        drop_rate: float = 0.0,
        pad: int = 0,
        max_length: int = 1024,
        activation: Activation = "relu",
        output_bias: bool = False,
    ) -> None:
        super().__init__()
        self.pad = pad
        self.encoder = Encoder(dim, depth, num_heads, hidden_dim, drop_rate, activation)
        self.decoder = Decoder(
            vocabulary, dim, depth, num_heads, hidden_dim, drop_rate, max_length, activation, output_bias
        )
        init_weights(self)

    def encode(self, source: Tensor) -> Memory:
        mask = source != self.pad
        return Memory(self.encoder(self.decoder.words(source), mask), mask)

    def start(self, memory: Memory) -> Cache:
        return self.decoder.start(memory)

    def step(self, state: Cache, words: Tensor) -> tuple[Tensor, Cache]:
        return self.decoder.step(state, words)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.decoder(self.encode(source), target)


def init_weights(model: nn.Module) -> None:
    """Draws fresh weights, those of the authors' code (tensor2tensor) where it says:

    | part                             | weight                  | bias |
    |----------------------------------|-------------------------|------|
    | E                                | normal, std D^-0.5      | 0    |
    | query, key, value, proj, fc1, fc2| Xavier uniform          | 0    |
    | norms                            | 1                       | 0    |
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


SIZES = {  # dim, depth, num_heads, hidden_dim
    "base": (512, 6, 8, 2048),
    "big": (1024, 6, 16, 4096),
    "tiny": (64, 2, 4, 256),
}


def _build(vocabulary: int, size: str, drop_rate: float, variant: Literal["paper", "marian"] = "paper") -> Transformer:
    sizes = SIZES[size]
    if variant == "paper":
        return Transformer(vocabulary, *sizes, drop_rate)
    return Transformer(vocabulary, *sizes, drop_rate, pad=vocabulary - 1, activation="swish", output_bias=True)


SPECS = tuple(
    ModelSpec(
        name=f"transformer_{size}",
        family="transformer",
        build=sequence_build(_build, size=size),
        img_size=0,
        task="seq2seq",
        options={"variant": ("paper", "marian")},
        paper="Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762",
        deviations="not a published size: 2 + 2 blocks of width 64, for small vocabularies" if size == "tiny" else "",
    )
    for size in SIZES
)
