from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.generation import Hypothesis, beam_search, greedy, length_penalty, narrowed, sample, score
from regard.models import create_model
from regard.models.sequences import Symbols
from regard.models.transformer import Transformer

END = 2
MODELS = ["transformer_tiny", "gru_tiny", "gru_attention_tiny", "bytenet_tiny"]


class Chain:
    """A model whose next word depends on the last word only: last word -> {next word: probability}, else the end."""

    def __init__(self, table: dict[int, dict[int, float]], vocabulary: int) -> None:
        p = torch.zeros(vocabulary, vocabulary)
        p[[word for word in range(vocabulary) if word not in table], END] = 1
        for word, row in table.items():
            for following, value in row.items():
                p[word, following] = value
        self.log_p = p.log()

    def encode(self, source: Tensor) -> Tensor:
        return source

    def start(self, memory: Tensor) -> Tensor:
        return memory

    def step(self, state: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_p[words], state

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        return self.log_p[target]


def made(name: str, words: int = 12) -> tuple[nn.Module, Tensor]:
    """A random model that does not write one word for ever, and sources of 6, 3 and 1 words."""
    torch.manual_seed(0)
    model = create_model(name, words).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(1.7)
    source = torch.randint(3, words, (3, 6))
    source[1, 3:] = source[2, 1:] = 0
    return model, source


@torch.no_grad()
def greedy_without_cache(model: nn.Module, source: Tensor, most: int) -> Hypothesis:
    """One source (1, S): the whole model anew for every word, in plain words."""
    written, total = [1], 0.0
    while len(written) <= most:
        scores = model(source, torch.tensor([written]))[0, -1]
        scores[[0, 1]] = -math.inf
        log_p = scores.log_softmax(0)
        word = int(log_p.argmax())
        total += float(log_p[word])
        if word == END:
            return Hypothesis(tuple(written[1:]), total, True)
        written.append(word)
    return Hypothesis(tuple(written[1:]), total, False)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_with_a_cache_is_greedy_without(name: str) -> None:
    model, source = made(name)
    found = greedy(model, source, most=9)  # pyright: ignore[reportArgumentType]
    for row, length in enumerate((6, 3, 1)):
        expected = greedy_without_cache(model, source[row : row + 1, :length], 9)
        assert (found[row].words, found[row].ended) == (expected.words, expected.ended)
        assert found[row].log_probability == pytest.approx(expected.log_probability, abs=1e-4)
    assert len({round(one.log_probability, 3) for one in found}) == 3


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_of_one_is_greedy(name: str, alpha: float) -> None:
    model, source = made(name)
    for one, (best, *rest) in zip(
        greedy(model, source, most=9),  # pyright: ignore[reportArgumentType]
        beam_search(model, source, most=9, beam=1, alpha=alpha),  # pyright: ignore[reportArgumentType]
        strict=True,
    ):
        assert rest == [] and (one.words, one.ended) == (best.words, best.ended)
        assert best.log_probability == pytest.approx(one.log_probability, abs=1e-4)


@torch.no_grad()
def every_sentence(model: nn.Module, source: Tensor, words: range, most: int) -> list[Hypothesis]:
    """All that can be written about one source (1, S), its probability from the whole model at once."""
    found = []
    for count in range(most + 1):
        for sentence in itertools.product(words, repeat=count):
            ended = count < most
            target = torch.tensor([[1, *sentence, END][: count + ended + 1]])
            scores = model(source, target[:, :-1])[0].index_fill(1, torch.tensor([0, 1]), -math.inf)
            total = scores.log_softmax(1).gather(1, target[0, 1:, None]).sum().item()
            found.append(Hypothesis(sentence, total, ended))
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_beam_that_holds_everything_finds_what_exhaustive_search_finds(alpha: float) -> None:
    torch.manual_seed(0)
    model = Transformer(6, dim=8, depth=1, num_heads=2, hidden_dim=16).eval()
    source = torch.tensor([[3, 4, 5], [5, 0, 0]])
    searched = beam_search(model, source, most=4, beam=130, alpha=alpha)
    for row, length in enumerate((3, 1)):
        everything = every_sentence(model, source[row : row + 1, :length], range(3, 6), most=4)
        assert math.fsum(math.exp(one.log_probability) for one in everything) == pytest.approx(1, abs=1e-5)
        everything.sort(key=lambda one: (one.ended, score(one, alpha)), reverse=True)
        assert len(searched[row]) == len(everything) == 1 + 3 + 9 + 27 + 81
        for ours, theirs in zip(searched[row], everything, strict=True):
            assert ours.ended == theirs.ended
            assert score(ours, alpha) == pytest.approx(score(theirs, alpha), abs=1e-5)
        probability = {one.words: one.log_probability for one in everything}
        assert all(one.log_probability == pytest.approx(probability[one.words], abs=1e-5) for one in searched[row])
        assert searched[row][0].words == everything[0].words


def garden_path() -> tuple[Chain, Tensor]:
    """After the start 3 is likelier than 4, but what follows 3 is unsure and what follows 4 is sure."""
    table = {1: {3: 0.6, 4: 0.4}, 3: {5: 0.5, 6: 0.5}, 4: {7: 1.0}, 5: {END: 1.0}, 6: {END: 1.0}, 7: {END: 1.0}}
    return Chain(table, 8), torch.zeros(2, 1)


def test_a_beam_of_two_leaves_the_garden_path_that_greed_takes() -> None:
    model, source = garden_path()
    assert [one.words for one in greedy(model, source, most=5)] == [(3, 5)] * 2
    for found in beam_search(model, source, most=5, beam=2):
        assert found[0].words == (4, 7) and found[0].ended
        assert found[0].log_probability == pytest.approx(math.log(0.4))
        assert len(found) == 2 and found[1].log_probability == pytest.approx(math.log(0.3))


def test_a_hypothesis_that_ended_is_not_continued_and_gives_no_place_away() -> None:
    """The likeliest sentence ends at once; the others go on until they are cut."""
    model = Chain({1: {END: 0.5, 3: 0.3, 4: 0.2}, 3: {3: 0.9, END: 0.1}, 4: {4: 1.0}}, 5)
    (found,) = beam_search(model, torch.zeros(1, 1), most=3, beam=2, alpha=0.0)
    assert [(one.words, one.ended) for one in found] == [((), True), ((3, 3, 3), False)]
    assert found[1].log_probability == pytest.approx(math.log(0.3 * 0.9 * 0.9))


def test_the_length_penalty_is_gnmts_and_lets_longer_sentences_win() -> None:
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(13, 1.0) == 3.0
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6)
    assert score(Hypothesis((5, 6), -3.0, True), 1.0) == pytest.approx(-3.0 / (8 / 6))
    assert score(Hypothesis((5, 6), -3.0, False), 1.0) == pytest.approx(-3.0 / (7 / 6))
    model = Chain({1: {3: 0.6, 4: 0.4}, 4: {5: 1.0}, 5: {6: 1.0}}, 7)
    best = {alpha: beam_search(model, torch.zeros(1, 1), 5, beam=2, alpha=alpha)[0][0].words for alpha in (0.0, 3.0)}
    assert best == {0.0: (3,), 3.0: (4, 5, 6)}  # log 0.6 / (7/6)^3 = -0.322, log 0.4 / (9/6)^3 = -0.271


def test_what_was_cut_says_so() -> None:
    model = Chain({1: {3: 1.0}, 3: {3: 1.0}}, 4)
    for found in (greedy(model, torch.zeros(1, 1), 3), beam_search(model, torch.zeros(1, 1), 3)[0]):
        assert found == [Hypothesis((3, 3, 3), 0.0, False)]


def test_padding_and_start_are_never_written() -> None:
    model = Chain({1: {0: 0.5, 1: 0.3, 3: 0.2}, 3: {0: 0.9, END: 0.1}}, 4)
    (found,) = greedy(model, torch.zeros(1, 1), 5)
    assert found == Hypothesis((3,), 0.0, True)
    assert beam_search(model, torch.zeros(1, 1), 5)[0] == [found]
    assert sample(model, torch.zeros(1, 1), 5, seed=0) == [found]


def test_other_symbols() -> None:
    model = Chain({0: {0: 1.0}, 3: {1: 1.0}, 1: {2: 1.0}, 2: {0: 1.0}}, 4)
    symbols = Symbols(pad=3, start=3, end=0)
    assert greedy(model, torch.zeros(1, 1), 5, symbols)[0].words == (1, 2)
    assert beam_search(model, torch.zeros(1, 1), 5, symbols=symbols)[0][0].words == (1, 2)


def test_samples_come_as_often_as_the_model_says() -> None:
    model = Chain({1: {3: 0.5, 4: 0.3, END: 0.2}, 3: {END: 1.0}, 4: {3: 0.5, END: 0.5}}, 5)
    count = 20_000
    found = [one.words for one in sample(model, torch.zeros(count, 1), most=4, seed=0)]
    expected = {(): 0.2, (3,): 0.5, (4,): 0.15, (4, 3): 0.15}
    assert set(found) == set(expected)
    chi_square = sum((found.count(words) - count * p) ** 2 / (count * p) for words, p in expected.items())
    assert chi_square < 16.3  # 99.9% of three degrees of freedom
    again = [one.words for one in sample(model, torch.zeros(count, 1), most=4, seed=0)]
    assert again == found
    assert [one.words for one in sample(model, torch.zeros(count, 1), most=4, seed=1)] != found


def test_narrowed_by_hand() -> None:
    log_p = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()

    def close(p: Tensor, expected: list[float]) -> bool:
        return bool((p - torch.tensor([expected])).abs().max() < 1e-6)

    assert close(narrowed(log_p), [0.1, 0.4, 0.2, 0.3])
    assert close(narrowed(log_p, top_k=2), [0, 4 / 7, 0, 3 / 7])
    assert close(narrowed(log_p, top_k=9), [0.1, 0.4, 0.2, 0.3])
    assert close(narrowed(log_p, top_p=0.71), [0, 4 / 9, 2 / 9, 3 / 9])
    assert close(narrowed(log_p, top_p=0.69), [0, 4 / 7, 0, 3 / 7])
    assert close(narrowed(log_p, top_p=1e-9), [0, 1, 0, 0])
    assert close(narrowed(log_p, temperature=0.5), [0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3])
    assert close(narrowed(log_p, top_k=2, top_p=0.5), [0, 1, 0, 0])  # 4/7 of what top-k left is enough
    assert close(narrowed(torch.full((1, 4), 0.25).log(), top_k=1), [1, 0, 0, 0])


def test_samples_of_one_word_are_greedy() -> None:
    model, source = made("transformer_tiny")
    expected = greedy(model, source, most=9)  # pyright: ignore[reportArgumentType]
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        assert sample(model, source, most=9, seed=3, **narrow) == expected  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0}, "temperature=0: expected a number above 0"),
        ({"top_k": 0}, "top_k=0: expected a count"),
        ({"top_p": 0.0}, "top_p=0.0: expected a probability"),
        ({"top_p": 1.5}, "top_p=1.5: expected a probability"),
    ],
)
def test_arguments_outside_their_range(arguments: dict, message: str) -> None:
    with pytest.raises(RegardError, match=message):
        sample(garden_path()[0], torch.zeros(1, 1), 3, seed=0, **arguments)
    with pytest.raises(RegardError, match="beam=0: expected"):
        beam_search(garden_path()[0], torch.zeros(1, 1), 3, beam=0)
    for write in (greedy, beam_search):
        with pytest.raises(RegardError, match="most=0: expected a count of words"):
            write(garden_path()[0], torch.zeros(1, 1), 0)
