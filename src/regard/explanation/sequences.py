"""The encoder-decoder Transformer looked into: which words of a sentence look at which, and what made it write a word.

Relevance: "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers" (Chefer,
Gur and Wolf, ICCV 2021, arXiv 2103.15679), section 3, s and t being words of the source and of the target:

    Abar = mean_h max(0, A * dy/dA);    R_ss = I, R_tt = I, R_ts = 0 before the first layer;    then, layer by layer,
    encoder       R_ss <- R_ss + Abar R_ss
    decoder       R_tt <- R_tt + Abar R_tt,   R_ts <- R_ts + Abar R_ts
    cross         R_ts <- R_ts + N(R_tt)^T Abar N(R_ss)                                       (rule 10)
                  R_tt <- R_tt + Abar R_st                  (rule 11; R_st = 0: the source sees no target)
    N(R) = (R - I) with rows that sum to 1 (or are 0), + I
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.explanation.asking import observed
from regard.explanation.flow import MEAN, chosen_heads, class_scores, positive_mean, precise
from regard.models.transformer import Transformer
from regard.taps import edit, record

Which = Literal["encoder", "decoder", "cross"]
TAPS: dict[Which, str] = {
    "encoder": "encoder.blocks.{}.attn",
    "decoder": "decoder.blocks.{}.attn",
    "cross": "decoder.blocks.{}.cross",
}


class SequenceRelevance(NamedTuple):
    """What each word counts for one written word: source (B, S), 0 at padding; target (B, step + 1), the words before.

    The last of the target, from which the word is written, holds the 1 that the rules start from.
    """

    source: Tensor
    target: Tensor


def sequence_attention(
    model: Transformer, source: Tensor, target: Tensor, which: Which, *, layer: int = -1, head: str | int = MEAN
) -> Tensor:
    """The pattern (B, N, M) of a layer: row n is how much word n looks at each of M words; rows sum to 1.

    source (B, S), target (B, T): word numbers, the target from the start symbol on. which: the encoder's words at each
    other, N = M = S; the decoder's at those before, N = M = T; or cross, the alignment, N = T and M = S. layer: from
    the last where negative; head: a number, or "mean" of all. Raises RegardError for a layer or head that does not
    exist.
    """
    names = _names(model, which)
    if not -len(names) <= layer < len(names):
        raise RegardError(f"layer={layer}: no such layer; the model has 0 to {len(names) - 1}, -1 being the last")
    name = names[layer]
    heads = chosen_heads(head, model.decoder.blocks[0].attn.num_heads, name)

    def read(pattern: Tensor) -> Tensor:
        return pattern[:, heads].mean(1, dtype=precise(pattern))

    with observed(model), torch.no_grad(), record(model, f"{name}.pattern", keep=read) as seen:
        model(source, target)
    return seen[f"{name}.pattern"]


def sequence_relevance(
    model: Transformer, source: Tensor, target: Tensor, step: int, words: Tensor | None = None
) -> SequenceRelevance:
    """What of source (B, S) and of target[:, :step + 1] made the model write the next word; all >= 0, float32.

    source, target (B, T): word numbers, the target from the start symbol on, so that step 0 asks for the first word.
    words: (B,) numbers of the words asked for, the likeliest where None. Raises RegardError for a step or a word that
    does not exist.
    """
    if not 0 <= step < target.shape[1]:
        raise RegardError(f"step={step}: no such step; of a target of {target.shape[1]}, 0 to {target.shape[1] - 1}")
    means = _positive_means(model, source, target[:, : step + 1], words)
    first = means[_names(model, "encoder")[0]]  # (B, S, S)
    of_source = torch.eye(source.shape[1], dtype=first.dtype, device=first.device).expand_as(first)
    for name in _names(model, "encoder"):
        of_source = of_source + means[name] @ of_source
    of_source = _normalised(of_source)
    of_target = torch.eye(step + 1, dtype=first.dtype, device=first.device).repeat(len(first), 1, 1)  # (B, T, T)
    mixed = first.new_zeros(len(first), step + 1, source.shape[1])  # (B, T, S)
    for own, cross in zip(_names(model, "decoder"), _names(model, "cross"), strict=True):
        of_target, mixed = of_target + means[own] @ of_target, mixed + means[own] @ mixed
        mixed = mixed + _normalised(of_target).transpose(1, 2) @ means[cross] @ of_source
    return SequenceRelevance(mixed[:, -1].float(), of_target[:, -1].float())


def _positive_means(model: Transformer, source: Tensor, target: Tensor, words: Tensor | None) -> dict[str, Tensor]:
    """Name of layer -> Abar for the word that follows the target."""
    names = [name for which in TAPS for name in _names(model, which)]
    patterns = [f"{name}.pattern" for name in names]
    # Embeddings that need a gradient bring one to the patterns of a model whose weights are frozen, too.
    embedded = edit(model, {"*.embedded": lambda x: x.requires_grad_()})
    with observed(model), embedded, record(model, *patterns) as seen:
        scores = model(source, target)[:, -1]  # (B, V)
        asked = class_scores(scores, scores.detach().argmax(1) if words is None else words)
        gradients = torch.autograd.grad(asked.sum(), [seen[pattern] for pattern in patterns])
    found = (positive_mean(seen[p].detach(), gradient) for p, gradient in zip(patterns, gradients, strict=True))
    return dict(zip(names, found, strict=True))


def _normalised(relevance: Tensor) -> Tensor:
    """N of the equations, of (B, N, N)."""
    eye = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    rest = relevance - eye
    sums = rest.sum(-1, keepdim=True)
    return torch.where(sums > 0, rest / sums, 0) + eye


def _names(model: Transformer, which: Which) -> list[str]:
    """The layers of a kind, from the first to the last."""
    return [TAPS[which].format(number) for number in range(len(model.decoder.blocks))]
