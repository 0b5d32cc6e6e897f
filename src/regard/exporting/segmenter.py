"""SAM as two ONNX files: `encoder.onnx`, once for each image, and `decoder.onnx`, for any prompts.

Names of inputs and outputs are those of the export of the published code, and so is what they mean: a box is two
points with the labels 2 and 3, and where there is no box, a point at (0, 0) with the label -1 comes last. New is that
P prompts are answered at once.

encoder  images (1, 3, S, S), resized, normalised and filled up            -> image_embeddings (1, C, h, w)
decoder  image_embeddings; point_coords (P, n, 2) in pixels of the input; point_labels (P, n); mask_input
         (P, 1, 4h, 4w); has_mask_input (P,), 1 or 0; orig_im_size (2,), height and width of the image, all float32
         -> masks (P, 4, height, width), logits; iou_predictions (P, 4); low_res_masks (P, 4, 4h, 4w)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.decoding import ImageSource, decode
from regard.exporting.agreement import Agreement, Differences
from regard.exporting.onnx_files import ENGINES, write_onnx
from regard.models import vitdet
from regard.models.sam import FOREGROUND, MASKS, PADDING, SAM, Prompts
from regard.segmentation.frame import Frame
from regard.segmentation.segmenter import Segmenter

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
OUTPUTS = ("masks", "iou_predictions", "low_res_masks")
CORNERS = (2, 3)  # labels of the corners of a box
TILE_LOGITS = 1 << 25  # of the encoder's attention at a time, 134 MB: a graph of small tiles takes minutes to draw
MOST_PIXELS = 1 << 17  # per side of an image


class Encoder(nn.Module):
    """images (1, 3, S, S) -> image_embeddings (1, C, h, w)."""

    def __init__(self, model: SAM) -> None:
        super().__init__()
        self.image_encoder = model.image_encoder

    def forward(self, images: Tensor) -> Tensor:
        return self.image_encoder(images)


class Decoder(nn.Module):
    """What the module's docstring says of `decoder`."""

    places: Tensor
    kinds: Tensor

    def __init__(self, model: SAM) -> None:
        super().__init__()
        self.model = model
        encoder = model.prompt_encoder
        kinds = [encoder.not_a_point_embed, *encoder.point_embeddings]  # of the labels -1, 0, 1, 2 and 3
        self.register_buffer("places", encoder.image_positions().detach())
        self.register_buffer("kinds", torch.cat([kind.get_parameter("weight").detach() for kind in kinds]))

    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoder = self.model.prompt_encoder
        labels = point_labels.to(torch.int64)
        codes = encoder.pe_layer((point_coords + 0.5) / encoder.img_size)  # (P, n, C)
        codes = torch.where((labels == PADDING)[..., None], torch.zeros_like(codes), codes)
        sparse = codes + self.kinds[labels - PADDING]
        no_mask = encoder.no_mask_embed.weight[:, :, None, None]  # (1, C, 1, 1)
        has_mask = has_mask_input[:, None, None, None] > 0
        dense = torch.where(has_mask, encoder.mask_downscaling(mask_input), no_mask)  # (P, C, h, w)
        read = self.model.mask_decoder.read(image_embeddings, self.places, sparse, dense)
        logits = self.model.draw(read)  # (P, 4, 4h, 4w)
        return self._upsample(logits, orig_im_size), read.iou, logits

    def _upsample(self, logits: Tensor, size: Tensor) -> Tensor:
        """(P, 4, 4h, 4w) -> (P, 4, height, width), as `Frame.upsample`: two bilinear steps, each a product of matrices
        whose sides may be numbers that only the graph knows.
        """
        side = self.model.img_size
        resized = torch.floor(size * (side / size.max()) + 0.5).clamp(min=1.0)
        rows = _twice_bilinear(logits.shape[2], side, resized[0], size[0])  # (height, 4h)
        columns = _twice_bilinear(logits.shape[3], side, resized[1], size[1])  # (width, 4w)
        return rows @ logits @ columns.T


def _twice_bilinear(low: int, side: int, resized: Tensor, full: Tensor) -> Tensor:
    """(full, low): what each of `low` places gives to each of `full`, by way of the first `resized` of `side`."""
    count = full.to(torch.int64).item()
    torch._check(count >= 1)
    torch._check(count <= MOST_PIXELS)
    at = (torch.arange(count, dtype=torch.float32) + 0.5) * (resized / full) - 0.5
    at = torch.minimum(at.clamp(min=0.0), resized - 1)
    before = at.floor()
    after = torch.minimum(before + 1, resized - 1)
    share = (at - before)[:, None]
    return (1 - share) * _bilinear(before, low, side) + share * _bilinear(after, low, side)


def _bilinear(places: Tensor, low: int, side: int) -> Tensor:
    """(n,) places among `side`, from 0 -> (n, low): what each of `low` places gives to them, corners not aligned."""
    at = ((places + 0.5) * (low / side) - 0.5).clamp(0.0, low - 1.0)
    return (1 - (at[:, None] - torch.arange(low, dtype=torch.float32)).abs()).clamp(min=0.0)


def export_segmenter(
    segmenter: Segmenter, folder: Path, opset: int, photos: Sequence[ImageSource]
) -> tuple[Agreement, ...]:
    """Writes both files into `folder` and compares them with the segmenter in every engine. The model is on the CPU.

    Raises RegardError where a graph cannot be drawn, or says something else.
    """
    model = segmenter.model
    with _few_tiles():
        size = (1, 3, model.img_size, model.img_size)
        write_onnx(Encoder(model), {"images": torch.zeros(size)}, ("image_embeddings",), folder / ENCODER, opset, {})
    several = {"point_coords": {0: "prompts", 1: "points"}, "point_labels": {0: "prompts", 1: "points"}}
    several |= {"mask_input": {0: "prompts"}, "has_mask_input": {0: "prompts"}}
    write_onnx(Decoder(model), _example(model), OUTPUTS, folder / DECODER, opset, several)
    return tuple(agreement for engine in ENGINES for agreement in _compare(segmenter, folder, engine, photos))


@contextmanager
def _few_tiles() -> Iterator[None]:
    """While a graph is drawn, attention of the image encoder in few large tiles."""
    before = vitdet.TILE_LOGITS
    vitdet.TILE_LOGITS = TILE_LOGITS
    try:
        yield
    finally:
        vitdet.TILE_LOGITS = before


def _example(model: SAM) -> dict[str, Tensor]:
    prompts, points = 2, 3
    width = model.prompt_encoder.no_mask_embed.embedding_dim
    return {
        "image_embeddings": torch.zeros(1, width, *model.grid),
        "point_coords": torch.zeros(prompts, points, 2),
        "point_labels": torch.ones(prompts, points),
        "mask_input": torch.zeros(prompts, 1, *model.mask_sides),
        "has_mask_input": torch.tensor([0.0, 1.0]),
        "orig_im_size": torch.tensor([model.img_size / 2, model.img_size]),
    }


# --- the comparison ---------------------------------------------------------------------------------------


def _compare(segmenter: Segmenter, folder: Path, engine: str, photos: Sequence[ImageSource]) -> tuple[Agreement, ...]:
    """The files one after the other, from pixels to masks, against what the segmenter says."""
    encoded, decoded = Differences(ENCODER, engine), Differences(DECODER, engine)
    encode, decode_prompts = (ENGINES[engine](folder / name) for name in (ENCODER, DECODER))
    for photo in photos:
        pixels = decode(photo)
        embedded = segmenter.embed(pixels)
        (embedding,) = encode({"images": embedded.frame.inputs(pixels).numpy()})
        encoded.add({"image_embeddings": embedding}, {"image_embeddings": embedded.embedding.numpy()})
        for ask in (_one_point, _several_points, _boxes, partial(_again, segmenter, pixels)):
            prompts = ask(embedded.frame)
            wanted = segmenter.decode(embedded, prompts)
            full = embedded.frame.upsample(wanted.logits)
            answers = decode_prompts(
                {"image_embeddings": embedding} | decoder_inputs(segmenter.model, embedded.frame, prompts)
            )
            decoded.add(
                dict(zip(OUTPUTS, answers, strict=True)),
                dict(zip(OUTPUTS, (full.numpy(), wanted.iou.numpy(), wanted.logits.numpy()), strict=True)),
            )
    return *encoded.agreements(), *decoded.agreements()


def decoder_inputs(model: SAM, frame: Frame, prompts: Prompts) -> dict[str, np.ndarray]:
    """Prompts in pixels of the image as `decoder.onnx` takes them, the embedding left out."""
    places, kinds = [], []
    count = next(len(part) for part in prompts if part is not None)
    if prompts.points is not None and prompts.labels is not None:
        places.append(frame.points(prompts.points))
        kinds.append(prompts.labels)
    if prompts.boxes is not None:
        places.append(frame.boxes(prompts.boxes).unflatten(1, (2, 2)))
        kinds.append(torch.tensor(CORNERS).expand(count, 2))
    elif places:
        places.append(torch.zeros(count, 1, 2))
        kinds.append(torch.full((count, 1), PADDING))
    masks = torch.zeros(count, 1, *model.mask_sides) if prompts.masks is None else prompts.masks
    given = {
        "point_coords": torch.cat(places, dim=1),
        "point_labels": torch.cat(kinds, dim=1),
        "mask_input": masks,
        "has_mask_input": torch.full((count,), float(prompts.masks is not None)),
        "orig_im_size": torch.tensor([frame.height, frame.width]),
    }
    return {name: tensor.float().numpy() for name, tensor in given.items()}


def _one_point(frame: Frame) -> Prompts:
    return Prompts(_in_pixels(frame, [[[0.5, 0.6]]]), torch.tensor([[FOREGROUND]]))


def _several_points(frame: Frame) -> Prompts:
    """Three prompts of two points, one of them filled up."""
    places = [[[0.3, 0.4], [0.8, 0.1]], [[0.6, 0.7], [0.1, 0.9]], [[0.9, 0.5], [0.0, 0.0]]]
    return Prompts(_in_pixels(frame, places), torch.tensor([[1, 0], [1, 1], [1, PADDING]]))


def _boxes(frame: Frame) -> Prompts:
    return Prompts(boxes=_in_pixels(frame, [[[0.2, 0.1], [0.7, 0.8]], [[0.5, 0.5], [1.0, 1.0]]]).flatten(1))


def _again(segmenter: Segmenter, pixels: np.ndarray, frame: Frame) -> Prompts:
    """A box and a point, with the mask of the answer before."""
    box = _boxes(frame).boxes[:1]  # pyright: ignore[reportOptionalSubscript]
    before = segmenter.decode(segmenter.embed(pixels), Prompts(boxes=box)).logits[:, MASKS - 1 :]
    return _one_point(frame)._replace(boxes=box, masks=before)


def _in_pixels(frame: Frame, shares: list[list[list[float]]]) -> Tensor:
    """(P, n, 2) shares of the image's width and height -> pixels of it."""
    return torch.tensor(shares) * torch.tensor([frame.width, frame.height])
