"""Dates in words to ISO, by a Transformer, two GRUs and 1-D convolutions: the same data, steps and learning rates.

    python examples/dates.py

"on saturday the third of march nineteen eighty four" becomes 1984-03-03, letter by letter. Words are drawn anew for
every step from six ways to say a date and three to say a year; the 2,000 dates of the test are never trained on. Loss,
optimiser and schedule are those of the Transformer's paper; there is no dropout, because no sentence comes often.

It printed, on one thread of a CPU shared with other work (seed 0; each model's losses and a sentence left out):

    Encoders that read 17 / 100 words. layers: until each output has seen all inputs (in brackets: by gradients);
    steps: that wait for each other; memory: numbers kept for the gradient; then exact %, all and by words of a source.
    | model | layers | steps | memory | exact % | 4-6 | 7-9 | 10-12 | 13-16 | seconds |
    | transformer_tiny | 1 (1) / 1 | 2 / 2 | 26,435 / 155,500 | 99.80 | 99.3 | 100.0 | 99.8 | 99.6 | 151 |
    | gru_tiny | 1 (1) / 1 | 17 / 100 | 16,356 / 96,202 | 100.00 | 100.0 | 100.0 | 100.0 | 100.0 | 151 |
    | gru_attention_tiny | 1 (1) / 1 | 17 / 100 | 18,532 / 109,002 | 100.00 | 100.0 | 100.0 | 100.0 | 100.0 | 199 |
    | bytenet_tiny | 5 (5) / 28 | 8 / 8 | 81,780 / 282,640 | 65.45 | 59.4 | 73.0 | 60.4 | 58.3 | 147 |
    transformer_tiny where attention is not fused: memory 28,611 / 234,700, of which 8 n^2 are patterns

So seventeen words are no burden for one state of 64 numbers, and the GRU without attention makes no mistake; the
convolutions, which have to carry each part of a date to the column where it is written, were still learning.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from regard.inference.generation import greedy
from regard.models import count_parameters, create_model
from regard.models.convolutional_sequence import ByteNet
from regard.models.recurrent import GruSequence
from regard.models.sequences import Vocabulary
from regard.models.transformer import Transformer
from regard.taps import record
from regard.training.loop import Plan, fit
from regard.training.optimiser import make_optimiser, parameter_groups
from regard.training.schedule import noam_peak
from regard.training.sequences import SequenceBatch, sequence_loss

MODELS = ("transformer_tiny", "gru_tiny", "gru_attention_tiny", "bytenet_tiny")
WIDTH = 64  # of all four
FIRST, LAST = date(1600, 1, 1), date(2099, 12, 31)
TEST_DATES = 2000
FAR = 100  # words of an imagined long source
LEGEND = """layers: until each output has seen all inputs (in brackets: by gradients);
steps: that wait for each other; memory: numbers kept for the gradient; then exact %, all and by words of a source."""
LENGTHS = ((4, 6), (7, 9), (10, 12), (13, 16))  # words of a source, from and to


def words(text: str) -> list[str]:
    return text.split()


ONES = words("one two three four five six seven eight nine")
TEENS = words("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
ORDINALS = words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
)
ORDINALS += words("fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth")
MONTHS = words("january february march april may june july august september october november december")
WEEKDAYS = words("monday tuesday wednesday thursday friday saturday sunday")
OTHERS = words("the of on in day year and oh hundred thousand")
VOCABULARY = Vocabulary([*ONES, *TEENS, *TENS, *ORDINALS, *MONTHS, *WEEKDAYS, *OTHERS, *"0123456789-"])


def number_words(number: int) -> list[str]:
    """84 -> eighty four, for 1 to 99."""
    if number < 20:
        return [(ONES + TEENS)[number - 1]]
    tens, ones = divmod(number, 10)
    return [TENS[tens - 2], *ONES[ones - 1 : ones]] if ones else [TENS[tens - 2]]


def ordinal_words(number: int) -> list[str]:
    """3 -> third, 31 -> thirty first, for 1 to 31."""
    if number <= 20:
        return [ORDINALS[number - 1]]
    return ["thirtieth"] if number == 30 else [TENS[number // 10 - 2], ORDINALS[number % 10 - 1]]


def year_words(year: int, manner: int) -> list[str]:
    """1984 -> nineteen eighty four (manner 0), nineteen hundred and eighty four (1), one thousand nine hundred and
    eighty four (2); 2005 -> two thousand and five in all of them.
    """
    century, rest = divmod(year, 100)
    spoken = number_words(rest) if rest else []
    if century == 20:
        return ["two", "thousand", *(["and", *spoken] if rest else [])]
    if manner == 2:
        return ["one", "thousand", *number_words(century - 10), "hundred", *(["and", *spoken] if rest else [])]
    if manner == 1 or not rest:
        return [*number_words(century), "hundred", *(["and", *spoken] if rest else [])]
    return [*number_words(century), *(["oh"] if rest < 10 else []), *spoken]


def sentence(day: date, style: int, manner: int) -> list[str]:
    """A date in words, said in one of six styles, its year in one of three manners."""
    d, m, y = ordinal_words(day.day), MONTHS[day.month - 1], year_words(day.year, manner)
    weekday = WEEKDAYS[day.weekday()]
    return [
        ["the", *d, "of", m, *y],
        [m, "the", *d, *y],
        [m, *d, *y],
        ["the", *d, "day", "of", m, "in", "the", "year", *y],
        ["on", weekday, "the", *d, "of", m, *y],
        [weekday, m, *d, *y],
    ][style]


class Dates(NamedTuple):
    """Days since 1600-01-01: those to train on and those to test on, no day in both."""

    train: np.ndarray
    test: np.ndarray


def split_dates(seed: int = 0) -> Dates:
    """The same for every model; the seed draws it."""
    drawn = np.random.default_rng(seed).permutation((LAST - FIRST).days + 1)
    return Dates(drawn[TEST_DATES:], drawn[:TEST_DATES])


def draw(days: np.ndarray, rng: np.random.Generator) -> tuple[list[list[str]], list[str]]:
    """Each day in words, its style and manner drawn, and in ISO."""
    said, written = [], []
    for number in days:
        day = FIRST + timedelta(int(number))
        said.append(sentence(day, int(rng.integers(6)), int(rng.integers(3))))
        written.append(day.isoformat())
    return said, written


def training_batches(days: np.ndarray, size: int, seed: int) -> Callable[[int], Iterator[SequenceBatch]]:
    """Batch number n is a function of the seed and n."""

    def batches(number: int) -> Iterator[SequenceBatch]:
        while True:
            rng = np.random.default_rng([seed, number])
            said, written = draw(rng.choice(days, size), rng)
            yield SequenceBatch(VOCABULARY.encode(said), VOCABULARY.encode(written))
            number += 1

    return batches


def train(model: nn.Module, days: np.ndarray, steps: int, batch_size: int, warmup: int, seed: int) -> float:
    """Train with the Transformer paper's loss, optimiser and schedule; seconds it took."""
    began = time.perf_counter()
    lr = noam_peak(WIDTH, warmup)
    fit(
        model,
        training_batches(days, batch_size, seed),
        sequence_loss(smoothing=0.1),
        make_optimiser("adam", parameter_groups(model, lr, weight_decay=0.0), lr),
        Plan(steps, batch_size, warmup=warmup, schedule="inverse_root", clip_norm=1.0, seed=seed),
        on_event=lambda event: _say(event, steps),
    )
    return time.perf_counter() - began


def _say(event: dict[str, Any], steps: int) -> None:
    if event["event"] == "step" and event["step"] % max(1, steps // 5) == 0:
        print(f"  step {event['step']}: loss {event['loss']:.3f}", flush=True)


def write(model: Any, said: Sequence[Sequence[str]], batch_size: int = 250) -> list[str]:
    """What the model makes of each sentence, greedily."""
    written = []
    for first in range(0, len(said), batch_size):
        source = VOCABULARY.encode(said[first : first + batch_size])
        written += ["".join(VOCABULARY.decode(found.words)) for found in greedy(model, source, most=12)]
    return written


# --- What the architecture says ---------------------------------------------------------------------------------


class Sheet(NamedTuple):
    """Of an encoder that reads n words. layers: until each output has seen all inputs; steps: that wait for each other;
    square: how many numbers per pair of words are kept for the gradient, where attention is not fused.
    """

    layers: int
    steps: int
    square: int


def sheet(model: nn.Module, n: int) -> Sheet:
    """Computed from the architecture.

    Attention sees all in one layer, which is one step, and has a pattern of n x n per head. A GRU reads in both
    directions, so that one layer sees all, in n steps. A convolution of k columns, dilation r, reaches (k - 1) r / 2
    columns further to each side: the reaches of the layers must add up to n - 1. Layers beyond those that the model
    has go on with its dilations.
    """
    if isinstance(model, Transformer):
        blocks = model.encoder.blocks
        return Sheet(1, len(blocks), len(blocks) * blocks[0].attn.num_heads)
    if isinstance(model, GruSequence):
        return Sheet(1, n, 0)
    assert isinstance(model, ByteNet)
    reaches = [block.reach // 2 for block in model.encoder.blocks]
    layers, seen = 0, 0
    while seen < n - 1:
        seen += reaches[layers % len(reaches)]
        layers += 1
    return Sheet(layers, len(reaches), 0)


def kept(model: Any, n: int, fused: bool = True) -> int:
    """Numbers that reading n words keeps for the gradient, weights left out: counted while it reads."""
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)  # else its place in memory could be given to another one
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    held: list[torch.Tensor] = []
    source = torch.full((1, n), len(VOCABULARY) - 1)
    watched = nullcontext() if fused else record(model, "encoder.blocks.*.attn.pattern")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), watched:
        memory = model.encode(source)
    del memory
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def layers_by_gradient(model: Any, said: Sequence[str]) -> int | None:
    """The first layer whose every output has a gradient to every input word; None where none has."""
    source = VOCABULARY.encode([said])
    n = source.shape[1]
    with record(model, "encoder.embedded", "encoder.**.tokens") as seen:
        model.encode(source)
    layers = [name for name in seen if name.endswith("tokens")]  # in the order in which the model went through them
    for number, name in enumerate(layers, start=1):
        out = seen[name][0, :n]  # (n, D)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        sums = (out * weights).sum(1)
        if all(_support(one, seen["encoder.embedded"])[:n].all() for one in sums):
            return number
    return None


def _support(output: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    """(N,) whether an output has a gradient to each embedded word (1, N, D)."""
    (gradient,) = torch.autograd.grad(output, embedded, retain_graph=True)
    return gradient[0].ne(0).any(1)


def architecture(model: nn.Module, n: int, said: Sequence[str]) -> tuple[str, str, str]:
    """Layers, steps and memory for n = len(said) + 1 and for FAR words, as the table has them."""
    here, far = sheet(model, n), sheet(model, FAR)
    layers = f"{here.layers} ({layers_by_gradient(model, said)}) / {far.layers}"
    return layers, f"{here.steps} / {far.steps}", f"{kept(model, n):,} / {kept(model, FAR):,}"


# --- All together -----------------------------------------------------------------------------------------------


def main(
    models: Sequence[str] = MODELS,
    steps: int = 1500,
    batch_size: int = 64,
    warmup: int = 300,
    tested: int = TEST_DATES,
    seed: int = 0,
) -> dict[str, float]:
    """Train and test each model, print the table; the share of test dates that each writes without a mistake."""
    days = split_dates()
    said, written = draw(days.test[:tested], np.random.default_rng(1))
    lengths = np.array([len(one) for one in said])
    longest = said[int(lengths.argmax())]
    n = len(longest) + 1  # and the end symbol
    rows, remarks, found = [], [], {}
    for name in models:
        torch.manual_seed(seed)
        model = create_model(name, len(VOCABULARY))
        print(f"{name}: {count_parameters(model):,} parameters", flush=True)
        seconds = train(model, days.train, steps, batch_size, warmup, seed)
        right = np.array(write(model, said)) == np.array(written)
        found[name] = float(right.mean())
        by_length = [right[(lengths >= low) & (lengths <= high)] for low, high in LENGTHS]
        rows.append(
            [
                name,
                *architecture(model, n, longest),
                f"{100 * right.mean():.2f}",
                *(f"{100 * part.mean():.1f}" if len(part) else "-" for part in by_length),
                f"{seconds:.0f}",
            ]
        )
        if square := sheet(model, n).square:
            memory = f"{kept(model, n, fused=False):,} / {kept(model, FAR, fused=False):,}"
            remarks.append(f"{name} where attention is not fused: memory {memory}, of which {square} n^2 are patterns")
        print(f"  {' '.join(said[0])} -> {write(model, said[:1])[0]}", flush=True)
    print(f"\nEncoders that read {n} / {FAR} words. {LEGEND}")
    head = ["model", "layers", "steps", "memory", "exact %", *(f"{low}-{high}" for low, high in LENGTHS), "seconds"]
    for row in (head, *rows):
        print("| " + " | ".join(row) + " |")
    for remark in remarks:
        print(remark)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", type=int, default=1500, help="updates of the weights, of each model")
    parser.add_argument("--batch-size", type=int, default=64, help="dates per step")
    parser.add_argument("--warmup", type=int, default=300, help="steps until the highest learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order")
    given = parser.parse_args()
    main(given.models, given.steps, given.batch_size, given.warmup, seed=given.seed)
