"""The half of a SAM that prompts go through, at a precision: first what it expects of a mask, then its pixels."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from regard.models.sam import SAM, Prompts, Read


class Decoder:
    """`read` and `draw` of a model in float32, or in bfloat16 but for what is decided by small differences.

    In bfloat16, places of prompts (angles of up to hundreds of turns) and estimates of IoU (compared with thresholds
    and with each other) stay in float32: their steps near 0.9 would be 0.004. Weights are copied once, as they are now.
    """

    def __init__(self, model: SAM, precision: Literal["fp32", "bf16"]) -> None:
        self._model = model
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        same = precision == "fp32"
        self._decoder = model.mask_decoder if same else copy.deepcopy(model.mask_decoder).to(self._dtype)
        self._places = model.prompt_encoder.image_positions().to(self._dtype)

    def read(self, image: Tensor, prompts: Prompts) -> Read:
        """What is known of P prompts in pixels of the input to one embedding (1, C, h, w); iou: (P, 4) float32."""
        sparse, dense = self._model.prompt_encoder(prompts)
        given = (part.to(self._dtype) for part in (image, self._places, sparse, dense))
        read = self._decoder.read(*given)
        if self._dtype is torch.float32:
            return read
        return read._replace(iou=self._model.mask_decoder.iou_prediction_head(read.tokens[:, 0].float()))

    def draw(self, read: Read, prompts: Tensor, which: slice = slice(None)) -> Tensor:
        """Logits (p, k, 4h, 4w) float32 of the masks `which` of some of the prompts, marked in a boolean (P,)."""
        some = read if prompts.all() else Read(*(part[prompts] for part in read))
        return self._decoder.draw(some, self._model.grid, which).float()
