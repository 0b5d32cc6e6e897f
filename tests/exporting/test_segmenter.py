"""SAM's graphs against the segmenter; what ONNX Runtime and OpenVINO make of them is compared by the verb."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regard.exporting.segmenter import OUTPUTS, Decoder, Encoder, decoder_inputs
from regard.models.sam import SAM, Prompts
from regard.segmentation.frame import Frame
from regard.segmentation.segmenter import Segmenter


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    model = SAM(64, 8, 12, 2, 2, (1,), 3, dim=16, decoder_heads=2, decoder_hidden=8)
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and parameter.ndim == 1
        nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.2)
    return Segmenter(model, "tiny")


def prompts_of(kinds: str, height: int, width: int) -> Prompts:
    """Three prompts: p, points; b, boxes; m, masks."""
    random = torch.Generator().manual_seed(1)
    size = torch.tensor([width, height])
    points = torch.rand(3, 2, 2, generator=random) * size
    boxes = (torch.rand(3, 2, 2, generator=random) * size).flatten(1)
    masks = 3 * torch.randn(3, 1, 32, 32, generator=random)
    labels = torch.tensor([[1, 0], [1, -1], [0, 1]])
    points, labels = (points, labels) if "p" in kinds else (None, None)
    return Prompts(points, labels, boxes if "b" in kinds else None, masks if "m" in kinds else None)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.sampled_from(["p", "b", "pb", "pm", "bm", "pbm"]), height=st.integers(1, 200), width=st.integers(1, 200)
)
@torch.no_grad()
def test_the_decoder_says_what_the_segmenter_says(segmenter: Segmenter, kinds: str, height: int, width: int) -> None:
    frame, prompts = Frame(height, width, 64), prompts_of(kinds, height, width)
    embedding = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    asked = segmenter.place(frame, prompts)
    wanted = segmenter.model.decode(embedding, asked)
    inputs = {name: torch.from_numpy(array) for name, array in decoder_inputs(segmenter.model, frame, prompts).items()}
    found = dict(zip(OUTPUTS, Decoder(segmenter.model)(embedding, **inputs), strict=True))
    assert found["masks"].shape == (3, 4, height, width)
    for output, answer in (
        ("masks", frame.upsample(wanted.logits)),
        ("iou_predictions", wanted.iou),
        ("low_res_masks", wanted.logits),
    ):
        assert (found[output] - answer).abs().max() <= 1e-5 * answer.abs().max(), output


@torch.no_grad()
def test_the_encoder_is_the_models(segmenter: Segmenter) -> None:
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(Encoder(segmenter.model)(images), segmenter.model.embed(images))
