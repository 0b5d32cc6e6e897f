from __future__ import annotations

import itertools
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from regard.errors import RegardError
from regard.models.sam import Masks, Prompts
from regard.segmentation.segmenter import Segmenter

KINDS = [kinds for kinds in itertools.product((False, True), repeat=3) if any(kinds)]  # points, box, mask
SIZES = [(97, 141), (141, 97), (64, 64), (5, 7), (1, 1), (33, 300), (640, 479)]


def draw(height: int, width: int, kinds: tuple[bool, bool, bool], seed: int = 0) -> dict:
    """One prompt by the names of `predict`'s arguments."""
    rng = np.random.default_rng(seed)
    points, box, mask = kinds
    asked = {}
    if points:
        asked["point_coords"] = rng.uniform(0, (width, height), (3, 2))
        asked["point_labels"] = np.array([1, 0, 1])
    if box:
        corner = rng.uniform(0, 0.4, 2)
        asked["box"] = np.concatenate([corner, corner + 0.5]) * (width, height, width, height)
    if mask:
        asked["mask_input"] = rng.normal(size=(1, 32, 32)).astype(np.float32) * 5
    return asked


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_predict_gives_what_the_package_gives(segmenter, package, height, width, kinds):
    image = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    segmenter.set_image(image)
    package.set_image(image)
    scale = package.get_image_embedding().abs().max().item()
    torch.testing.assert_close(segmenter.image.embedding, package.get_image_embedding(), rtol=0, atol=1e-5 * scale)
    asked = draw(height, width, kinds)
    for multimask in (True, False):
        logits = package.predict(**asked, multimask_output=multimask, return_logits=True)
        found = segmenter.predict(**asked, multimask_output=multimask, return_logits=True)
        for ours, theirs in zip(found, logits, strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            # An estimate of IoU is of the order of 1; a single one may lie near 0.
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(np.abs(theirs).max(), 0.1))
        theirs = package.predict(**asked, multimask_output=multimask)[0]
        ours = segmenter.predict(**asked, multimask_output=multimask)[0]
        decided = np.abs(logits[0]) > 1e-5 * np.abs(logits[0]).max()  # else float32 rounds it to either side
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours[decided], theirs[decided])
        assert (~decided).mean() < 1e-3


def test_two_rounds_the_answer_of_one_being_the_mask_of_the_next(segmenter, package, photo):
    for predictor in (segmenter, package):
        predictor.set_image(photo)
    answers = []
    for predictor in (segmenter, package):
        _, iou, low = predictor.predict(np.array([[30, 40]]), np.array([1]))
        best = low[iou.argmax()][None]
        answers.append(predictor.predict(np.array([[30, 40], [90, 50]]), np.array([1, 0]), mask_input=best)[2])
    np.testing.assert_allclose(answers[0], answers[1], rtol=0, atol=2e-5 * np.abs(answers[1]).max())


@pytest.mark.parametrize("kinds", KINDS)
def test_an_axis_of_prompts_is_kept_and_answers_each_as_if_alone(segmenter, photo, kinds):
    segmenter.set_image(photo)
    asked = [draw(97, 141, kinds, seed) for seed in range(6)]  # more than are decoded at once
    together = segmenter.predict(**{name: np.stack([each[name] for each in asked]) for name in asked[0]})
    for number, each in enumerate(asked):
        for several, alone in zip(together, segmenter.predict(**each), strict=True):
            assert several.shape == (6, *alone.shape)
            np.testing.assert_allclose(several[number], alone, atol=1e-4)


def test_one_prompt_with_an_axis_keeps_it(segmenter, photo):
    segmenter.set_image(photo)
    masks, iou, low = segmenter.predict(box=[[10, 20, 60, 70]], multimask_output=False)
    assert (masks.shape, iou.shape, low.shape) == ((1, 1, 97, 141), (1, 1), (1, 1, 32, 32))


def test_rows_are_filled_up_with_points_of_label_minus_one(segmenter, photo):
    segmenter.set_image(photo)
    _, filled, _ = segmenter.predict([[[30, 40], [np.nan, -7]], [[30, 40], [90, 50]]], [[1, -1], [1, 0]])
    assert filled.shape == (2, 3)
    _, minus, _ = segmenter.predict([[30, 40], [0, 0]], [1, -1])
    np.testing.assert_allclose(filled[0], minus, atol=1e-5)  # the place of such a point is not looked at


def test_every_kind_of_image_and_of_numbers(segmenter, photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    images = [
        photo,
        Image.fromarray(photo),
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        torch.from_numpy(photo).permute(2, 0, 1),
    ]
    answers = []
    for image in images:
        segmenter.set_image(image)
        answers.append(segmenter.predict(torch.tensor([[30, 40]]), [True])[1])
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])
    segmenter.set_image(photo[..., ::-1], image_format="BGR")
    np.testing.assert_array_equal(segmenter.predict([[30, 40]], [1])[1], answers[0])


def test_predict_images_is_predict_of_each(segmenter, photo):
    images = [photo, photo[:50]]
    prompts = [{"point_coords": [[3, 4]], "point_labels": [1]}, {"box": [[1, 2, 30, 40], [5, 6, 70, 45]]}]
    answers = segmenter.predict_images(images, prompts)
    assert [answer[0].shape for answer in answers] == [(3, 97, 141), (2, 3, 50, 141)]
    for image, asked, answer in zip(images, prompts, answers, strict=True):
        segmenter.set_image(image)
        for found, expected in zip(answer, segmenter.predict(**asked), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_decode_gives_four_masks_and_choose_the_published_ones(segmenter, photo):
    embedded = segmenter.embed(photo)
    masks = segmenter.decode(embedded, Prompts(torch.tensor([[[30.0, 40.0]]] * 9), torch.ones(9, 1)))
    assert (masks.logits.shape, masks.iou.shape) == ((9, 4, 32, 32), (9, 4))
    assert torch.equal(segmenter.choose(masks, True).logits, masks.logits[:, 1:])
    assert torch.equal(segmenter.choose(masks, False).iou, masks.iou[:, :1])
    assert isinstance(segmenter.choose(masks, True), Masks)


def test_two_segmenters_do_not_disturb_each_other(tiny_sam, photo):
    first, second = Segmenter(tiny_sam), Segmenter(tiny_sam)
    first.set_image(photo)
    expected = first.predict([[30, 40]], [1])
    second.set_image(photo[::-1])
    np.testing.assert_array_equal(first.predict([[30, 40]], [1])[0], expected[0])
    second.reset_image()
    np.testing.assert_array_equal(first.predict([[30, 40]], [1])[0], expected[0])
    with pytest.raises(RegardError, match=r"^predict: no image was set; call set_image\(image\) first$"):
        second.predict([[30, 40]], [1])


def test_a_pickled_segmenter_answers_alike(segmenter, photo):
    segmenter.set_image(photo)
    copy = pickle.loads(pickle.dumps(segmenter))
    np.testing.assert_array_equal(copy.predict([[30, 40]], [1])[2], segmenter.predict([[30, 40]], [1])[2])
    copy.set_image(photo[:50])
    assert copy.predict([[30, 40]], [1])[0].shape == (3, 50, 141)
    assert segmenter.image.frame.height == 97


def test_an_image_that_cannot_be_used_leaves_none_set(segmenter, photo):
    segmenter.set_image(photo)
    with pytest.raises(RegardError, match="array of shape"):
        segmenter.set_image(photo.astype(np.float64))
    with pytest.raises(RegardError, match="no image was set"):
        segmenter.predict([[30, 40]], [1])


def test_60000_by_60000_pixels_are_refused_before_they_take_memory(segmenter, tmp_path):
    """As a file, an array and a tensor: none of them holds its 10.8 GB."""
    content = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content))
    (tmp_path / "vast.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IDAT" + bytes(4))
    one = np.zeros((1, 1, 3), np.uint8)
    vast = [
        tmp_path / "vast.png",
        np.broadcast_to(one, (60_000, 60_000, 3)),
        torch.zeros(3, 1, 1).expand(3, 60_000, 60_000),
    ]
    for image in vast:
        with pytest.raises(RegardError, match=r"the limit is 89,478,485 pixels; shrink it first$") as raised:
            segmenter.set_image(image)
        assert "\n" not in str(raised.value)


def test_bf16_is_near_and_keeps_float32_outside(tiny_sam, photo):
    plain, half = Segmenter(tiny_sam), Segmenter(tiny_sam, precision="bf16")
    exact, near = plain.embed(photo).embedding, half.embed(photo).embedding
    assert near.dtype is torch.float32
    assert not torch.equal(near, exact)
    assert torch.cosine_similarity(near.flatten(), exact.flatten(), dim=0) > 0.999
    half.set_image(photo)
    masks, iou, low = half.predict([[30, 40]], [1])
    assert (masks.dtype, iou.dtype, low.dtype) == (bool, np.float32, np.float32)


def test_training_may_use_an_embedding(segmenter, photo):
    """No tensor of inference mode comes out, which autograd would refuse."""
    embedded = segmenter.embed(photo)
    prompts = segmenter.place(embedded.frame, Prompts(torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1)))
    segmenter.model.decode(embedded.embedding, prompts).logits.sum().backward()
    assert segmenter.model.mask_decoder.iou_token.weight.grad is not None


def test_unknown_words_are_named(tiny_sam, photo):
    with pytest.raises(RegardError, match=r"^precision='fp16': expected fp32 or bf16$"):
        Segmenter(tiny_sam, precision="fp16")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RegardError, match=r"^image_format='GRB': expected RGB or BGR$"):
        Segmenter(tiny_sam).set_image(photo, image_format="GRB")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RegardError, match=r"^prompts: 1 for 2 images"):
        Segmenter(tiny_sam).predict_images([photo, photo], [{"box": [1, 2, 3, 4]}])
