"""What every model of the task "seq2seq" offers, so that one code trains them and one code decodes.

A sequence is a row of word numbers, padded at its end. A model reads a source once (`encode`) and then writes a
target word by word (`start`, `step`); in training it sees the whole target at once (`forward`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map_only

from regard.errors import RegardError
from regard.models.registry import Build

FEWEST_WORDS = 4  # padding, start, end, and one to say


class Symbols(NamedTuple):
    """Numbers of the three symbols that are no words; start may be pad, as Marian has it."""

    pad: int = 0
    start: int = 1
    end: int = 2


class Vocabulary:
    """Words and their numbers, from 3 on; 0, 1 and 2 are `Symbols`. `len` counts the symbols too."""

    symbols = Symbols()

    def __init__(self, words: Iterable[str]) -> None:
        self.words = ("<pad>", "<start>", "<end>", *words)
        self.numbers = {word: number for number, word in enumerate(self.words)}
        if len(self.numbers) < len(self.words):
            twice = next(word for word in self.words if self.words.count(word) > 1)
            raise RegardError(f"{twice}: is in the vocabulary twice; leave one out")

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Numbers (B, T) of sentences of words, each followed by the end symbol and padded behind it.

        Raises RegardError for a word that is not in the vocabulary.
        """
        rows = []
        for sentence in sentences:
            if unknown := [word for word in sentence if word not in self.numbers]:
                raise RegardError(f"{unknown[0]!r}: is no word of the vocabulary ({', '.join(self.words[3:8])}, ...)")
            rows.append(torch.tensor([*(self.numbers[word] for word in sentence), self.symbols.end]))
        return pad_sequence(rows, batch_first=True, padding_value=self.symbols.pad)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of a hypothesis."""
        return [self.words[number] for number in numbers]


class SequenceModel(Protocol):
    """A source (for a captioner: images), encoded, is all that the target knows of it.

    A memory and a state are any nest of tensors with the batch first, None and numbers; `select` takes rows of them.
    """

    def encode(self, source: Tensor) -> Any:
        """The memory of sources: word numbers (B, S), padded at their ends."""
        ...

    def start(self, memory: Any) -> Any:
        """The state before the first word."""
        ...

    def step(self, state: Any, words: Tensor) -> tuple[Tensor, Any]:
        """After words (B,): scores (B, V) of the next word, and the state that knows these words too."""
        ...

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Scores (B, T, V) of the word after each of target (B, T), which begins with the start symbol."""
        ...


def select(nest: Any, rows: Tensor) -> Any:
    """Rows of a memory or a state; rows: their numbers, repeated where wanted."""
    return tree_map_only(Tensor, lambda tensor: tensor.index_select(0, rows), nest)


def sequence_build(make: Callable[..., nn.Module], **sizes: Any) -> Build:
    """The `ModelSpec.build` of a model that `make(vocabulary=, drop_rate=, **sizes, **options)` makes.

    The outputs of its head are the words of its vocabulary; it sees no image: RegardError for arguments of images.
    """

    def build(*, num_classes: int, img_size: int, drop_rate: float, drop_path_rate: float, **options: str) -> nn.Module:
        if num_classes < FEWEST_WORDS:
            raise RegardError(
                f"num_classes={num_classes}: expected the words of the vocabulary, padding, start and end among them, "
                f"at least {FEWEST_WORDS}"
            )
        if img_size:
            raise RegardError(f"img_size={img_size}: the model reads words, not images; leave it out")
        if drop_path_rate:
            raise RegardError(f"drop_path_rate={drop_path_rate}: the model has no stochastic depth; use drop_rate")
        return make(vocabulary=num_classes, drop_rate=drop_rate, **sizes, **options)

    return build
