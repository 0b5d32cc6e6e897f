"""Grad-CAM: against plain loops in float64, pytorch-grad-cam and Captum; on every kind of classifier; nothing left."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from classifiers import cnn, pictures, seeded
from torch import Tensor, nn

from regard.errors import RegardError
from regard.explanation.gradcam import METHOD, gradcam
from regard.explanation.places import find_place, is_known, last_place
from regard.models import create_model, features_of, list_models, model_spec
from regard.models.swin import Swin
from regard.models.vit import ViT

SMALL = [name for name in list_models("*_32") if model_spec(name).task == "classify"]
# The same layers as others, more of them.
DEEP = {"resnet32_32", "resnet56_32", "plain32_32", "plain56_32", "pixel_transformer_32"}
CLASSES = torch.tensor([2, 0])


# Against plain references ------------------------------------------------------------------------------------


def loops(activations: Tensor, gradients: Tensor) -> np.ndarray:
    """(P, C) twice -> (P,): equations (1) and (2), number by number."""
    cells, channels = activations.shape
    out = np.zeros(cells)
    for channel in range(channels):
        weight = sum(float(gradients[cell, channel]) for cell in range(cells)) / cells
        for cell in range(cells):
            out[cell] += weight * float(activations[cell, channel])
    return np.array([max(value, 0.0) for value in out])


def test_a_class_token_vit_equals_differences_in_loops() -> None:
    model = seeded(lambda: ViT((8, 12), 4, embed_dim=8, depth=2, num_heads=2, num_classes=3)).double()
    assert isinstance(model, ViT)
    nn.init.normal_(model.pos_embed)  # pyright: ignore[reportArgumentType]
    x = pictures(2, 3, 8, 12).double()
    found = gradcam(model, x, CLASSES)
    assert found.shape == (2, 2, 3) and found.dtype == torch.float32 and found.max() > 0
    last = model.blocks[-1]
    with torch.no_grad():
        for number, cls in enumerate(CLASSES.tolist()):
            image = x[number : number + 1]
            start = torch.cat([model.cls_token, model.patch_embed(image)], 1) + model.pos_embed
            before = model.blocks[0](start)
            normed = last.norm1(before)

            def logit(y: Tensor, before: Tensor = before, cls: int = cls) -> float:
                z = before + last.attn(y)
                z = z + last.mlp(last.norm2(z))
                return float(model.head(model.norm(z)[:, 0])[0, cls])

            slopes = torch.zeros_like(normed[0])
            for token in range(7):
                for channel in range(8):
                    step = torch.zeros_like(normed)
                    step[0, token, channel] = 1e-5
                    slopes[token, channel] = (logit(normed + step) - logit(normed - step)) / 2e-5
            expected = loops(normed[0, 1:], slopes[1:]).reshape(2, 3)
            np.testing.assert_allclose(found[number].numpy(), expected, rtol=1e-4, atol=1e-7 * expected.max())


def test_a_cnn_equals_its_class_activation_map() -> None:
    """Behind a mean and a linear layer, the gradient is the row of the head, divided by the number of places."""
    model = seeded(cnn)
    for norm in (model[2], model[5]):  # pyright: ignore[reportIndexIssue]
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = pictures(2, 3, 13, 9)
    found = gradcam(model, x, CLASSES)
    with torch.no_grad():
        map_ = model[:7](x.clone())  # pyright: ignore[reportIndexIssue]
    head = model[9].weight.detach()  # pyright: ignore[reportIndexIssue]
    assert map_.shape[2:] == found.shape[1:] == (7, 5)
    for number, cls in enumerate(CLASSES.tolist()):
        cells = map_[number].flatten(1).T.double()
        expected = loops(cells, (head[cls] / 35).double().expand_as(cells)).reshape(7, 5)
        np.testing.assert_allclose(found[number].numpy(), expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_of_pooled_tokens_it_is_the_share_of_each_patch_in_the_logit() -> None:
    model = seeded(lambda: Swin((16, 24), 2, 2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=5))
    x = pictures(2, 3, 16, 24)
    found = gradcam(model, x, CLASSES)
    with torch.no_grad():
        shares = features_of(model, x).tokens @ model.get_submodule("head.fc").weight[CLASSES].T / 24  # (B, T, 2)
    expected = torch.stack([shares[0, :, 0], shares[1, :, 1]]).clamp(min=0).unflatten(1, (4, 6))
    torch.testing.assert_close(found, expected)


# Against the published packages -------------------------------------------------------------------------------


def by_pytorch_grad_cam(model: nn.Module, layer: str, x: Tensor, reshape=None) -> np.ndarray:
    """Its activations, gradients and weighting, before it scales the map to 0..1 and to the size of the image."""
    package = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed")
    targets = [package.utils.model_targets.ClassifierOutputTarget(int(cls)) for cls in CLASSES]
    peer = copy.deepcopy(model)
    module = peer.get_submodule(layer)
    with package.GradCAM(model=peer, target_layers=[module], reshape_transform=reshape) as cam:
        cam(input_tensor=x, targets=targets)
        kept = cam.activations_and_grads
        found = cam.get_cam_image(x, module, targets, kept.activations[0].numpy(), kept.gradients[0].numpy())
    return np.maximum(found, 0)


def test_resnet18_of_torchvision_as_pytorch_grad_cam_and_captum() -> None:
    import torchvision

    model = seeded(lambda: torchvision.models.resnet18(num_classes=5))
    x = pictures(2, 3, 64, 96)
    found = gradcam(model, x, CLASSES)
    assert found.shape == (2, 2, 3) and last_place(model, x).name == "layer4"
    expected = by_pytorch_grad_cam(model, "layer4", x)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6 * expected.max())
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    theirs = captum.LayerGradCam(model, model.layer4).attribute(x, target=CLASSES, relu_attributions=True)
    torch.testing.assert_close(found, theirs[:, 0].detach(), rtol=1e-5, atol=1e-6 * float(expected.max()))


def test_timms_vit_with_fused_attention_as_pytorch_grad_cam() -> None:
    timm = pytest.importorskip("timm")
    model = seeded(lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=(64, 96), depth=2))
    x = pictures(2, 3, 64, 96)
    found = gradcam(model, x, CLASSES)
    place = last_place(model, x)
    assert str(place) == "blocks.1.norm1 (patches 4x6)" and found.max() > 0
    expected = by_pytorch_grad_cam(
        model, "blocks.1.norm1", x, lambda y: y[:, 1:].transpose(1, 2).unflatten(2, (4, 6)).contiguous()
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6 * expected.max())
    ours = create_model("vit_tiny_patch16_224", 5, 64)
    assert str(last_place(ours, x)) == "blocks.11.norm1 (patches 4x4)"


# Every classifier ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in DEEP else n for n in SMALL])
def test_every_registered_classifier_has_one(name: str) -> None:
    """Untrained, of the last map that the model itself names, or of its patches."""
    spec = model_spec(name)
    size = max(spec.smallest, 4 * spec.patch_size) if spec.patch_size else 32 if spec.smallest else 16
    model = seeded(lambda: create_model(name, 5, size))
    x = pictures(1, 3, size, size)
    with torch.no_grad():
        features = features_of(model, x)
    found = gradcam(model, x.repeat(5, 1, 1, 1), torch.arange(5))
    place = last_place(model, x)
    assert place.grid == features.grid and found.shape == (5, *place.grid)
    assert found.isfinite().all() and (found >= 0).all() and found.max() > 0
    assert find_place(model, x) == place  # what is known of it is what would be found
    if is_known(model):
        assert (place.prefix, place.name == "norm") == (features.prefix, features.prefix == 0)


# Nothing is left behind ----------------------------------------------------------------------------------------


def state(model: nn.Module) -> tuple:
    weights = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    flags = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return weights, flags, modules


def assert_same(model: nn.Module, before: tuple) -> None:
    weights, flags, modules = state(model)
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in weights.items())
    assert (flags, modules) == before[1:]


@pytest.mark.parametrize("make", [cnn, lambda: ViT(16, 4, 8, 2, 2, 5, drop_rate=0.5)])
def test_a_model_in_training_is_asked_as_in_evaluation_and_left_as_it_was(make) -> None:
    model, x = seeded(make), pictures(2, 3, 16, 16)
    expected, kept = gradcam(model, x, CLASSES), x.clone()
    model.train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    before = state(model)
    with torch.inference_mode():
        torch.testing.assert_close(gradcam(model, x.clone(), CLASSES), expected)
    with torch.no_grad():
        torch.testing.assert_close(gradcam(model, x, CLASSES), expected)
    assert_same(model, before)
    with pytest.raises(RegardError, match="class 5: does not exist"):
        gradcam(model, x, torch.tensor([0, 5]))
    assert_same(model, before)
    assert torch.equal(x, kept) and not x.requires_grad


def test_images_do_not_influence_each_other() -> None:
    model, x = seeded(cnn).train(), pictures(3, 3, 13, 9)
    together = gradcam(model, x, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(gradcam(model, x[1:2], torch.tensor([0])), together[1:2])


# Refusals ------------------------------------------------------------------------------------------------------


def test_what_has_no_map_is_refused_with_what_applies() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), pictures(2, 3, 8, 8)
    with pytest.raises(RegardError, match=r"none of its modules gives a map .*integrated_gradients and occlusion"):
        gradcam(model, x, CLASSES)
    zero = seeded(cnn)
    nn.init.zeros_(zero[9].weight)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(RegardError, match="no gradient reaches a map of it"):
        gradcam(zero, pictures(2, 3, 13, 9), CLASSES)
    with pytest.raises(RegardError, match=r"gave \(2, 5, 6, 6\) for 2 images; expected logits \(2, classes\)"):
        gradcam(nn.Sequential(nn.Conv2d(3, 5, 3)), x, CLASSES)
    with pytest.raises(RegardError, match="compiled or exported"):
        gradcam(nn.Sequential(torch.compile(seeded(cnn), backend="eager")), x, CLASSES)  # pyright: ignore
    with pytest.raises(RegardError, match="compiled or exported"):
        gradcam(torch.compile(seeded(cnn), backend="eager"), x, CLASSES)  # pyright: ignore[reportArgumentType]


def test_the_method_says_what_it_costs_and_of_what_it_is_not_defined() -> None:
    x = pictures(4, 3, 32, 32)
    assert METHOD.passes(create_model("vit_nano_patch4_32", 5), x) == (1, 1)
    assert METHOD.passes(cnn(), x) == (1.5, 1.5)
    with torch.device("meta"):
        clip = create_model("clip_vit_base_patch32")
    assert "classes are texts" in (METHOD.refusal(clip) or "") and METHOD.refusal(cnn()) is None
