"""The battery: what every registered model must do. A new model gets these tests by being registered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from regard.models import (
    Heads,
    create_model,
    features_of,
    head_names,
    list_models,
    model_spec,
    reset_head,
    timm_reference,
)
from regard.models.clip import CLIP
from regard.models.sam import SAM
from regard.taps import Tap, edit, record

CLASSES = 7
QUICK = {
    "botnet20_32",
    "local_resnet20_32",
    "lrnet20_32",
    "resnet20_nl_32",
    "convnext_micro_32",
    "deit_nano_distilled_patch4_32",
    "googlenet_nano_32",
    "pixel_transformer_8",
    "plain20_32",
    "vgg_nano_bn_32",
    "resnet18",
    "resnet20_32",
    "swin_nano_patch2_window4_32",
    "t2t_vit_nano_32",
    "vit_nano_patch4_32",
    "vit_nano_patch4_reg4_dinov2_32",
    "vit_nano_r8_s4_32",
    "vit_tiny_patch16_224",
}
CLASSIFIERS = [name for name in list_models() if model_spec(name).task == "classify"]
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CLASSIFIERS]


def small_size(name: str) -> int:
    """The smallest image that the model takes: 4x4 patches, or 32 pixels, unless its sheet says otherwise."""
    spec = model_spec(name)
    return spec.smallest or (4 * spec.patch_size if spec.patch_size else 32)


def images_for(name: str, count: int = 3) -> Tensor:
    size = small_size(name)
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def made() -> dict[str, nn.Module]:
    return {}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str, made: dict[str, nn.Module]) -> nn.Module:
    """In evaluation mode; made once per name, one at a time. A test that changes it makes its own."""
    if name not in made:
        made.clear()
        made[name] = fresh(name)
    return made[name]


def fresh(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, CLASSES, small_size(name)).eval()


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@torch.no_grad()
def test_logits_have_a_row_per_image_and_are_the_same_twice(name: str, model: nn.Module) -> None:
    x = images_for(name)
    logits = model(x)
    assert logits.shape == (3, CLASSES) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert torch.equal(model(x), logits)


@torch.no_grad()
def test_an_image_does_not_know_its_neighbours(name: str, model: nn.Module) -> None:
    """In float64, and after batch norms have seen the images: a deep fresh model may give its bias alone otherwise."""
    x, model = images_for(name).double(), copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of all it has seen
    model.train()(x)
    logits = model.eval()(x)
    assert not torch.equal(logits[0], logits[1])
    assert close(model(x[1:2]), logits[1:2])
    x[0] = 100.0
    assert torch.equal(model(x)[1:], logits[1:])


@torch.no_grad()
def test_features_are_what_the_head_multiplies(name: str, model: nn.Module) -> None:
    x = images_for(name)
    features = features_of(model, x)
    head, *others = (model.get_submodule(head) for head in head_names(model))
    assert isinstance(head, nn.Linear)
    if any(other.in_features == head.in_features for other in others):  # the answer may be a mean of heads: one for all
        model = fresh(name)
        head, features = model.get_submodule(head_names(model)[0]), model.features(x)  # pyright: ignore
        for other in head_names(model)[1:]:
            model.set_submodule(other, head)
    assert close(head(features.pooled), model(x))
    # The width of a token is another than the head's where hidden layers lie between (AlexNet, VGG).
    assert features.tokens.shape[:2] == (3, features.prefix + features.grid[0] * features.grid[1])
    assert features.tokens.ndim == 3 and features.pooled.shape == (3, head.in_features)
    if features.cls is not None:
        assert torch.equal(features.cls, features.tokens[:, 0])
    headless = create_model(name, 0, small_size(name)).eval()
    headless.load_state_dict({key: t for key, t in model.state_dict().items() if key in headless.state_dict()})
    assert torch.equal(headless(x), features.pooled)


@torch.no_grad()
def test_listening_to_everything_changes_nothing(name: str, model: nn.Module) -> None:
    x = images_for(name)
    plain = model(x)
    with record(model, "**") as seen:
        listened = model(x)
    assert close(listened, plain) and torch.equal(model(x), plain)
    taps = {tap for tap, module in model.named_modules() if isinstance(module, Tap)}
    assert taps <= seen.keys()


@torch.no_grad()
def test_a_listener_leaves_nothing_behind(name: str, model: nn.Module) -> None:
    leaves_nothing_behind(model, images_for(name))


OTHERS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {  # of the other tasks: model and its inputs
    "clip": lambda: (
        CLIP(16, 4, 12, 2, 3, 8, text_width=8, text_depth=2, text_heads=2, vocabulary=20),
        (torch.randn(3, 3, 16, 16), torch.randint(1, 20, (4, 6))),
    ),
    "deeplabv3_resnet50": lambda: (create_model("deeplabv3_resnet50", CLASSES, 32), (torch.randn(2, 3, 32, 32),)),
    "sam": lambda: (
        SAM(40, 8, 12, 2, 3, (1,), 4, dim=16, decoder_heads=2, decoder_hidden=8),  # windows are filled up
        (torch.randn(2, 3, 40, 40), 40 * torch.rand(2, 3, 2, 2), torch.tensor([1, 0]).expand(2, 3, 2)),
    ),
    "pixel_gpt_8": lambda: (create_model("pixel_gpt_8", CLASSES), (torch.randint(0, 17, (3, 64)),)),
    **{
        name: lambda name=name: (create_model(name, 9), (torch.randint(3, 9, (3, 7)), torch.randint(3, 9, (3, 5))))
        for name in list_models("*_tiny")
        if model_spec(name).task == "seq2seq"
    },
}


@pytest.mark.parametrize("other", OTHERS)
@torch.no_grad()
def test_models_of_other_tasks_are_listened_to_without_a_trace(other: str) -> None:
    torch.manual_seed(0)
    model, inputs = OTHERS[other]()
    for key, parameter in model.eval().named_parameters():  # patterns of freshly drawn weights are all but uniform
        if "norm" not in key and parameter.ndim > 1 and other != "deeplabv3_resnet50":
            nn.init.normal_(parameter, std=0.3)
    plain = tree_leaves(model(*inputs))
    with record(model, "**") as seen:
        listened = tree_leaves(model(*inputs))
    assert len(plain) == len(listened) and all(map(close, listened, plain))
    assert {tap for tap, module in model.named_modules() if isinstance(module, Tap)} <= seen.keys()
    leaves_nothing_behind(model, *inputs)


def leaves_nothing_behind(model: nn.Module, *inputs: Tensor) -> None:
    """Hook-free, with the same weights and the same answer to the last bit, also after an exception in the model."""
    plain, before, weights = model(*inputs), traces(model), copy.deepcopy(model.state_dict())

    def fail(output: object) -> object:
        raise ZeroDivisionError

    with record(model, "**"):
        model(*inputs)
        assert traces(model) != before
    assert traces(model) == before
    with pytest.raises(ZeroDivisionError), record(model, "**"), edit(model, {"**": fail}):
        model(*inputs)
    assert traces(model) == before
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())
    assert all(map(torch.equal, tree_leaves(model(*inputs)), tree_leaves(plain)))


def traces(model: nn.Module) -> list[tuple[int, int, bool, int]]:
    """All that a listener might leave at each module."""
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training, m.listeners if isinstance(m, Tap) else 0)
        for m in model.modules()
    ]


def test_backward_reaches_every_parameter(name: str) -> None:
    model = fresh(name).train()
    for module in model.modules():  # a norm that starts at 0 hides what lies before it
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and not module.weight.any():
            nn.init.ones_(module.weight)
    answers = model(images_for(name))
    heads = (answers.logits, *answers.others) if isinstance(answers, Heads) else (answers,)
    assert len(heads) == len(head_names(model))
    sum(logits.logsumexp(1).sum() for logits in heads).backward()
    untouched = [key for key, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert untouched == []


@torch.no_grad()
def test_saved_and_loaded_it_says_the_same(name: str, model: nn.Module, tmp_path: Path) -> None:
    x = images_for(name)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = create_model(name, CLASSES, small_size(name)).eval()
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"), strict=True)
    assert torch.equal(other(x), model(x))


@torch.no_grad()
def test_a_new_head_leaves_the_body_alone(name: str) -> None:
    model, x = fresh(name), images_for(name)
    before = features_of(model, x).pooled
    reset_head(model, 3)
    assert torch.equal(model(x), torch.zeros(3, 3))
    assert torch.equal(features_of(model, x).pooled, before)


@pytest.mark.parametrize("full", CLASSIFIERS)
def test_full_size_has_timms_names_and_shapes(full: str) -> None:
    spec = model_spec(full)
    with torch.device("meta"):
        model = create_model(full).eval()
    assert model(torch.zeros(2, 3, spec.img_size, spec.img_size, device="meta")).shape == (2, 1000)
    reference = timm_reference(spec, spec.img_size)
    if reference is None:
        return
    timm = pytest.importorskip("timm")
    architecture, arguments = reference
    with torch.device("meta"):
        theirs = timm.create_model(architecture, num_classes=1000, **arguments)
    shapes = [{key: t.shape for key, t in m.state_dict().items()} for m in (model, theirs)]
    assert shapes[0] == shapes[1]
