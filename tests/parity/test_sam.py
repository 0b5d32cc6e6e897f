"""Ours against segment_anything, Hugging Face's SamModel and timm's encoder, through our converters, in float32."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import assert_equal_gradients, assert_parity
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import create_model
from regard.models.sam import SAM, Masks, Prompts
from regard.weights import convert, left_out, load_state, read_state
from regard.weights.load import fitting_model

PROMPTS = 5
# Sides of the image, and of windows: one that divides the map of patches, and two that do not.
SHAPES = [(64, 4), (72, 4), (56, 3)]
KINDS = [kinds for kinds in itertools.product((False, True), repeat=3) if any(kinds)]  # points, boxes, masks


def sizes(side: int, window: int) -> dict[str, Any]:
    return {
        "img_size": side, "patch_size": 8, "width": 24, "depth": 4, "num_heads": 2, "global_blocks": (1, 3),
        "window": window, "dim": 32, "decoder_depth": 2, "decoder_heads": 4, "decoder_hidden": 48,
    }  # fmt: skip


def shake(model: nn.Module) -> nn.Module:
    """Draws every parameter anew, positions and distances too, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        norm = name.endswith("weight") and parameter.ndim == 1
        nn.init.normal_(parameter, mean=1.0 if norm else 0.0, std=0.4 if "pos" in name else 0.15)
    return model.eval()


def package(side: int, window: int) -> Any:
    """A `segment_anything` model."""
    modeling = pytest.importorskip("segment_anything.modeling", reason="segment-anything is not installed")
    size = sizes(side, window)
    dim, grid = size["dim"], side // 8
    return shake(
        modeling.Sam(
            image_encoder=modeling.ImageEncoderViT(
                img_size=side, patch_size=8, embed_dim=size["width"], depth=size["depth"],
                num_heads=size["num_heads"], mlp_ratio=4, norm_layer=partial(nn.LayerNorm, eps=1e-6), qkv_bias=True,
                use_rel_pos=True, global_attn_indexes=size["global_blocks"], window_size=window, out_chans=dim,
            ),
            prompt_encoder=modeling.PromptEncoder(
                embed_dim=dim, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=16
            ),
            mask_decoder=modeling.MaskDecoder(
                num_multimask_outputs=3,
                transformer=modeling.TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=48, num_heads=4),
                transformer_dim=dim, iou_head_depth=3, iou_head_hidden_dim=dim,
            ),
        )
    )  # fmt: skip


def hugging_face(side: int, window: int) -> Any:
    """Its decoder's norms have an epsilon of 1e-6 by default, Meta's 1e-5: here Meta's."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    size = sizes(side, window)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": size["width"], "output_channels": size["dim"], "num_hidden_layers": size["depth"],
            "num_attention_heads": size["num_heads"], "image_size": side, "patch_size": 8, "window_size": window,
            "global_attn_indexes": list(size["global_blocks"]), "num_pos_feats": size["dim"] // 2,
            "mlp_dim": 4 * size["width"],
        },
        prompt_encoder_config={
            "hidden_size": size["dim"], "image_size": side, "patch_size": 8, "image_embedding_size": side // 8
        },
        mask_decoder_config={
            "hidden_size": size["dim"], "mlp_dim": size["decoder_hidden"], "num_attention_heads": 4,
            "iou_head_hidden_dim": size["dim"], "layer_norm_eps": 1e-5,
        },
    )  # fmt: skip
    model = shake(transformers.SamModel(config))
    nn.init.normal_(model.get_parameter("shared_image_embedding.positional_embedding"))
    return model


def converted(theirs: nn.Module, side: int, window: int) -> SAM:
    ours = SAM(**sizes(side, window)).eval()
    assert load_state(ours, theirs.state_dict()) == []
    return ours


def image_of(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))


def prompts_of(side: int, kinds: tuple[bool, bool, bool], count: int = 2) -> Prompts:
    """PROMPTS prompts of what `kinds` says, of `count` points with every label; some lie outside the image."""
    random = torch.Generator().manual_seed(count)
    points = torch.rand(PROMPTS, count, 2, generator=random) * 1.4 * side - 0.2 * side
    labels = torch.arange(PROMPTS * count).reshape(PROMPTS, count) % 3 - 1
    boxes = torch.rand(PROMPTS, 4, generator=random) * side
    masks = 4 * torch.randn(PROMPTS, 1, side // 2, side // 2, generator=random)
    has_points, has_boxes, has_masks = kinds
    return Prompts(
        points if has_points else None,
        labels if has_points else None,
        boxes if has_boxes else None,
        masks if has_masks else None,
    )


def of_package(peer: Any, embedding: Tensor, prompts: Prompts) -> Masks:
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    sparse, dense = peer.prompt_encoder(points=points, boxes=prompts.boxes, masks=prompts.masks)
    return Masks(
        *peer.mask_decoder.predict_masks(
            image_embeddings=embedding,
            image_pe=peer.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    )


def of_hugging_face(peer: Any, embedding: Tensor, prompts: Prompts) -> Masks:
    """One mask prompt for all prompts of an image is what it takes."""

    def batched(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[None]

    given = {
        "input_points": batched(prompts.points),
        "input_labels": batched(prompts.labels),
        "input_boxes": batched(prompts.boxes),
        "input_masks": None if prompts.masks is None else prompts.masks[:1],
    }
    one, three = (
        peer(image_embeddings=embedding, multimask_output=several, **given, return_dict=True)
        for several in (False, True)
    )
    logits = torch.cat([one.pred_masks, three.pred_masks], dim=2)[0]
    return Masks(logits, torch.cat([one.iou_scores, three.iou_scores], dim=2)[0])


def assert_same_masks(ours: Masks, theirs: Masks) -> None:
    assert ours.logits.shape == theirs.logits.shape and ours.iou.shape == theirs.iou.shape
    assert_parity(ours.logits, theirs.logits)
    assert_parity(ours.iou, theirs.iou)


@pytest.mark.parametrize(("side", "window"), SHAPES)
@torch.no_grad()
def test_the_image_embedding_is_that_of_segment_anything_and_of_hugging_face(side: int, window: int) -> None:
    image = image_of(side)
    peer = package(side, window)
    assert_parity(converted(peer, side, window).embed(image), peer.image_encoder(image))
    other = hugging_face(side, window)
    assert_parity(converted(other, side, window).embed(image), other.get_image_embeddings(image))


@pytest.mark.parametrize("kinds", KINDS, ids=lambda kinds: "-".join(itertools.compress(Prompts._fields[1:], kinds)))
@torch.no_grad()
def test_masks_and_their_iou_are_the_same_for_every_combination_of_prompts(kinds: tuple[bool, bool, bool]) -> None:
    for side, window in SHAPES[:2]:
        prompts = prompts_of(side, kinds)
        peer = package(side, window)
        ours = converted(peer, side, window)
        embedding = ours.embed(image_of(side))
        assert_same_masks(ours.decode(embedding, prompts), of_package(peer, embedding, prompts))
        if prompts.masks is not None:
            count = PROMPTS if any(kinds[:2]) else 1
            prompts = prompts._replace(masks=prompts.masks[:1].expand(count, -1, -1, -1))
        other = hugging_face(side, window)
        ours = converted(other, side, window)
        assert_same_masks(ours.decode(embedding, prompts), of_hugging_face(other, embedding, prompts))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@torch.no_grad()
def test_masks_are_the_same_for_one_point_to_five(count: int) -> None:
    side, window = SHAPES[1]
    peer, other = package(side, window), hugging_face(side, window)
    for boxes in (False, True):
        prompts = prompts_of(side, (True, boxes, False), count)
        for theirs, ask in ((peer, of_package), (other, of_hugging_face)):
            ours = converted(theirs, side, window)
            embedding = ours.embed(image_of(side))
            assert_same_masks(ours.decode(embedding, prompts), ask(theirs, embedding, prompts))


@torch.no_grad()
def test_many_prompts_in_one_call_are_what_each_is_alone() -> None:
    peer = package(64, 3)
    ours = converted(peer, 64, 3)
    embedding = ours.embed(image_of(64))
    for kinds in KINDS:
        prompts = prompts_of(64, kinds)
        alone = [
            ours.decode(embedding, Prompts(*(given if given is None else given[row : row + 1] for given in prompts)))
            for row in range(PROMPTS)
        ]
        together = ours.decode(embedding, prompts)
        assert_parity(together.logits, torch.cat([masks.logits for masks in alone]))
        assert_parity(together.iou, torch.cat([masks.iou for masks in alone]))


def test_gradients_are_those_of_segment_anything_in_every_parameter() -> None:
    side, window = 56, 3
    peer = package(side, window)
    ours = converted(peer, side, window)
    every = prompts_of(side, (True, False, True)), prompts_of(side, (False, True, False))
    random = torch.Generator().manual_seed(5)
    for embed, ask in (
        (peer.image_encoder, partial(of_package, peer)),
        (ours.embed, ours.decode),
    ):
        embedding = embed(image_of(side))
        random.manual_seed(5)
        loss = embedding.new_zeros(())
        for prompts in every:
            masks = ask(embedding, prompts)
            for answer in masks:
                loss = loss + (answer * torch.randn(answer.shape, generator=random)).mean()
        loss.backward()
    for model in (ours, peer):
        for name, parameter in model.named_parameters():
            if name.endswith("k_proj.bias"):  # the same for every key: no softmax changes, and the rest is rounding
                assert parameter.grad is None or parameter.grad.abs().max() < 1e-5
                parameter.grad = torch.ones_like(parameter)
    assert_equal_gradients(ours, peer)


# --- files ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folder_of_hugging_face_is_read_with_one_copy_of_the_matrix_and_with_two(tmp_path: Path) -> None:
    theirs = hugging_face(64, 4)
    theirs.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam"
    current = read_state(tmp_path)
    old = dict(theirs.state_dict())  # as transformers 4 wrote them
    assert "prompt_encoder.shared_embedding.positional_embedding" in old.keys() - current.keys()
    image, prompts = image_of(64), prompts_of(64, (True, True, False))
    expected = of_hugging_face(theirs, theirs.get_image_embeddings(image), prompts)
    for state in (current, old):
        ours = SAM(**sizes(64, 4)).eval()
        assert load_state(ours, state) == []
        assert_same_masks(ours.decode(ours.embed(image), prompts), expected)
    old["prompt_encoder.shared_embedding.positional_embedding"] = torch.zeros(2, 16)
    with pytest.raises(RegardError, match=r"positional_embedding differ and should be one matrix"):
        convert(old)


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_full_sizes_have_the_names_and_shapes_of_segment_anything(name: str) -> None:
    registry = pytest.importorskip("segment_anything", reason="segment-anything is not installed").sam_model_registry
    with torch.device("meta"):
        theirs, ours = registry[name.removeprefix("sam_")](), create_model(name)
    shapes = [{key: t.shape for key, t in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == {"sam_vit_b": 314, "sam_vit_l": 482, "sam_vit_h": 594}[name]


def test_buffers_that_a_training_saved_are_left_out_aloud() -> None:
    ours = SAM(**sizes(64, 4))
    state = dict(ours.state_dict()) | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert load_state(SAM(**sizes(64, 4)), state) == left_out(state)
    assert left_out(state) == ["left out pixel_mean, pixel_std: by which images are normalised is no weight"]


def test_files_that_do_not_fit_are_one_line_that_names_what_would(tmp_path: Path) -> None:
    small = create_model("sam_nano_128")
    with torch.device("meta"):
        large = create_model("sam_vit_l").state_dict()
    assert fitting_model(large) == "sam_vit_l" and fitting_model(small.state_dict()) == "sam_nano_128"
    with torch.device("meta"):
        base = create_model("sam_vit_b")
    with pytest.raises(RegardError, match=r"not weights of this model: .*; they fit sam_vit_l$"):
        load_state(base, large)
    with pytest.raises(RegardError, match=r"patches of 8 pixels, the model has patches of 16; they fit sam_nano_128"):
        load_state(base, small.state_dict())
    cut = {name: tensor for name, tensor in small.state_dict().items() if not name.startswith("mask_decoder.iou_pre")}
    with pytest.raises(RegardError, match=r"the weights lack mask_decoder\.iou_prediction_head.* and 3 more; name the"):
        load_state(create_model("sam_nano_128"), cut)
    save_file(small.state_dict(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1000])
    assert load_file(tmp_path / "whole.safetensors").keys() == small.state_dict().keys()
    with pytest.raises(RegardError, match="a truncated safetensors file"):
        read_state(tmp_path / "cut.safetensors")
    with pytest.raises(RegardError, match="weights of a SAM, but vit_tiny_patch16_224 is of the family vit"):
        convert(small.state_dict(), "vit_tiny_patch16_224")
    strange = ("vision_encoder.layers.0.attn.rel_pos_h", "vision_encoder.head.weight")
    with pytest.raises(RegardError, match=r"vision_encoder\.head\.weight: no part of a Hugging Face SAM"):
        convert(dict.fromkeys(strange, torch.zeros(3, 2)))


# --- timm's image encoder ---------------------------------------------------------------------------------


def timm_encoder(side: int, window: int) -> Any:
    sam = pytest.importorskip("timm.models.vision_transformer_sam", reason="timm is not installed")
    size = sizes(side, window)
    return shake(
        sam.VisionTransformerSAM(
            img_size=side, patch_size=8, embed_dim=size["width"], depth=size["depth"], num_heads=size["num_heads"],
            num_classes=0, global_attn_indexes=size["global_blocks"], window_size=window, neck_chans=size["dim"],
            use_rel_pos=True, use_abs_pos=True, qkv_bias=True, global_pool="",
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
    )  # fmt: skip


def test_timms_encoder_alone_is_refused_in_a_line() -> None:
    with pytest.raises(RegardError, match=r"^the weights: the image encoder of a SAM alone \(timm's samvit_\*\)"):
        load_state(create_model("sam_nano_128"), timm_encoder(64, 4).state_dict())


@pytest.mark.parametrize("other", [40, 96])
@torch.no_grad()
def test_weights_of_another_image_size_see_as_timms_encoder_does(other: int) -> None:
    """timm resamples positions and tables of distances at each call."""
    theirs = timm_encoder(64, 4)
    state = {
        f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": tensor for name, tensor in theirs.state_dict().items()
    }
    ours = SAM(**sizes(other, 4)).eval()
    rest = {name: tensor for name, tensor in ours.state_dict().items() if not name.startswith("image_encoder.")}
    assert load_state(ours, state | rest) == [
        f"position embedding resampled from 8x8 to {other // 8}x{other // 8} patches, "
        "and the relative positions of 2 layers with it"
    ]
    image = image_of(other)
    assert_parity(ours.embed(image), theirs(image))
