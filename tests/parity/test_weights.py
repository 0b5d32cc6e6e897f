"""The same logits from every published dialect: tiny random models of the peers, through our converter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

from regard.models.resnet import ResNet
from regard.models.vit import ViT
from regard.weights import load_state, read_state, save_state

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def roughen(model: nn.Module) -> nn.Module:
    """Every weight random: a fresh head of zeros or a norm of ones would hide a mistake."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            buffer.normal_()
    return model.eval()


def ours() -> nn.Module:
    return ViT(num_classes=7, **SIZES).eval()


def assert_same(reference: Tensor, answer: Tensor) -> None:
    assert (reference - answer).abs().max() <= 1e-5 * reference.abs().max()
    assert reference.std() > 0.1, "a reference that says nothing"


@torch.no_grad()
def test_timm(tmp_path: Path) -> None:
    peer = roughen(timm.create_model("vit_tiny_patch16_224", num_classes=7, **SIZES))
    torch.save({"state_dict": peer.state_dict()}, tmp_path / "peer.pth")
    model, images = ours(), torch.randn(4, 3, 32, 32)
    assert load_state(model, read_state(tmp_path / "peer.pth"), "peer.pth") == []
    assert_same(peer(images), model(images))


@torch.no_grad()
def test_torchvision(tmp_path: Path) -> None:
    peer = roughen(VisionTransformer(32, 8, 3, 3, 24, 96, num_classes=7))
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    model, images = ours(), torch.randn(4, 3, 32, 32)
    assert load_state(model, read_state(tmp_path / "peer.pth"), "peer.pth") == []
    assert_same(peer(images), model(images))


def test_old_torchvision_names() -> None:
    peer = VisionTransformer(32, 8, 3, 3, 24, 96, num_classes=7)
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in peer.state_dict().items()
    }
    assert old.keys() != peer.state_dict().keys()
    a, b = ours(), ours()
    load_state(a, old)
    load_state(b, peer.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def hugging_face() -> nn.Module:
    """With the LayerNorm epsilon of everybody else, so that only the weights can differ."""
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_labels=7,
        layer_norm_eps=1e-6,
    )
    return roughen(transformers.ViTForImageClassification(config))


@torch.no_grad()
def test_hugging_face_folder(tmp_path: Path) -> None:
    peer = hugging_face()
    peer.save_pretrained(tmp_path)
    model, images = ours(), torch.randn(4, 3, 32, 32)
    assert load_state(model, read_state(tmp_path), tmp_path) == []
    assert_same(peer(images).logits, model(images))


OLD_HUGGING_FACE = (
    ("vit.layers.", "vit.encoder.layer."),
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


@torch.no_grad()
def test_hugging_face_names_of_before_version_5() -> None:
    """The names that published files bear, whatever the installed version calls its modules."""
    peer = hugging_face()
    old = {}
    for name, tensor in peer.state_dict().items():
        for new_part, old_part in OLD_HUGGING_FACE:
            name = name.replace(new_part, old_part)
        old[name] = tensor
    assert "vit.encoder.layer.0.attention.attention.query.weight" in old
    model, images = ours(), torch.randn(4, 3, 32, 32)
    assert load_state(model, old) == []
    assert_same(peer(images).logits, model(images))


@torch.no_grad()
def test_hugging_face_without_a_head_and_with_a_pooler() -> None:
    config = hugging_face().config
    peer = roughen(transformers.ViTModel(config))
    model, images = ours(), torch.randn(4, 3, 32, 32)
    notes = load_state(model, peer.state_dict(), num_classes=7)
    assert ["pooler.dense.weight" in notes[0], "fresh head" in notes[1]] == [True, True]
    assert_same(peer(images).last_hidden_state[:, 0], model.features(images).cls)


def as_google(model: nn.Module, heads: int) -> dict[str, np.ndarray]:
    """Our weights under Google's names and in flax's layouts: the published table, read backwards."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    dim = state["cls_token"].shape[-1]
    out = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": np.ones((dim, dim), np.float32),
        "pre_logits/bias": np.ones(dim, np.float32),
    }
    for i in range(SIZES["depth"]):
        block, theirs = f"blocks.{i}.", f"Transformer/encoderblock_{i}/"
        for norm, number in (("norm1", 0), ("norm2", 2)):
            out[f"{theirs}LayerNorm_{number}/scale"] = state[f"{block}{norm}.weight"]
            out[f"{theirs}LayerNorm_{number}/bias"] = state[f"{block}{norm}.bias"]
        weights, biases = state[f"{block}attn.qkv.weight"], state[f"{block}attn.qkv.bias"]
        attention = f"{theirs}MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * dim, (part + 1) * dim)
            out[f"{attention}{name}/kernel"] = weights[rows].T.reshape(dim, heads, dim // heads)
            out[f"{attention}{name}/bias"] = biases[rows].reshape(heads, dim // heads)
        out[f"{attention}out/kernel"] = state[f"{block}attn.proj.weight"].T.reshape(heads, dim // heads, dim)
        out[f"{attention}out/bias"] = state[f"{block}attn.proj.bias"]
        for layer, number in (("fc1", 0), ("fc2", 1)):
            out[f"{theirs}MlpBlock_3/Dense_{number}/kernel"] = state[f"{block}mlp.{layer}.weight"].T
            out[f"{theirs}MlpBlock_3/Dense_{number}/bias"] = state[f"{block}mlp.{layer}.bias"]
    return out


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
@torch.no_grad()
def test_google_npz(tmp_path: Path, prefix: str) -> None:
    reference = roughen(ours())
    arrays = as_google(reference, SIZES["num_heads"])
    np.savez(tmp_path / "peer.npz", **{prefix + name: array for name, array in arrays.items()})
    model, images = ours(), torch.randn(4, 3, 32, 32)
    (note,) = load_state(model, read_state(tmp_path / "peer.npz"), "peer.npz")
    assert "pre_logits/kernel, pre_logits/bias" in note
    assert_same(reference(images), model(images))


@torch.no_grad()
def test_google_attention_in_flax_terms() -> None:
    """What (D, h, d_h) kernels mean, by einsum: a wrong order of axes would survive its own inverse."""
    reference = roughen(ours())
    arrays = as_google(reference, 3)
    x = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/"
    q, k, v = (
        np.einsum("btd,dhk->bhtk", x, arrays[f"{name}{part}/kernel"]) + arrays[f"{name}{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    scores = np.einsum("bhtk,bhsk->bhts", q, k) / np.sqrt(8)
    pattern = np.exp(scores - scores.max(-1, keepdims=True))
    pattern /= pattern.sum(-1, keepdims=True)
    mixed = np.einsum("bhts,bhsk->bthk", pattern, v)
    expected = np.einsum("bthk,hkd->btd", mixed, arrays[f"{name}out/kernel"]) + arrays[f"{name}out/bias"]
    model = ours()
    load_state(model, {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
    assert_same(torch.from_numpy(expected), model.blocks[1].attn(torch.from_numpy(x)))


@torch.no_grad()
def test_torchvision_resnet(tmp_path: Path) -> None:
    peer = roughen(TorchvisionResNet(BasicBlock, [1, 1, 1, 1], num_classes=7))
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    model = ResNet(BasicBlock, (1, 1, 1, 1), (64, 128, 256, 512), False, True, 7).eval()
    assert load_state(model, read_state(tmp_path / "peer.pth"), "peer.pth") == []
    images = torch.randn(2, 3, 64, 64)
    assert_same(peer(images), model(images))


@torch.no_grad()
def test_timm_reads_our_file_and_resamples_like_us(tmp_path: Path) -> None:
    """The way back: our safetensors in timm, at another image size on both sides."""
    source = roughen(ours())
    path = save_state(tmp_path / "model.safetensors", source.state_dict())
    peer = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 7},
        num_classes=7,
        **{**SIZES, "img_size": 48},
    ).eval()
    model = ViT(num_classes=7, **{**SIZES, "img_size": 48}).eval()
    (note,) = load_state(model, read_state(path), path)
    assert "resampled" in note
    images = torch.randn(2, 3, 48, 48)
    assert_same(peer(images), model(images))
