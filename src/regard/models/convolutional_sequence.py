"""1-D convolutions that read and write sequences: ByteNet ("Neural Machine Translation in Linear Time", Kalchbrenner et
al. 2016, arXiv 1610.10099).

    block: x + W_2 relu(LN(conv_{k,r}(relu(LN(W_1 relu(LN(x)))))))                        (section 3.6, figure 3)
    encoder: blocks that look to both sides, dilation r = 1, 2, 4, 8, then again from 1   (section 3.5)
    decoder: blocks that look back only; word i is read together with encoder column i    (sections 3.1, 3.4)

There is no attention: what column i of the target needs must have come to column i of the source, by as many blocks as
it takes. The source is followed by `room` more columns, so that the target may be longer (section 3.2, "dynamic
unfolding"); columns beyond them are zero.

Deviations from the paper:
- a source of |s| words has |s| + room columns (the paper: 1.2 |s|);
- widths and depths: `bytenet_tiny` is our size (the paper: width 800, 30 blocks, dilation up to 16, on characters);
- the first block sees the embedded words without the paper's masked input convolution;
- initialisation is torch's.

Taps: in encoder and decoder: embedded (B, N, D), and blocks.*.tokens (B, N, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models.registry import ModelSpec
from regard.models.sequences import sequence_build
from regard.taps import Tap


class State(NamedTuple):
    """columns (B, N, D) of the source; how many words are written; what each block remembers, (B, (k-1) r, D/2)."""

    columns: Tensor
    written: int
    past: tuple[Tensor, ...]


class Block(nn.Module):
    """A residual block in two halves, between which encoder and decoder say what the convolution sees.

    reach: columns that the convolution sees besides its own. Tap: tokens (B, N, D), what leaves it.
    """

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.norm1, self.fc1 = nn.LayerNorm(dim), nn.Linear(dim, dim // 2)
        self.norm2, self.conv = nn.LayerNorm(dim // 2), nn.Conv1d(dim // 2, dim // 2, kernel, dilation=dilation)
        self.norm3, self.fc2 = nn.LayerNorm(dim // 2), nn.Linear(dim // 2, dim)
        self.tokens = Tap()

    def narrow(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D/2)."""
        return F.relu(self.norm2(self.fc1(F.relu(self.norm1(x)))))

    def widen(self, x: Tensor, window: Tensor) -> Tensor:
        """x (B, N, D) and the window (B, N + reach, D/2) of it that the convolution sees -> (B, N, D)."""
        seen = self.conv(window.transpose(1, 2)).transpose(1, 2)  # (B, N, D/2)
        return self.tokens(x + self.fc2(F.relu(self.norm3(seen))))


class Encoder(nn.Module):
    """Embedded words (B, N, D) -> columns (B, N, D), zero where mask (B, N, 1) is False."""

    blocks: Sequence[Block]

    def __init__(self, dim: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.embedded = Tap()
        blocks = (Block(dim, kernel, dilation) for dilation in dilations)
        self.blocks = nn.ModuleList(blocks)  # pyright: ignore[reportAttributeAccessIssue]
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.embedded(x)
        for block in self.blocks:
            side = block.reach // 2
            x = block.widen(x, F.pad(block.narrow(x) * mask, (0, 0, side, side)))
        return self.norm(x) * mask


class Decoder(nn.Module):
    """Columns (B, N, D) that follow what `past` remembers -> (B, N, D), and what to remember."""

    blocks: Sequence[Block]

    def __init__(self, dim: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.embedded = Tap()
        blocks = (Block(dim, kernel, dilation) for dilation in dilations)
        self.blocks = nn.ModuleList(blocks)  # pyright: ignore[reportAttributeAccessIssue]
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, kept = self.embedded(x), []
        for block, before in zip(self.blocks, past, strict=True):
            window = torch.cat([before, block.narrow(x)], dim=1)
            kept.append(window[:, -block.reach :])
            x = block.widen(x, window)
        return self.norm(x), tuple(kept)


class ByteNet(nn.Module):
    """forward(source (B, S), target (B, T)) -> scores (B, T, V); a `SequenceModel` (regard.models.sequences).

    dim: width D, even; kernel: columns that a convolution sees, odd and at least 3; dilations: of the encoder's blocks
    and of the decoder's; room: columns behind the source; drop_rate: dropout before the scores.
    """

    HEAD = "scores"

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        kernel: int,
        dilations: Sequence[int],
        room: int = 16,
        drop_rate: float = 0.0,
        pad: int = 0,
    ) -> None:
        super().__init__()
        if kernel < 3 or kernel % 2 == 0:
            raise RegardError(f"kernel={kernel}: expected an odd number from 3 on, so that it has a middle")
        self.pad, self.room = pad, room
        self.words = nn.Embedding(vocabulary, dim)
        self.drop = nn.Dropout(drop_rate)
        self.encoder = Encoder(dim, kernel, dilations)
        self.decoder = Decoder(dim, kernel, dilations)
        self.scores = nn.Linear(dim, vocabulary)

    def encode(self, source: Tensor) -> Tensor:
        lengths = (source != self.pad).sum(1, keepdim=True) + self.room  # (B, 1)
        x = self.words(F.pad(source, (0, self.room), value=self.pad))  # (B, S + room, D)
        mask = (torch.arange(x.shape[1], device=x.device) < lengths)[:, :, None]  # (B, S + room, 1)
        return self.encoder(x * mask, mask)

    def start(self, memory: Tensor) -> State:
        past = (memory.new_zeros(len(memory), block.reach, memory.shape[2] // 2) for block in self.decoder.blocks)
        return State(memory, 0, tuple(past))

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        scores, state = self._write(state, words[:, None])
        return scores[:, 0], state

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self._write(self.start(self.encode(source)), target)[0]

    def _write(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Scores (B, T, V) after words (B, T) that follow those of the state, and the state with them."""
        last = state.written + words.shape[1]
        columns = F.pad(state.columns, (0, 0, 0, max(0, last - state.columns.shape[1])))[:, state.written : last]
        x, past = self.decoder(self.words(words) + columns, state.past)
        return self.scores(self.drop(F.relu(x))), State(state.columns, last, past)


SPECS = (
    ModelSpec(
        name="bytenet_tiny",
        family="bytenet",
        build=sequence_build(ByteNet, dim=64, kernel=3, dilations=(1, 2, 4, 8) * 2),
        img_size=0,
        task="seq2seq",
        paper="Kalchbrenner et al., Neural Machine Translation in Linear Time, 2016, arXiv 1610.10099",
        deviations="not a published size: 8 + 8 blocks of width 64, for words and small vocabularies",
    ),
)
