"""Writing sequences word by word, with any model of the task "seq2seq": greedily, by sampling, or by beam search.

Every function takes sources as the model's `encode` does and keeps the model's state (a Transformer's keys and values),
so that a word costs one step. A hypothesis ends at the end symbol or after `most` words; padding and the start symbol
are never written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.models.sequences import SequenceModel, Symbols, select

DEFAULT = Symbols()


class Hypothesis(NamedTuple):
    """One written sequence.

    words: numbers, without symbols; log_probability: natural logarithm, of the end symbol too; ended: False where it
    was cut after the most words.
    """

    words: tuple[int, ...]
    log_probability: float
    ended: bool


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha, what a log-probability is divided by (Wu et al. 2016, arXiv 1609.08144, section 7)."""
    return ((5 + length) / 6) ** alpha


def score(hypothesis: Hypothesis, alpha: float) -> float:
    """log-probability over `length_penalty`; the end symbol counts as a word."""
    return hypothesis.log_probability / length_penalty(len(hypothesis.words) + hypothesis.ended, alpha)


def greedy(model: SequenceModel, source: Tensor, most: int, symbols: Symbols = DEFAULT) -> list[Hypothesis]:
    """For each source the likeliest word, again and again; most: words, the end symbol included."""
    return _write(model, source, most, symbols, lambda log_p: log_p.argmax(1))


def sample(
    model: SequenceModel,
    source: Tensor,
    most: int,
    seed: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    symbols: Symbols = DEFAULT,
) -> list[Hypothesis]:
    """For each source words drawn from the model's distribution, which is changed in this order:

    Args:
        model, source, most, symbols: as in `greedy`.
        seed: the words depend on it and on the sources together.
        temperature: what logits are divided by, > 0; below 1 likely words become likelier.
        top_k: only so many likeliest words; all where None.
        top_p: only the smallest set of likeliest words that holds this probability, in (0, 1] (Holtzman et al. 2020,
            arXiv 1904.09751, section 3.1).

    A hypothesis keeps the log-probability that the unchanged model gives it.

    Raises:
        RegardError: an argument outside its range.
    """
    for name, value, fits, expected in (
        ("temperature", temperature, temperature > 0, "a number above 0; for the likeliest words use greedy"),
        ("top_k", top_k, top_k is None or top_k >= 1, "a count of words from 1 on"),
        ("top_p", top_p, 0 < top_p <= 1, "a probability in (0, 1]"),
    ):
        if not fits:
            raise RegardError(f"{name}={value}: expected {expected}")
    generator = torch.Generator(source.device).manual_seed(seed)

    def choose(log_p: Tensor) -> Tensor:
        p = narrowed(log_p, temperature, top_k, top_p)
        return torch.multinomial(p, 1, generator=generator)[:, 0]

    return _write(model, source, most, symbols, choose)


def narrowed(log_p: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """Probabilities (B, V) from log-probabilities (B, V): temperature, then top-k, then top-p; see `sample`.

    Of equally likely words at the edge of a set, those with lower numbers are in it.
    """
    p = (log_p / temperature).softmax(1)
    ordered, places = p.sort(dim=1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = 0
        ordered = ordered / ordered.sum(1, keepdim=True)
    likelier = ordered.cumsum(1) - ordered  # what the words before each hold
    ordered = torch.where(likelier < top_p, ordered, 0)
    return torch.zeros_like(p).scatter(1, places, ordered / ordered.sum(1, keepdim=True))


@torch.no_grad()
def beam_search(
    model: SequenceModel, source: Tensor, most: int, beam: int = 4, alpha: float = 0.6, symbols: Symbols = DEFAULT
) -> list[list[Hypothesis]]:
    """For each source up to `beam` hypotheses, best first by `score`, those that ended before those that were cut.

    Defaults: the Transformer paper's. Each step takes the likeliest continuations of the live hypotheses, as many as
    the beam has free places; one that ends is set apart, and its place stays taken (after Sutskever et al. 2014,
    arXiv 1409.3215, section 3.2). Hence a beam of 1 is `greedy`, and a beam that holds every sequence finds them all.

    Raises RegardError for a beam or a count of words below 1.
    """
    if beam < 1:
        raise RegardError(f"beam={beam}: expected a count of hypotheses from 1 on")
    _check_most(most)
    memory = model.encode(source)
    count, device = len(source), source.device
    rows = torch.arange(count, device=device).repeat_interleave(beam)
    state = select(model.start(memory), rows)
    words = torch.full((count, beam), symbols.start, device=device)
    written = torch.empty(count, beam, 0, dtype=torch.long, device=device)
    # All begin alike: only the first is alive. A log-probability of -inf marks a place that holds nothing live.
    log_p = torch.full((count, beam), -torch.inf, device=device)
    log_p[:, 0] = 0
    done: list[list[Hypothesis]] = [[] for _ in range(count)]
    for _ in range(most):
        scores, state = model.step(state, words.flatten())
        continued = log_p[:, :, None] + _log_softmax(scores, symbols).unflatten(0, (count, beam))  # (count, beam, V)
        best, places = continued.flatten(1).topk(beam, dim=1)  # (count, beam)
        parents, words = places // scores.shape[1], places % scores.shape[1]  # (count, beam)
        free = beam - torch.tensor([len(found) for found in done], device=device)
        alive = best.isfinite() & (torch.arange(beam, device=device) < free[:, None])
        written = written.gather(1, parents[:, :, None].expand(-1, -1, written.shape[2]))
        for row, place in (alive & (words == symbols.end)).nonzero().tolist():
            done[row].append(Hypothesis(tuple(written[row, place].tolist()), best[row, place].item(), True))
        alive &= words != symbols.end
        log_p = best.masked_fill(~alive, -torch.inf)
        if not alive.any():
            break
        written = torch.cat([written, words[:, :, None]], dim=2)
        state = select(state, (torch.arange(count, device=device)[:, None] * beam + parents).flatten())
    for row, place in log_p.isfinite().nonzero().tolist():
        done[row].append(Hypothesis(tuple(written[row, place].tolist()), log_p[row, place].item(), False))
    return [sorted(found, key=lambda one: (one.ended, score(one, alpha)), reverse=True) for found in done]


@torch.no_grad()
def _write(
    model: SequenceModel, source: Tensor, most: int, symbols: Symbols, choose: Callable[[Tensor], Tensor]
) -> list[Hypothesis]:
    """One hypothesis per source; choose: log-probabilities (B, V) -> words (B,)."""
    _check_most(most)
    state = model.start(model.encode(source))
    words = torch.full((len(source),), symbols.start, device=source.device)
    total = torch.zeros(len(source), device=source.device)
    ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    written: list[Tensor] = []
    for _ in range(most):
        scores, state = model.step(state, words)
        log_p = _log_softmax(scores, symbols)
        words = torch.where(ended, symbols.end, choose(log_p))
        total += torch.where(ended, 0, log_p.gather(1, words[:, None])[:, 0])
        written.append(words)
        ended |= words == symbols.end
        if ended.all():
            break
    rows = torch.stack(written, dim=1).tolist()
    return [
        Hypothesis(tuple(row[: row.index(symbols.end)] if done else row), value, done)
        for row, value, done in zip(rows, total.tolist(), ended.tolist(), strict=True)
    ]


def _check_most(most: int) -> None:
    if most < 1:
        raise RegardError(f"most={most}: expected a count of words from 1 on, the end symbol included")


def _log_softmax(scores: Tensor, symbols: Symbols) -> Tensor:
    """Log-probabilities in float32 of scores (B, V), none left to padding and start."""
    unwritten = torch.tensor([symbols.pad, symbols.start], device=scores.device)
    return scores.float().index_fill(1, unwritten, -torch.inf).log_softmax(1)
