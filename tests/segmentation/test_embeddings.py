from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from regard.errors import RegardError
from regard.segmentation.embeddings import EmbeddingCache, pixels_key
from regard.segmentation.segmenter import Segmenter

KILOBYTE = torch.zeros(256)


@pytest.fixture
def encoded(monkeypatch):
    """Counts the passes of the encoder."""
    from regard.models.sam import SAM

    passes = []
    encode = SAM.embed
    monkeypatch.setattr(SAM, "embed", lambda model, images: passes.append(len(images)) or encode(model, images))
    return passes


def test_an_image_is_encoded_once_whatever_it_is_called(segmenter, photo, encoded, tmp_path):
    from PIL import Image

    Image.fromarray(photo).save(tmp_path / "a.png")
    first = segmenter.embed(photo)
    second = segmenter.embed(tmp_path / "a.png")
    assert encoded == [1]
    assert second.key == first.key and second.embedding is first.embedding
    segmenter.embed(photo[::-1])
    assert encoded == [1, 1]


def test_memory_forgets_what_was_used_longest_ago():
    cache = EmbeddingCache(3000, None, (256,), [])
    for key in "ab":
        cache.remember(key, KILOBYTE)
    assert cache.find("a") is not None
    cache.remember("c", KILOBYTE)
    assert cache.bytes == 2048
    assert cache.find("b") is None and cache.find("a") is not None
    cache.remember("large", torch.zeros(1000))
    assert cache.bytes == 0  # larger than all that may be kept


def test_a_folder_is_asked_by_the_next_process(tiny_sam, photo, encoded, tmp_path):
    first = Segmenter(tiny_sam, cache=tmp_path / "new").embed(photo)
    second = Segmenter(tiny_sam, cache=tmp_path / "new").embed(photo)
    assert encoded == [1]
    assert torch.equal(second.embedding, first.embedding)
    assert [path.suffix for path in (tmp_path / "new").iterdir()] == [".safetensors"]  # nothing half written stays


def test_other_pixels_weights_and_precisions_are_other_files(tiny_sam, photo, encoded, tmp_path):
    Segmenter(tiny_sam, cache=tmp_path).embed(photo)
    Segmenter(tiny_sam, cache=tmp_path, precision="bf16").embed(photo)
    Segmenter(tiny_sam, cache=tmp_path).embed(photo[:50])
    with torch.no_grad():
        tiny_sam.image_encoder.pos_embed += 1
    Segmenter(tiny_sam, cache=tmp_path).embed(photo)
    assert len(encoded) == len(list(tmp_path.iterdir())) == 4
    with torch.no_grad():
        tiny_sam.mask_decoder.iou_token.weight.zero_()  # has no part in an embedding
    Segmenter(tiny_sam, cache=tmp_path).embed(photo)
    assert len(encoded) == 4


@pytest.mark.parametrize("folder", [False, True])
def test_weights_that_change_are_noticed(tiny_sam, photo, tmp_path, folder):
    segmenter = Segmenter(tiny_sam, cache=tmp_path if folder else None)
    before = segmenter.embed(photo).embedding
    optimiser = torch.optim.SGD([tiny_sam.image_encoder.pos_embed], lr=1.0)
    tiny_sam.image_encoder.pos_embed.grad = torch.ones_like(tiny_sam.image_encoder.pos_embed)
    optimiser.step()
    assert not torch.equal(segmenter.embed(photo).embedding, before)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another"])
def test_a_damaged_file_is_made_again_and_said_so(tiny_sam, photo, encoded, tmp_path, damage):
    expected = Segmenter(tiny_sam, cache=tmp_path).embed(photo).embedding
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[-5] ^= 1
    if damage == "another":
        from safetensors.torch import save

        content = bytearray(save({"embedding": torch.zeros(1, 2, 3, 3)}))
    path.write_bytes({"cut": content[:-9], "empty": b""}.get(damage, content))
    segmenter = Segmenter(tiny_sam, cache=tmp_path)
    assert torch.equal(segmenter.embed(photo).embedding, expected)
    assert segmenter.messages == [f"{path}: damaged; the embedding is computed again"]
    assert len(encoded) == 2
    again = Segmenter(tiny_sam, cache=tmp_path)
    assert torch.equal(again.embed(photo).embedding, expected)
    assert again.messages == [] and len(encoded) == 2


def test_a_folder_that_cannot_be_written_is_named(tiny_sam, photo, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RegardError, match=r"file: embeddings cannot be kept \(.+\); make room, or choose another cache="
    ):
        Segmenter(tiny_sam, cache=tmp_path / "file").embed(photo)


def test_pickled_it_starts_with_an_empty_memory(segmenter, photo):
    segmenter.embed(photo)
    small = len(pickle.dumps(segmenter._cache))
    assert small < 1000 < segmenter._cache.bytes


def test_a_key_is_of_the_pixels_and_their_shape():
    pixels = np.arange(2 * 6 * 3, dtype=np.uint8).reshape(2, 6, 3)
    assert pixels_key(pixels) == pixels_key(pixels.copy())
    assert pixels_key(pixels) != pixels_key(pixels.reshape(6, 2, 3))
    assert pixels_key(pixels[:, ::-1]) == pixels_key(pixels[:, ::-1].copy())  # not of how they lie in memory
