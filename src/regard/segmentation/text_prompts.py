"""A text as a prompt: everything mode finds the masks, CLIP says which of them the text is about.

The text prompt of the paper (arXiv 2304.02643, section 7.5) needs weights that were never published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from regard.data.decoding import ImageSource, decode
from regard.inference.image_text import ImageText
from regard.masks import Mask
from regard.segmentation.everything import Options, everything
from regard.segmentation.naming import Ranking, TextScorer, crop_vectors
from regard.segmentation.segmenter import Segmenter

COARSE = Options(points_per_side=16)  # a quarter of the usual clicks: small things are seldom asked for by text


class TextRanker:
    """Finds what texts say in images. Another text about the last image costs no more than its encoding.

    options: of everything mode; `Options()` asks at four times as many points as the default.
    """

    def __init__(self, clip: ImageText, options: Options = COARSE) -> None:
        self.clip, self.options = clip, options
        self._last: tuple[Segmenter, str, tuple[Mask, ...], Tensor] | None = None

    def __call__(
        self,
        segmenter: Segmenter,
        image: ImageSource,
        text: str,
        on_event: Callable[[dict[str, Any]], object] = lambda event: None,
    ) -> Ranking:
        """All masks of an image, those that fit the text first; on_event: as in `everything`.

        Raises RegardError for an empty text, and ImageError.
        """
        scorer = TextScorer(self.clip, [text])
        pixels = decode(image)
        key = segmenter.embed(pixels).key
        if self._last is None or self._last[0] is not segmenter or self._last[1] != key:
            masks = everything(segmenter, pixels, self.options, on_event).masks
            self._last = segmenter, key, masks, crop_vectors(self.clip, pixels, masks)
        _, _, masks, crops = self._last
        return scorer.rank(crops, masks)
