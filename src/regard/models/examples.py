"""What a model of each task takes: an example to count, record or try it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.models.clip import CONTEXT_LENGTH, VOCABULARY
from regard.models.pixel_gpt import DIGIT_LEVELS
from regard.models.registry import ModelSpec, create_model
from regard.models.sequences import Symbols

WORDS = 32  # of a source and of a target
FIRST_WORD = max(Symbols()) + 1
PUBLISHED_CLASSES = {"segment": 21}  # Pascal VOC's; of the others 1000, ImageNet's
NUMBERS_NEEDED = ("gru",)  # families that pack sequences by their lengths; they are small


def example_inputs(
    spec: ModelSpec, count: int = 1, img_size: int | None = None, vocabulary: int = 1000, device: str = "cpu"
) -> tuple[Tensor, ...]:
    """`count` random examples, the same each time, as `forward` of a model of this sheet takes them.

    img_size: pixels per side, the model's own by default; vocabulary: words of a "seq2seq" model (its num_classes).

    | task              | inputs                                                               |
    |-------------------|----------------------------------------------------------------------|
    | classify, segment | images (count, 3, S, S)                                              |
    | image-text        | images; texts (count, 77) of 76 random tokens and the end            |
    | seq2seq           | sources and targets (count, 32), word numbers without padding or end |
    | generate          | grey levels (count, S * S), row after row                            |
    | mask-generation   | images; points (count, 1, 1, 2) in pixels; labels (count, 1, 1) of 1 |
    """
    random = torch.Generator().manual_seed(1)
    if spec.task == "seq2seq":
        shape = (2, count, WORDS)
        return torch.randint(FIRST_WORD, vocabulary, shape, generator=random).to(device).unbind(0)
    size = img_size or spec.img_size
    if spec.task == "generate":
        return (torch.randint(DIGIT_LEVELS, (count, size * size), generator=random).to(device),)
    images = torch.randn(count, 3, size, size, generator=random).to(device)
    if spec.task == "mask-generation":
        points = size * torch.rand(count, 1, 1, 2, generator=random)
        return images, points.to(device), torch.ones(count, 1, 1, dtype=torch.int64, device=device)
    if spec.task != "image-text":
        return (images,)
    texts = torch.randint(1, VOCABULARY - 2, (count, CONTEXT_LENGTH), generator=random)
    texts[:, -1] = VOCABULARY - 1
    return images, texts.to(device)


def without_weights(spec: ModelSpec, count: int = 1) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model of a sheet at its full size and with as many classes as published, in evaluation mode, and examples.

    They are on the meta device, so that they take neither memory nor time; on the CPU where a pass needs numbers.
    """
    device = "cpu" if spec.family in NUMBERS_NEEDED else "meta"
    with torch.device(device):
        model = create_model(spec.name, PUBLISHED_CLASSES.get(spec.task, 1000)).eval()
    return model, example_inputs(spec, count, device=device)
