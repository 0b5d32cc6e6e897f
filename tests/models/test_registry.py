from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import (
    create_model,
    head_name,
    list_models,
    model_spec,
    register_model,
    registry,
    reset_head,
    timm_reference,
)


def test_the_list_is_sorted_and_takes_a_pattern() -> None:
    assert list_models() == sorted(list_models())
    assert list_models("vit_*_32") == ["vit_micro_patch4_32", "vit_nano_patch4_32", "vit_tiny_patch4_32"]
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
        head_name(nn.Linear(2, 2))
    with pytest.raises(RegardError, match="without a head"):
        reset_head(create_model("resnet20_32", num_classes=0), 3)


def test_timm_reference_follows_the_image_size() -> None:
    assert timm_reference(model_spec("resnet18"), 224) == ("resnet18", {})
    assert timm_reference(model_spec("resnet18"), 32) is None
    assert timm_reference(model_spec("resnet20_32"), 32) is None
    assert timm_reference(model_spec("vit_tiny_patch16_224"), 96) == (
        "vit_tiny_patch16_224",
        {"img_size": 96},
    )
