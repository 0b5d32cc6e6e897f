"""Probabilities of texts for masks against transformers' CLIP, crop by crop and sentence by sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regard.data.transforms import Preprocess
from regard.inference.image_text import ImageText
from regard.masks import Mask, RunLengths
from regard.models.clip import CLIP
from regard.segmentation.crops import both_crops
from regard.segmentation.naming import BACKGROUNDS, SENTENCES, TextScorer, crop_vectors
from regard.weights import load_state

END, SIDE = 69, 32


def tokens(texts: list[str]) -> torch.Tensor:
    """(N, 12): a number for each of the first letters, then the end."""
    rows = torch.zeros(len(texts), 12, dtype=torch.int64)
    for row, text in zip(rows, texts, strict=True):
        numbers = [1 + ord(letter) % 60 for letter in text[::3][:10]]
        row[: len(numbers) + 1] = torch.tensor([*numbers, END])
    return rows


@torch.no_grad()
def test_transformers_gives_the_same_probabilities() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        text_config={
            "vocab_size": 70, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 12, "eos_token_id": END, "bos_token_id": 68,
        },
        vision_config={
            "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3,
            "image_size": SIDE, "patch_size": 8,
        },
        projection_dim=24,
    )  # fmt: skip
    theirs = transformers.CLIPModel(config)
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if parameter.ndim:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.2)
    theirs.eval()
    ours = CLIP(SIDE, 8, 48, 2, 3, 24, 32, 2, 4, context_length=12, vocabulary=70).eval()
    load_state(ours, dict(theirs.state_dict()))
    preprocess = Preprocess(SIDE, 1.0, "short", "bicubic", (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
    clip = ImageText(ours, tokens, preprocess)  # type: ignore[arg-type]

    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (10, 14, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    masks = []
    for number in range(1, 6):
        inside = np.zeros(pixels.shape[:2], bool)
        y, x = rng.integers(0, 60, 2)
        inside[y : y + 30, x : x + rng.integers(5, 60)] = True
        masks.append(Mask(number, RunLengths.of(inside), 0.9))
    names = ["dog", "a red cat", "boats"]
    found = TextScorer(clip, names).probabilities(crop_vectors(clip, pixels, masks))

    def unit(vector: torch.Tensor) -> np.ndarray:
        numbers = vector[0].double().numpy()
        return numbers / np.sqrt((numbers**2).sum())

    texts = []
    for phrase in ["a dog", "a red cat", "boats", *(with_it(text) for text in BACKGROUNDS)]:
        vectors = [
            unit(theirs.get_text_features(input_ids=tokens([sentence.format(phrase)])).pooler_output)
            for sentence in SENTENCES
        ]
        mean = np.mean(vectors, axis=0)
        texts.append(mean / np.sqrt((mean**2).sum()))
    for row, mask in enumerate(masks):
        cosines = np.zeros(len(texts))
        for crop in both_crops(pixels, mask.runs, preprocess):
            image = unit(theirs.get_image_features(pixel_values=preprocess.normalise(crop)[None]).pooler_output)
            cosines += [image @ text / 2 for text in texts]
        odds = np.exp(float(theirs.logit_scale.exp()) * cosines)
        shares = odds / odds.sum()
        expected = np.append(shares[:3], shares[3:].sum())
        assert expected.std() > 0.05
        np.testing.assert_allclose(found[row], expected, rtol=1e-3, atol=1e-5)  # the scale makes 1e-6 of a cosine 1e-4


def with_it(text: str) -> str:
    return text if text.startswith("a ") else f"a {text}"
