"""Low-rank adapters: nothing changes at first, only they learn, and merging keeps the answers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import create_model
from regard.training import lora


def vit() -> nn.Module:
    torch.manual_seed(0)
    return create_model("vit_nano_patch4_32", num_classes=3).eval()


def stir(model: nn.Module) -> None:
    """Adapters as if they had been trained."""
    for module in model.modules():
        if isinstance(module, lora.LowRank):
            nn.init.normal_(module.up.weight, std=0.1)


def test_an_adapted_model_begins_as_it_was_and_only_adapters_learn():
    model, x = vit(), torch.rand(2, 3, 32, 32)
    expected = model(x)
    lora.adapt(model, 4, 32, "vit")
    assert torch.equal(model(x), expected)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        f"blocks.{block}.attn.{layer}.{part}.weight"
        for block in range(4)
        for layer in ("qkv", "proj")
        for part in ("down", "up")
    }
    adapter = model.get_submodule("blocks.1.attn.qkv")
    assert isinstance(adapter, lora.LowRank)
    assert (adapter.down.weight.shape, adapter.up.weight.shape) == ((4, 96), (288, 4))


def test_a_merged_model_answers_as_the_adapted_one_under_its_own_names():
    model, x = vit(), torch.rand(4, 3, 32, 32)
    names = list(model.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lora.adapt(model, 8, 32, "vit")
    stir(model)
    expected = model(x)
    lora.merge(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"blocks.{block}.attn.{layer}.weight" for block in range(4) for layer in ("qkv", "proj")}


def test_timms_models_are_adapted_too():
    timm = pytest.importorskip("timm")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 3}
    model, x = timm.create_model("vit_tiny_patch16_224", **arguments).eval(), torch.rand(2, 3, 32, 32)
    lora.adapt(model, 2, 32, "timm")
    stir(model)
    expected = model(x)
    lora.merge(model)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


class Sideways(nn.Module):
    """Multiplies with the weight of attn.qkv instead of calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"qkv": nn.Linear(3 * 32 * 32, 6)})

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.attn["qkv"].weight.T


@pytest.mark.parametrize(
    ("model", "rank", "words"),
    [
        (create_model("resnet20_32", num_classes=3), 8, "has no attention"),
        (create_model("vit_nano_patch4_32", num_classes=3), 97, "--lora-rank 97"),
        (Sideways(), 2, "past qkv or proj"),
    ],
)
def test_what_cannot_be_adapted_is_one_line(model, rank, words):
    with pytest.raises(RegardError, match=words) as refused:
        lora.adapt(model, rank, 32, "model")
    assert "\n" not in str(refused.value)
