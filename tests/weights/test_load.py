"""Strict loading: what fits is loaded, what is adapted is said, what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from regard.errors import RegardError
from regard.layers.position import resample_positions
from regard.models import create_model
from regard.models.resnet import ResNet
from regard.models.vit import ViT
from regard.weights import load_state

State = dict[str, Tensor]


def vit(img_size: int = 32, num_classes: int = 10, patch_size: int = 4, depth: int = 2) -> ViT:
    return ViT(img_size, patch_size, embed_dim=16, depth=depth, num_heads=2, num_classes=num_classes)


def resnet(num_classes: int = 10) -> ResNet:
    return ResNet(BasicBlock, (1, 1), (8, 16), True, True, num_classes)


def same(a: State, b: State, but: str = "-") -> bool:
    return all(torch.equal(a[name], b[name]) for name in a if not name.startswith(but))


@pytest.mark.parametrize("make", [vit, resnet])
def test_fitting_weights_are_loaded_whole_and_nothing_is_said(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    source, target = make(), make()
    assert load_state(target, source.state_dict()) == []
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("make", [vit, resnet])
def test_another_class_count_gives_a_fresh_head_only_where_asked(make: Callable[..., nn.Module]) -> None:
    state, target = make(num_classes=1000).state_dict(), make(num_classes=7)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(RegardError, match=r"w\.pth: .* head of 1,000 classes, the model has one of 7; .*num_classes=7"):
        load_state(target, state, "w.pth")
    assert same(before, target.state_dict()), "a refusal changes nothing"
    (line,) = load_state(target, state, "w.pth", num_classes=7)
    assert "head of 1,000 classes: a fresh head of 7 classes" in line
    head = target.HEAD
    assert torch.equal(target.state_dict()[f"{head}.weight"], before[f"{head}.weight"])
    assert same({name: tensor for name, tensor in target.state_dict().items() if not name.startswith(head)}, state)


def test_weights_without_a_head_take_a_fresh_one_where_asked() -> None:
    state = vit(num_classes=0).state_dict()
    with pytest.raises(RegardError, match=r"have no head, the model has one of 10"):
        load_state(vit(), state)
    (line,) = load_state(vit(), state, num_classes=10)
    assert "no head" in line


def test_a_model_without_a_head_leaves_out_that_of_the_weights_and_says_so() -> None:
    (line,) = load_state(vit(num_classes=0), vit().state_dict())
    assert "head.weight, head.bias" in line


def test_an_equal_class_count_keeps_the_head_of_the_weights() -> None:
    source, target = vit(), vit()
    assert load_state(target, source.state_dict(), num_classes=10) == []
    assert same(source.state_dict(), target.state_dict())


def test_positions_follow_the_image_size_and_it_is_said() -> None:
    source, target = vit(32), vit(48)
    (line,) = load_state(target, source.state_dict())
    assert line == "position embedding resampled from 8x8 to 12x12 patches"
    theirs, ours = source.pos_embed, target.pos_embed
    assert torch.equal(theirs[:, 0], ours[:, 0])
    assert ours[:, 1:].mean().item() == pytest.approx(theirs[:, 1:].mean().item(), abs=2e-3)
    assert same(source.state_dict(), target.state_dict(), but="pos_embed")


@pytest.mark.parametrize(
    ("name", "prefix"), [("deit_nano_distilled_patch4_32", 2), ("vit_nano_patch4_reg4_dinov2_32", 0)]
)
def test_all_rows_of_positions_that_are_no_patch_are_kept(name: str, prefix: int) -> None:
    source, target = create_model(name, 10), create_model(name, 10, img_size=48)
    (line,) = load_state(target, source.state_dict())
    assert line == "position embedding resampled from 8x8 to 12x12 patches"
    theirs, ours = source.get_parameter("pos_embed"), target.get_parameter("pos_embed")
    assert ours.shape[1] == prefix + 144
    assert torch.equal(ours, resample_positions(theirs, (12, 12), prefix))


def test_positions_of_another_number_of_prefix_tokens_are_no_matter_of_image_size() -> None:
    distilled = create_model("deit_nano_distilled_patch4_32", 10).state_dict()
    plain = {name: tensor for name, tensor in distilled.items() if "dist" not in name}
    with pytest.raises(RegardError, match=r"pos_embed has shape \(1, 66, 96\), the model's has \(1, 65, 96\)"):
        load_state(create_model("deit_nano_patch4_32", 10), plain)


def test_a_distilled_model_takes_two_fresh_heads_where_asked() -> None:
    state = create_model("deit_nano_distilled_patch4_32", 100).state_dict()
    target = create_model("deit_nano_distilled_patch4_32", 7)
    with pytest.raises(RegardError, match=r"head of 100 classes, the model has one of 7"):
        load_state(target, state)
    (line,) = load_state(target, state, num_classes=7)
    assert "a fresh head of 7 classes" in line
    assert same({name: tensor for name, tensor in target.state_dict().items() if not name.startswith("head")}, state)


def test_another_patch_size_is_an_error() -> None:
    with pytest.raises(RegardError, match=r"w: weights for patches of 8 pixels, the model has patches of 4"):
        load_state(vit(), vit(patch_size=8).state_dict(), "w")


def test_missing_and_unknown_names_are_named() -> None:
    state = vit().state_dict()
    del state["norm.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(RegardError, match=r"w: .*model has no extra\.weight; the weights lack norm\.weight"):
        load_state(vit(), state, "w")


def test_many_names_are_shortened() -> None:
    with pytest.raises(RegardError, match=r"the weights lack [^;]+ and 9 more"):
        load_state(vit(depth=2), vit(depth=1).state_dict())


@pytest.mark.parametrize("name", ["head.weight", "blocks.0.mlp.fc1.weight", "cls_token"])
def test_a_wrong_shape_is_named(name: str) -> None:
    state = vit().state_dict()
    state[name] = torch.zeros(10, 99)
    with pytest.raises(RegardError, match=rf"{name} has shape \(10, 99\)"):
        load_state(vit(), state)


def test_a_transposed_head_is_an_error() -> None:
    state = vit().state_dict()
    state["head.weight"] = state["head.weight"].t()
    with pytest.raises(RegardError, match=r"contradicts itself: head\.weight \(16, 10\), head\.bias \(10,\)"):
        load_state(vit(), state)


def test_whole_numbers_in_place_of_weights_are_an_error() -> None:
    state = vit().state_dict()
    state["norm.weight"] = state["norm.weight"].long()
    with pytest.raises(RegardError, match=r"norm\.weight holds torch\.int64"):
        load_state(vit(), state)


def test_half_precision_is_loaded() -> None:
    source, target = vit(), vit()
    assert load_state(target, {name: tensor.half() for name, tensor in source.state_dict().items()}) == []
    assert target.norm.weight.dtype == torch.float32
    assert torch.allclose(source.pos_embed, target.pos_embed, atol=1e-3)


def test_old_files_without_the_batch_counter_are_loaded() -> None:
    source, target = resnet(), resnet()
    state = {name: t for name, t in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert load_state(target, state) == []
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize(
    "fitting",
    [
        "vit_tiny_patch16_384",
        "vit_small_patch32_224",
        "deit_base_distilled_patch16_384",
        "vit_small_patch14_reg4_dinov2",
        "resnet34",
        "googlenet",
    ],
)
def test_the_model_that_the_weights_fit_is_named(fitting: str) -> None:
    with torch.device("meta"):
        state = create_model(fitting).state_dict()
        target = create_model("resnet18")
    with pytest.raises(RegardError, match=rf"they fit {fitting}$"):
        load_state(target, state, num_classes=1000)


def test_weights_of_nothing_known_get_an_advice() -> None:
    with pytest.raises(RegardError, match="name the model that they are of"):
        load_state(vit(), {"features.0.weight": torch.zeros(1)}, num_classes=10)


def test_weights_of_a_resnet_are_loaded_around_non_local_blocks_and_that_is_said() -> None:
    ours, plain = create_model("resnet20_nl_32", 5).eval(), create_model("resnet20_32", 5).eval()
    notes = load_state(ours, plain.state_dict())
    assert notes == [
        "the weights have no nonlocals.layer2_1: what is there stays, untrained, and hands on what it gets"
    ]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))
    assert load_state(create_model("resnet20_nl_32", 5), ours.state_dict()) == []
    damaged = dict(ours.state_dict())
    del damaged["nonlocals.layer2_1.theta.weight"]
    with pytest.raises(RegardError, match=r"the weights lack nonlocals\.layer2_1\.theta\.weight"):
        load_state(create_model("resnet20_nl_32", 5), damaged)
