"""Ours against T2T-ViT written out from its formulas, in float64, with loops over windows and sums over all tokens.

There is no package to compare with: timm has no T2T-ViT.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

from regard.errors import RegardError
from regard.layers.position import resample_positions
from regard.models import create_model
from regard.models.t2t import T2TViT
from regard.weights import convert, find_checkpoint, load_state, read_state

Weights = dict[str, np.ndarray]


def norm(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def split(image: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Windows of (C, H, W) as (N, C k k), by loops."""
    channels, height, width = image.shape
    tokens = []
    for top in range(-padding, height + padding - kernel + 1, stride):
        for left in range(-padding, width + padding - kernel + 1, stride):
            token = []
            for channel in range(channels):
                for row in range(top, top + kernel):
                    for column in range(left, left + kernel):
                        inside = 0 <= row < height and 0 <= column < width
                        token.append(image[channel, row, column] if inside else 0.0)
            tokens.append(token)
    return np.array(tokens)


def weighted(scores: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Means of v with weights exp(scores)."""
    weights = np.exp(scores)
    return weights / weights.sum(axis=1, keepdims=True) @ v


def mixer(x: np.ndarray, w: Weights, name: str) -> np.ndarray:
    normed = norm(x, w, f"{name}.norm1")
    if f"{name}.w" in w:
        k, q, v = np.split(linear(normed, w, f"{name}.kqv"), 3, axis=1)
        random = w[f"{name}.w"]

        def phi(t: np.ndarray) -> np.ndarray:
            return np.array([[np.exp(row @ one - one @ one / 2) for row in random] for one in t]) / np.sqrt(len(random))

        kernels = phi(q) @ phi(k).T
        mixed = kernels @ v / (kernels.sum(axis=1, keepdims=True) + 1e-8)
        x = v + linear(mixed, w, f"{name}.proj")
        first, second = f"{name}.mlp.0", f"{name}.mlp.2"
    else:
        q, k, v = np.split(linear(normed, w, f"{name}.attn.qkv"), 3, axis=1)
        x = v + linear(weighted(q @ k.T / np.sqrt(normed.shape[1]), v), w, f"{name}.attn.proj")
        first, second = f"{name}.mlp.fc1", f"{name}.mlp.fc2"
    return x + linear(gelu(linear(norm(x, w, f"{name}.norm2"), w, first)), w, second)


def block(x: np.ndarray, w: Weights, name: str, heads: int) -> np.ndarray:
    q, k, v = np.split(linear(norm(x, w, f"{name}.norm1"), w, f"{name}.attn.qkv"), 3, axis=1)
    wide = x.shape[1] // heads
    parts = [slice(head * wide, (head + 1) * wide) for head in range(heads)]
    mixed = [weighted(q[:, part] @ k[:, part].T / np.sqrt(wide), v[:, part]) for part in parts]
    x = x + linear(np.concatenate(mixed, axis=1), w, f"{name}.attn.proj")
    hidden = gelu(linear(norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1"))
    return x + linear(hidden, w, f"{name}.mlp.fc2")


def t2t(image: np.ndarray, w: Weights, depth: int, heads: int) -> np.ndarray:
    """Logits (K,) of one image (3, H, W)."""
    height, width = image.shape[1:]
    x = mixer(split(image, 7, 4, 2), w, "tokens_to_token.attention1")
    x = split(x.T.reshape(-1, height // 4, width // 4), 3, 2, 1)
    x = mixer(x, w, "tokens_to_token.attention2")
    x = split(x.T.reshape(-1, height // 8, width // 8), 3, 2, 1)
    x = np.concatenate([w["cls_token"][0], linear(x, w, "tokens_to_token.project")])
    for position in range(len(x)):
        for j in range(x.shape[1]):
            angle = position / 10_000 ** (2 * (j // 2) / x.shape[1])
            x[position, j] += np.cos(angle) if j % 2 else np.sin(angle)
    for i in range(depth):
        x = block(x, w, f"blocks.{i}", heads)
    return linear(norm(x, w, "norm"), w, "head")[0]


@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
@pytest.mark.parametrize("kind", ["performer", "transformer"])
def test_logits_are_those_of_the_formulas(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = T2TViT(
        size, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, mixer=kind, token_dim=16, num_classes=7
    ).eval()  # pyright: ignore[reportArgumentType]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            # Small enough for k and q that the performer's exponentials differ without vanishing.
            nn.init.normal_(parameter, mean=centre, std=0.05 if "qv" in name else 0.15)
    images = torch.randn(2, 3, *size)
    weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    reference = np.stack([t2t(image, weights, depth=2, heads=3) for image in images.double().numpy()])
    with torch.no_grad():
        ours = model(images).numpy()
    assert reference.std() > 0.1
    assert np.abs(ours - reference).max() <= 1e-5 * np.abs(reference).max()


def write_release(path: Path, model: nn.Module) -> Path:
    """As the authors' script writes it: the averaged weights are those that count."""
    averaged = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    trained = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    options = Namespace(model="t2t_vit_7", lr=1e-3)
    torch.save({"epoch": 309, "state_dict": trained, "state_dict_ema": averaged, "args": options, "metric": 71.7}, path)
    return path


def test_a_release_is_read_and_loads_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = create_model("t2t_vit_nano_32", num_classes=10)
    state = read_state(write_release(tmp_path / "71.7_T2T_ViT_7.pth.tar", published))
    ours = create_model("t2t_vit_nano_32", num_classes=10)
    assert load_state(ours, convert(state, "t2t_vit_nano_32")) == []
    assert all(torch.equal(tensor, published.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert [name for name, p in ours.named_parameters() if not p.requires_grad] == [
        "pos_embed",
        "tokens_to_token.attention1.w",
        "tokens_to_token.attention2.w",
    ]


def test_positions_of_a_release_follow_the_image_size() -> None:
    state = create_model("t2t_vit_nano_32", num_classes=10).state_dict()
    larger = create_model("t2t_vit_nano_32", num_classes=10, img_size=48)
    (line,) = load_state(larger, state)
    assert "from 8x8 to 12x12" in line
    assert isinstance(larger, T2TViT)
    assert torch.equal(larger.pos_embed, resample_positions(state["pos_embed"], (12, 12)))
    assert torch.equal(larger.pos_embed[:, :1], state["pos_embed"][:, :1])


def test_weights_of_another_size_name_the_one_they_fit() -> None:
    with torch.device("meta"):
        state = create_model("t2t_vit_7").state_dict()
        other = create_model("t2t_vit_10")
    with pytest.raises(RegardError, match=r"the weights lack .*; they fit t2t_vit_7$"):
        load_state(other, state)
    with pytest.raises(RegardError, match=r"weights of a T2T-ViT, but vit_tiny_patch16_224"):
        convert(state, "vit_tiny_patch16_224")


def test_the_catalogue_knows_the_releases() -> None:
    checkpoint = find_checkpoint("t2t_vit_t_19")
    assert str(checkpoint.source).endswith("/82.4_T2T_ViTt_19.pth.tar")
    assert (checkpoint.tag, checkpoint.top1, checkpoint.parameters) == ("t2t_vit_t_19.yitu_in1k", 82.4, 39_172_942)
    assert find_checkpoint("t2t_vit_14_384").preprocess.resized_side == 426
    assert find_checkpoint("t2t_vit_14").preprocess.resized_side == 248
