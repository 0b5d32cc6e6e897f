from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import create_model
from regard.training.optimiser import make_optimiser, parameter_groups


def by_name(model: nn.Module, **arguments) -> dict[str, dict]:
    groups = parameter_groups(model, **arguments)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_norms_biases_and_positions_do_not_decay():
    model = create_model("vit_nano_patch4_32", num_classes=3, img_size=32)
    groups = by_name(model, lr=1e-3, weight_decay=0.05)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    free = {name for name, group in groups.items() if group["weight_decay"] == 0}
    assert {"pos_embed", "norm.weight", "head.bias", "blocks.0.attn.qkv.bias"} <= free
    assert all(name.endswith("weight") for name in set(groups) - free)
    assert groups["blocks.0.attn.qkv.weight"]["weight_decay"] == 0.05


def test_layer_decay_by_the_formula():
    model = create_model("vit_nano_patch4_32", num_classes=3, img_size=32)
    depth = len(model.blocks)
    groups = by_name(model, lr=1.0, weight_decay=0.05, layer_decay=0.75)
    assert groups["head.weight"]["lr"] == groups["norm.weight"]["lr"] == 1.0
    assert groups["patch_embed.proj.weight"]["lr"] == pytest.approx(0.75 ** (depth + 1))
    assert groups["pos_embed"]["lr"] == pytest.approx(0.75 ** (depth + 1))
    for i in range(depth):
        assert groups[f"blocks.{i}.mlp.fc1.weight"]["lr"] == pytest.approx(0.75 ** (depth - i))


def test_layer_decay_of_a_resnet_rises_with_depth():
    groups = by_name(create_model("resnet18", num_classes=3, img_size=64), lr=1.0, weight_decay=0.0, layer_decay=0.5)
    order = [
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer2.1.conv1.weight",
        "layer4.1.conv2.weight",
        "fc.weight",
    ]
    rates = [groups[name]["lr"] for name in order]
    assert rates == sorted(rates)
    assert len(set(rates)) == 5


def test_layer_decay_of_convnext_runs_through_stem_stages_and_what_lies_between():
    groups = by_name(create_model("convnext_micro_32", num_classes=3), lr=1.0, weight_decay=0.0, layer_decay=0.5)
    order = [
        "features.0.0.weight",
        "features.1.0.block.0.weight",
        "features.1.1.layer_scale",
        "features.2.1.weight",
        "features.3.2.block.5.weight",
        "classifier.2.weight",
    ]
    rates = [groups[name]["lr"] for name in order]
    assert rates == sorted(rates)
    assert len(set(rates)) == 6


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert set(by_name(model, lr=1.0, weight_decay=0.1)) == {"1.weight", "1.bias"}
    with pytest.raises(RegardError, match="no parameter is trainable"):
        parameter_groups(model.requires_grad_(False), 1.0, 0.1)


def test_layer_decay_of_sam_runs_through_its_encoder_and_ends_behind_it():
    groups = by_name(create_model("sam_nano_128"), lr=1.0, weight_decay=0.0, layer_decay=0.5)
    encoder = ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.1.attn.qkv.bias", "neck.0.weight")
    assert [groups[f"image_encoder.{name}"]["lr"] for name in encoder] == [0.5**4, 0.5**3, 0.5**2, 0.5]
    assert groups["image_encoder.pos_embed"]["lr"] == 0.5**4
    behind = [name for name in groups if not name.startswith("image_encoder.")]
    assert "mask_decoder.transformer.layers.0.norm1.weight" in behind
    assert {groups[name]["lr"] for name in behind} == {1.0}


def test_layer_decay_needs_blocks():
    with pytest.raises(RegardError, match="--layer-decay"):
        parameter_groups(nn.Linear(2, 2), 1.0, 0.0, layer_decay=0.5)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimiser_is_the_textbook_one(name):
    """One step by hand, from Loshchilov and Hutter 2019 (algorithm 2) and Sutskever 2013 in torch's form."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    weight.grad = torch.tensor([[0.5, 0.25]])
    optimiser = make_optimiser(name, [{"params": [weight], "weight_decay": 0.1}], 0.1)
    optimiser.step()
    if name == "adamw":
        expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.1 * 0.1) - 0.1 * torch.sign(torch.tensor([[0.5, 0.25]]))
    else:
        gradient = torch.tensor([[0.5, 0.25]]) + 0.1 * torch.tensor([[1.0, -2.0]])
        expected = torch.tensor([[1.0, -2.0]]) - 0.1 * 1.9 * gradient
    torch.testing.assert_close(weight.data, expected)


def test_the_tokens_to_token_module_learns_as_the_first_layer_and_frozen_tables_not_at_all():
    model = create_model("t2t_vit_nano_32", num_classes=3)
    groups = by_name(model.requires_grad_(True), lr=1.0, weight_decay=0.05, layer_decay=0.5)
    first = {group["lr"] for name, group in groups.items() if name.startswith("tokens_to_token.")}
    assert first == {0.5 ** (len(model.blocks) + 1)}
    assert {name for name, _ in model.named_parameters()} - set(groups) == {
        "pos_embed",
        "tokens_to_token.attention1.w",
        "tokens_to_token.attention2.w",
    }


def test_layer_decay_of_swin_runs_through_all_its_stages_and_spares_the_tables():
    model = create_model("swin_nano_patch2_window4_32", num_classes=3)
    groups = by_name(model, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    order = [f"layers.{stage}.blocks.{block}.attn.qkv.weight" for stage in range(3) for block in range(2)]
    assert [groups[name]["lr"] for name in order] == pytest.approx([0.5 ** (6 - i) for i in range(6)])
    assert groups["patch_embed.norm.weight"]["lr"] == 0.5**7
    assert groups["layers.1.downsample.reduction.weight"]["lr"] == groups[order[2]]["lr"]
    assert groups["layers.0.blocks.0.attn.relative_position_bias_table"]["weight_decay"] == 0


def test_layer_decay_of_a_hybrid_has_its_cnn_before_the_first_block():
    groups = by_name(create_model("vit_nano_r8_s4_32", num_classes=3), lr=1.0, weight_decay=0.05, layer_decay=0.5)
    assert {group["lr"] for name, group in groups.items() if name.startswith("patch_embed.")} == {0.5**5}
    assert groups["blocks.1.attn.qkv.weight"]["lr"] == 0.5**3
