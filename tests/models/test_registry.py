from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import (
    create_model,
    features_method,
    features_of,
    head_names,
    list_models,
    model_spec,
    register_model,
    registry,
    reset_head,
    timm_reference,
)


def test_the_list_is_sorted_and_takes_a_pattern() -> None:
    assert list_models() == sorted(list_models())
    assert list_models("vit_*_patch4_32") == ["vit_micro_patch4_32", "vit_nano_patch4_32", "vit_tiny_patch4_32"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize(
    ("name", "nearest"), [("vit_smal_patch16_224", "vit_small_patch16_224"), ("resnet-50", "resnet50")]
)
def test_an_unknown_name_gets_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RegardError, match=rf"{name}: no such model; nearest: .*{nearest}"):
        create_model(name)


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(RegardError, match="list_models"):
        model_spec("!!!!")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_tiny_patch16_224", {"img_size": 100}, "nearest sizes: 96 or 112"),
        ("vit_tiny_patch16_224", {"img_size": 48}, "3x3 patches, fewer than 16"),
        ("vit_tiny_patch16_224", {"img_size": 0}, "img_size=0"),
        ("vit_nano_patch4_32", {"num_classes": -1}, "num_classes=-1"),
        ("vit_nano_patch4_32", {"drop_rate": 1.0}, "drop_rate=1.0"),
        ("vit_nano_patch4_32", {"drop_path_rate": -0.1}, "drop_path_rate=-0.1"),
        ("resnet18", {"drop_path_rate": 0.1}, "drop_path_rate=0.1: resnet18 has no stochastic depth"),
        ("resnet20_32", {"drop_rate": 0.1}, "drop_rate=0.1: resnet20_32 has no dropout"),
    ],
)
def test_what_a_model_cannot_take_is_one_line(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(RegardError, match=message) as error:
        create_model(name, **arguments)
    assert "\n" not in str(error.value)


def test_options_in_a_name_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def build(**arguments: object) -> nn.Module:
        given.update(arguments)
        return nn.Identity()

    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    options = {"pool": ("token", "mean"), "positions": ("learned", "none")}
    register_model(dataclasses.replace(model_spec("vit_nano_patch4_32"), name="mine", build=build, options=options))
    create_model("mine+positions=none+pool=token", 3)
    assert given["positions"] == "none" and "pool" not in given
    assert model_spec("mine+pool=token") == model_spec("mine")
    assert model_spec("mine+positions=none+pool=mean").name == "mine+pool=mean+positions=none"
    assert model_spec("vit_tiny_patch16_224+positions=sinusoidal+pool=mean").timm is None
    architecture, arguments = timm_reference(model_spec("vit_tiny_patch16_224+positions=none+pool=mean"), 64) or (
        "",
        {},
    )
    assert architecture == "vit_tiny_patch16_224"
    assert arguments["pos_embed"] == "none" and arguments["global_pool"] == "avg" and arguments["img_size"] == 64
    for name in ("mine+pool=max", "mine+depth=3", "mine+pool"):
        with pytest.raises(RegardError, match=r"no such option; it has pool=token\|mean; positions=learned\|none$"):
            model_spec(name)


def test_few_patches_can_be_forced() -> None:
    assert create_model("vit_nano_patch4_32", 3, img_size=8, force=True)(torch.zeros(1, 3, 8, 8)).shape == (
        1,
        3,
    )


def test_a_users_model_registers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    mine = dataclasses.replace(model_spec("resnet20_32"), name="mine")
    register_model(mine)
    assert "mine" in list_models() and isinstance(create_model("mine"), nn.Module)
    with pytest.raises(RegardError, match="registered already"):
        register_model(mine)


def test_head_of_a_foreign_module_is_refused() -> None:
    with pytest.raises(RegardError, match="Linear: is no registered model"):
        head_names(nn.Linear(2, 2))
    with pytest.raises(RegardError, match="without a head"):
        reset_head(create_model("resnet20_32", num_classes=0), 3)


def test_features_are_asked_for_by_the_name_that_is_a_method() -> None:
    """torchvision's AlexNet, VGG and ConvNeXt have a submodule `features`; a user's model may have anything there."""
    for name, method in (("resnet20_32", "features"), ("vgg_nano_32", "final_features")):
        model = create_model(name, 5)
        assert features_method(model) == getattr(model, method)
    other = nn.Linear(2, 2)
    other.features = 512  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    assert features_method(other) is None
    with pytest.raises(RegardError, match="Linear: has no method features"):
        features_of(other, torch.zeros(1, 3, 8, 8))


def test_timm_reference_follows_the_image_size() -> None:
    assert timm_reference(model_spec("resnet18"), 224) == ("resnet18", {})
    assert timm_reference(model_spec("resnet18"), 32) is None
    assert timm_reference(model_spec("resnet20_32"), 32) is None
    assert timm_reference(model_spec("vit_tiny_patch16_224"), 96) == (
        "vit_tiny_patch16_224",
        {"img_size": 96},
    )
