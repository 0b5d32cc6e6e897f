"""Names for masks by texts: CLIP says which of them fits. What none fits stays unknown.

Each mask is looked at in its context and before a blurred background (`crops`), each text in several sentences, whose
vectors are averaged (Radford et al. 2021, arXiv 2103.00020, section 3.1.4). The probabilities of a mask are a softmax,
with CLIP's own scale, of the mean of its two crops' cosines to the texts and to some texts for nothing in particular;
these, the background, count together as one more answer. A name is given where it is ahead of every other answer by
`MARGIN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.data.decoding import ImageSource, decode
from regard.errors import RegardError
from regard.inference.image_text import ImageText
from regard.masks import Mask
from regard.segmentation.crops import both_crops

UNKNOWN = "unknown"
MARGIN = 0.1  # of probability, between the best answer and the next
FITS = (1 + MARGIN) / 2  # probability of a single text that is so far ahead of the background
BATCH = 16  # masks looked at together: two crops each, 20 MB as floats at 224 pixels
BACKGROUNDS = ("background", "a blurry background", "a plain surface", "a texture", "nothing in particular")
SENTENCES = (
    "{}",
    "a photo of {}.",
    "a close-up photo of {}.",
    "a cropped photo of {}.",
    "a blurry photo of {}.",
    "a photo of {} in front of a blurry background.",
)
DETERMINERS = frozenset(
    ("a", "an", "the", "some", "one", "two", "three", "four", "several", "many", "my", "his", "her")
)


class Ranking(NamedTuple):
    """Masks by how well they fit a text, best first.

    fitting: those whose probability is ahead of the background's by `MARGIN`; they bear the text as their name and the
    probability as their score. others: the rest, unknown. best: the highest probability, 0 without masks.
    """

    fitting: tuple[Mask, ...]
    others: tuple[Mask, ...]
    best: float


class TextScorer:
    """How well texts fit the masks of images; the texts are encoded once.

    texts: names ("dog") or phrases ("a dog on the left"); backgrounds: what stands for nothing in particular. Raises
    RegardError for texts that are empty, given twice, or too long for the model.
    """

    def __init__(self, clip: ImageText, texts: Sequence[str], backgrounds: Sequence[str] = BACKGROUNDS) -> None:
        self.clip, self.texts = clip, tuple(" ".join(text.split()) for text in texts)
        if not self.texts or not all(self.texts):
            raise RegardError("text: empty; say what to look for, as in 'a dog'")
        twice = [text for text in self.texts if self.texts.count(text) > 1]
        if twice:
            raise RegardError(f"text: {twice[0]!r} is given twice; give each name once")
        if not backgrounds:
            raise RegardError("backgrounds: none given, so every mask would be what the text says; give at least one")
        self._vectors = _text_vectors(clip, [*self.texts, *backgrounds])  # (K + backgrounds, E)

    def probabilities(self, crops: Tensor) -> np.ndarray:
        """(M, K + 1) float64 of `crop_vectors` (M, 2, E): of each text, and last of the background."""
        cosines = (crops @ self._vectors.T).mean(dim=1)  # (M, K + backgrounds)
        shares = (self.clip.scale * cosines.double()).softmax(dim=1).numpy()
        names = len(self.texts)
        return np.concatenate([shares[:, :names], shares[:, names:].sum(axis=1, keepdims=True)], axis=1)

    def name(self, image: ImageSource, masks: Sequence[Mask]) -> tuple[Mask, ...]:
        """The masks, in their order, with the text that fits each and its probability; `UNKNOWN` where none does.

        Raises ImageError.
        """
        if not masks:
            return ()
        shares = self.probabilities(crop_vectors(self.clip, image, masks))
        return tuple(self._named(mask, row) for mask, row in zip(masks, shares, strict=True))

    def rank(self, crops: Tensor, masks: Sequence[Mask]) -> Ranking:
        """Masks by how well they fit the first text; crops: their `crop_vectors`."""
        if not masks:
            return Ranking((), (), 0.0)
        shares = self.probabilities(crops)[:, 0]
        order = np.argsort(-shares, kind="stable").tolist()
        count = int((shares >= FITS).sum())
        fitting = (replace(masks[place], name=self.texts[0], score=float(shares[place])) for place in order[:count])
        others = (replace(masks[place], name=UNKNOWN, score=None) for place in order[count:])
        return Ranking(tuple(fitting), tuple(others), float(shares.max()))

    def _named(self, mask: Mask, shares: np.ndarray) -> Mask:
        second, best = np.argsort(shares, kind="stable")[-2:]
        if best == len(self.texts) or shares[best] - shares[second] < MARGIN:
            return replace(mask, name=UNKNOWN, score=None)
        return replace(mask, name=self.texts[best], score=float(shares[best]))


def rank_by_text(clip: ImageText, image: ImageSource, masks: Sequence[Mask], prompt: str) -> Ranking:
    """Masks of an image by how well they fit a text. Raises RegardError for an empty text, and ImageError."""
    return TextScorer(clip, [prompt]).rank(crop_vectors(clip, image, masks), masks)


def name_by_text(clip: ImageText, image: ImageSource, masks: Sequence[Mask], names: Sequence[str]) -> tuple[Mask, ...]:
    """Masks of an image, in their order, each with the name that fits it; for many images, keep one `TextScorer`."""
    return TextScorer(clip, names).name(image, masks)


def crop_vectors(clip: ImageText, image: ImageSource, masks: Sequence[Mask]) -> Tensor:
    """(M, 2, E) float32: what CLIP sees of each mask in its context and before a blurred background.

    An empty mask has zeros, to which no text is nearer than another. Raises ImageError.
    """
    pixels = decode(image)
    filled = [number for number, mask in enumerate(masks) if mask.area]
    if not filled:
        return torch.zeros(len(masks), 2, clip.texts(["a"]).shape[1])
    found = []
    for some in batches(filled):
        crops = torch.cat([both_crops(pixels, masks[number].runs, clip.preprocess) for number in some])
        found.append(clip.images(crops).unflatten(0, (-1, 2)))
    vectors = torch.cat(found)
    return vectors.new_zeros(len(masks), *vectors.shape[1:]).index_copy(0, torch.tensor(filled), vectors)


def batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Masks to be looked at together."""
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]


def with_article(text: str) -> str:
    """A name as a sentence has it: "dog" -> "a dog"; what has an article, or looks like a plural, stays."""
    first = text.split()[0].lower()
    if first in DETERMINERS or (text.endswith("s") and not text.endswith("ss")):
        return text
    return f"{'an' if first[0] in 'aeiou' else 'a'} {text}"


def _text_vectors(clip: ImageText, texts: Sequence[str]) -> Tensor:
    """(N, E) of length 1: of the mean of each text's sentences."""
    sentences = [sentence.format(with_article(text)) for text in texts for sentence in SENTENCES]
    return F.normalize(clip.texts(sentences).unflatten(0, (len(texts), -1)).mean(dim=1), dim=-1)
