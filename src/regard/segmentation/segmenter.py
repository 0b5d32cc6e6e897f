"""`Segmenter`: a SAM that answers prompts to images, each image embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from regard.data.decoding import ImageSource, decode
from regard.errors import RegardError
from regard.inference.features import backbone_hash
from regard.inference.precision import autocast, device_of
from regard.models.sam import SAM, Masks, Prompts
from regard.segmentation.by_text import decided_by_text, masks_of_text
from regard.segmentation.embeddings import MEMORY, EmbeddingCache, pixels_key
from regard.segmentation.frame import Frame
from regard.segmentation.prompts import as_prompts

if TYPE_CHECKING:
    from regard.segmentation.text_prompts import TextRanker

    Answer = tuple[np.ndarray, np.ndarray, np.ndarray]

ARGUMENTS = frozenset(
    ("point_coords", "point_labels", "box", "mask_input", "text", "multimask_output", "return_logits")
)
CHUNK = 4  # prompts decoded at once: what they need stays in the caches


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image as the decoder sees it.

    embedding: (1, C, h, w) float32 on the model's device; key: SHA-256 of the image's pixels.
    """

    frame: Frame
    embedding: Tensor = field(repr=False)
    key: str


class Segmenter:
    """Masks of what is asked for in images, with the names and defaults of the original's `SamPredictor`.

    model: in evaluation mode; name: of the model or the run; messages: what the user has to hear; text_ranker: finds
    what texts say. precision: of the image encoder, and of everything mode. memory: bytes of embeddings to keep;
    cache: a folder for those that outlive the process.

    It holds no open files, threads or global state, and can be pickled.
    """

    def __init__(
        self,
        model: SAM,
        name: str = "",
        precision: Literal["fp32", "bf16"] = "fp32",
        cache: str | Path | None = None,
        memory: int = MEMORY,
        messages: Iterable[str] = (),
        text_ranker: TextRanker | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise RegardError(f"precision={precision!r}: expected fp32 or bf16")
        self.model = model.eval()
        self.name = name or type(model).__name__
        self.precision: Literal["fp32", "bf16"] = precision
        self.messages = list(messages)
        self.text_ranker = text_ranker
        shape = (1, model.prompt_encoder.no_mask_embed.embedding_dim, *model.grid)
        self._cache = EmbeddingCache(memory, cache, shape, self.messages)
        self._weights: tuple[str, str] = "", ""  # their versions, and the hash of their content then
        self._image: tuple[np.ndarray, Embedded] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    # What everything else is made of

    def embed(self, image: ImageSource) -> Embedded:
        """An image ready for prompts, computed once for the same pixels.

        image: a path, a PIL image, (H, W, 3) uint8 or a tensor, as everywhere. Raises ImageError by name.
        """
        pixels = decode(image)
        height, width = pixels.shape[:2]
        frame, content = Frame(height, width, self.model.img_size), pixels_key(pixels)
        key = self._key(content)
        embedding = self._cache.find(key)
        if embedding is None:
            embedding = self._encode(frame.inputs(pixels))
            self._cache.write(key, embedding)
        embedding = embedding.to(self.device)
        self._cache.remember(key, embedding)
        return Embedded(frame, embedding, content)

    @torch.no_grad()
    def decode(self, embedded: Embedded, prompts: Prompts) -> Masks:
        """All four masks of P prompts in pixels of the image: logits (P, 4, 4h, 4w) and estimates (P, 4), float32."""
        asked = self.place(embedded.frame, prompts)
        count = next(len(part) for part in asked if part is not None)
        chunks = (slice(start, start + CHUNK) for start in range(0, count, CHUNK))
        found = [
            self.model.decode(embedded.embedding, Prompts(*(None if part is None else part[chunk] for part in asked)))
            for chunk in chunks
        ]
        return Masks(
            torch.cat([masks.logits for masks in found]).float(), torch.cat([masks.iou for masks in found]).float()
        )

    def place(self, frame: Frame, prompts: Prompts) -> Prompts:
        """Prompts in pixels of the image -> in those of the input, on the model's device."""
        points, labels, boxes, masks = prompts
        return Prompts(
            None if points is None else frame.points(points).to(self.device),
            None if labels is None else labels.to(self.device),
            None if boxes is None else frame.boxes(boxes).to(self.device),
            None if masks is None else masks.to(self.device, torch.float32),
        )

    @staticmethod
    def choose(masks: Masks, multimask_output: bool) -> Masks:
        """The published rule: masks 1 to 3 where several are wanted, else mask 0."""
        which = slice(1, None) if multimask_output else slice(0, 1)
        return Masks(masks.logits[:, which], masks.iou[:, which])

    # The original's predictor

    def set_image(self, image: ImageSource, image_format: Literal["RGB", "BGR"] = "RGB") -> None:
        """The image that `predict` is about. image_format: the order of the channels of an array."""
        if image_format not in ("RGB", "BGR"):
            raise RegardError(f"image_format={image_format!r}: expected RGB or BGR")
        self.reset_image()
        pixels = decode(image)
        pixels = pixels if image_format == "RGB" else np.ascontiguousarray(pixels[..., ::-1])
        self._image = pixels, self.embed(pixels)

    def reset_image(self) -> None:
        """Forget the image that was set."""
        self._image = None

    @property
    def image(self) -> Embedded:
        """The image that was set. Raises RegardError where there is none."""
        return self._set()[1]

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        text: str | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Answer:
        """Masks of one prompt, or of P, in the image that was set.

        Args:
            point_coords: (n, 2) or (P, n, 2) x, y in pixels of the image.
            point_labels: (n,) or (P, n): 1 on the object, 0 beside it, -1 for none (fills a row up).
            box: (4,) or (P, 4) x0, y0, x1, y1.
            mask_input: (1, 4h, 4w) or (P, 1, 4h, 4w): low-resolution logits of an answer before.
            text: what to look for. Alone it finds the masks that fit it, best first, of the whole image; with other
                prompts it decides between the three masks of each.
            multimask_output: the three masks of an ambiguous prompt, else the one that is meant for several prompts;
                of a text, the best three or the best.
            return_logits: logits instead of masks.

        Returns: masks (k, H, W) bool, the model's estimates of their IoU (k,), and low-resolution logits (k, 4h, 4w),
        all with P in front where every prompt had it. k is less, down to 0, where fewer masks fit a text.

        Raises RegardError, naming the argument, for anything else.
        """
        pixels, embedded = self._set()
        asked = (point_coords, point_labels, box, mask_input)
        return self._answer(pixels, embedded, *asked, text, multimask_output, return_logits)

    def predict_images(self, images: Sequence[ImageSource], prompts: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """`predict` for many images: for each its prompts, by the names of `predict`'s arguments."""
        if len(images) != len(prompts):
            raise RegardError(f"prompts: {len(prompts)} for {len(images)} images; give as many as images")
        unknown = {name for asked in prompts for name in asked} - ARGUMENTS
        if unknown:
            raise RegardError(f"prompts: {min(unknown)!r} is none; expected {', '.join(sorted(ARGUMENTS))}")
        answers = []
        for image, asked in zip(images, prompts, strict=True):
            pixels = decode(image)
            answers.append(self._answer(pixels, self.embed(pixels), **asked))
        return answers

    def _answer(
        self,
        pixels: np.ndarray,
        embedded: Embedded,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        text: str | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> Answer:
        frame, given = embedded.frame, (point_coords, point_labels, box, mask_input)
        count = 3 if multimask_output else 1
        if text is not None and all(part is None for part in given):
            masks, single = masks_of_text(self, self._ranker(), pixels, embedded, text, count), True
        else:
            prompts, single = as_prompts(frame.height, frame.width, self.model.mask_sides, *given)
            ranker = None if text is None else self._ranker()
            masks = self.choose(self.decode(embedded, prompts), multimask_output or ranker is not None)
            if text is not None and ranker is not None:
                masks = decided_by_text(ranker.clip, frame, pixels, masks, text, count)
        drawn = frame.upsample(masks.logits) if return_logits else frame.masks(masks.logits)
        answer = drawn.cpu().numpy(), masks.iou.cpu().numpy(), masks.logits.cpu().numpy()
        return (answer[0][0], answer[1][0], answer[2][0]) if single else answer

    # Small things

    def _set(self) -> tuple[np.ndarray, Embedded]:
        if self._image is None:
            raise RegardError("predict: no image was set; call set_image(image) first")
        return self._image

    def _ranker(self) -> TextRanker:
        if self.text_ranker is None:
            raise RegardError("text: needs a CLIP; name one as you load the segmenter (clip=, --clip NAME or FOLDER)")
        return self.text_ranker

    @torch.no_grad()
    def _encode(self, inputs: Tensor) -> Tensor:
        """(1, 3, S, S) -> (1, C, h, w) float32."""
        with autocast(self.precision, self.device):
            return self.model.embed(inputs.to(self.device)).float()

    def _key(self, content: str) -> str:
        """Of an embedding: what it was made of. Only a folder needs the weights by their content, a while of work."""
        encoder = self.model.image_encoder
        versions = " ".join(f"{id(weight)}.{weight._version}" for weight in encoder.parameters())
        if self._cache.folder is not None and self._weights[0] != versions:
            self._weights = versions, backbone_hash(encoder)
        weights = versions if self._cache.folder is None else self._weights[1]
        return hashlib.sha256(f"{content} {weights} {self.model.img_size} {self.precision}".encode()).hexdigest()
