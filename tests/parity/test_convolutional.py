"""Ours against torchvision's with the same weights, in evaluation and, with all heads and statistics, in training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.convnext import CNBlock, CNBlockConfig
from torchvision.models.vgg import make_layers

from regard.models import Heads, create_model
from regard.weights import find_checkpoint, load_state

CLASSES = 11
LONG = pytest.mark.long


def shake(model: nn.Module) -> nn.Module:
    """Draws norms and running statistics anew, so that none hides behind its 0 or 1."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.3, 0.9)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # pyright: ignore[reportArgumentType]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
        if isinstance(module, CNBlock):
            nn.init.uniform_(module.layer_scale, 0.5, 1.5)  # from 1e-6, which would hide the block
    return model


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 1e-3 * theirs.abs().max()
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def tensors(outputs: Any) -> list[Tensor]:
    """Main output, then the auxiliary ones from the earliest module on, of either library."""
    if isinstance(outputs, Heads):
        return [outputs.logits, *outputs.others]
    if isinstance(outputs, Mapping):  # DeepLabv3
        return [outputs["out"], *([outputs["aux"]] if "aux" in outputs else [])]
    if isinstance(outputs, tuple):  # GoogLeNet (logits, aux2, aux1), Inception v3 (logits, aux)
        return [outputs[0], *reversed(outputs[1:])]
    return [outputs]


@torch.no_grad()
def assert_parity(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    load_state(ours, shake(theirs).state_dict())
    logits = ours.eval()(x)
    assert isinstance(logits, Tensor)
    assert_close(logits, tensors(theirs.eval()(x))[0])
    for mine, published in zip(tensors(ours.train()(x)), tensors(theirs.train()(x)), strict=True):
        assert_close(mine, published)
    for key, tensor in theirs.state_dict().items():  # the running statistics that training moved
        torch.testing.assert_close(ours.state_dict()[key], tensor)


# torchvision's module without dropout, because training is compared too
THEIRS = {
    "alexnet": partial(torchvision.models.alexnet, dropout=0.0),
    **{
        f"vgg{n}{bn}": partial(getattr(torchvision.models, f"vgg{n}{bn}"), dropout=0.0)
        for n in (11, 13, 16, 19)
        for bn in ("", "_bn")
    },
    "googlenet": partial(torchvision.models.GoogLeNet, init_weights=True, dropout=0.0, dropout_aux=0.0),
    "inception_v3": partial(torchvision.models.inception_v3, init_weights=True, dropout=0.0),
    "convnext_tiny": torchvision.models.convnext_tiny,
}


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("googlenet", 64, 96),
        pytest.param("googlenet", 224, 224, marks=LONG),
        pytest.param("alexnet", 63, 95, marks=LONG),
        *(pytest.param(name, 32, 48, marks=LONG) for name in THEIRS if name.startswith("vgg")),
        pytest.param("inception_v3", 299, 331, marks=LONG),
    ],
)
def test_outputs_are_torchvisions(name: str, height: int, width: int) -> None:
    torch.manual_seed(0)
    ours = create_model(name, CLASSES, min(height, width))
    assert_parity(ours, THEIRS[name](num_classes=CLASSES), torch.randn(3, 3, height, width))


@pytest.mark.parametrize("name", THEIRS)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        models = create_model(name), THEIRS[name]()
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_the_small_vgg_computes_what_torchvisions_does() -> None:
    with torch.device("meta"):  # torchvision's class has linear layers of one size only
        theirs = VGG(nn.Identity(), init_weights=False)
    ours = create_model("vgg_nano_bn_32", CLASSES)
    theirs.features = make_layers([32, 32, "M", 64, 64, "M", 128, 128, "M"], batch_norm=True)
    theirs.avgpool = nn.AdaptiveAvgPool2d(4)
    sides = (4 * 4 * 128, 256, 256, CLASSES)
    for i, layer in enumerate((0, 3, 6)):
        theirs.classifier[layer] = nn.Linear(sides[i], sides[i + 1])
    for layer in (2, 5):
        theirs.classifier[layer] = nn.Dropout(0.0)
    assert_parity(ours, theirs, torch.randn(3, 3, 32, 48))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("convnext_micro_32", [(96, 192, 2), (192, None, 3)]),
        pytest.param("convnext_tiny", [(96, 192, 3), (192, 384, 3), (384, 768, 9), (768, None, 3)], marks=LONG),
    ],
)
def test_convnext_is_torchvisions(name: str, stages: list[tuple[int, int | None, int]]) -> None:
    settings = [CNBlockConfig(*stage) for stage in stages]
    theirs = torchvision.models.ConvNeXt(settings, num_classes=CLASSES)
    assert_parity(create_model(name, CLASSES, 32), theirs, torch.randn(3, 3, 32, 64))


@LONG
@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_deeplab_is_torchvisions(backbone: str) -> None:
    make = getattr(torchvision.models.segmentation, f"deeplabv3_{backbone}")
    theirs = make(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_parity(create_model(f"deeplabv3_{backbone}", 5, 33), theirs, torch.randn(2, 3, 33, 48))


@torch.no_grad()
@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=LONG)])
def test_our_preprocessing_and_model_are_torchvisions_with_its_transform_input(name: str) -> None:
    """torchvision's published pair: ImageNet's mean and std, then the model maps them to 0.5 and 0.5."""
    size = 299 if name == "inception_v3" else 64
    theirs = THEIRS[name](num_classes=CLASSES, transform_input=True, aux_logits=True)
    ours = create_model(name, CLASSES, size)
    load_state(ours, shake(theirs).state_dict())
    pixels = torch.rand(2, 3, size, size)
    published = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()  # type: ignore[attr-defined]
    preprocess = find_checkpoint(name).preprocess

    def normalised(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    expected = theirs.eval()(normalised(published.mean, published.std))
    assert_close(ours.eval()(normalised(preprocess.mean, preprocess.std)), expected)
