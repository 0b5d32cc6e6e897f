from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.layers.position import sinusoidal_positions
from regard.models import count_gmacs, count_parameters
from regard.models.registry import ModelSpec
from regard.models.t2t import NANO, SIZES, SPECS, T2TViT, TokenPerformer, restructure, soft_split
from regard.taps import record

SPEC = {spec.name: spec for spec in SPECS}
# parameters, those that train, GMAC; with 1,000 classes
PUBLISHED = {
    "t2t_vit_7": (4_310_222, 4_255_694, 1.147),
    "t2t_vit_10": (5_889_230, 5_834_702, 1.516),
    "t2t_vit_12": (6_941_902, 6_887_374, 1.763),
    "t2t_vit_14": (21_545_550, 21_465_806, 4.783),
    "t2t_vit_19": (39_177_422, 39_085_070, 8.480),
    "t2t_vit_24": (64_105_934, 64_000_974, 13.662),
    "t2t_vit_t_14": (21_541_070, 21_465_422, 6.089),
    "t2t_vit_t_19": (39_172_942, 39_084_686, 9.785),
    "t2t_vit_t_24": (64_101_454, 64_000_590, 14.967),
    "t2t_vit_14_384": (21_691_470, 21_465_806, 16.370),
}
QUICK = {"t2t_vit_7", "t2t_vit_t_14"}


def meta(spec: ModelSpec, num_classes: int = 1000) -> nn.Module:
    with torch.device("meta"):
        return spec.build(num_classes=num_classes, img_size=spec.img_size, drop_rate=0.0, drop_path_rate=0.0)


def tiny(**changes: object) -> T2TViT:
    torch.manual_seed(0)
    arguments = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3, "mlp_ratio": 2, "num_classes": 5}
    return T2TViT(**(arguments | changes)).eval()  # pyright: ignore[reportArgumentType]


def test_second_soft_split_of_the_decks_grid() -> None:
    tokens = torch.arange(1.0, 15.0).reshape(1, 14, 1)
    split = soft_split(restructure(tokens, (2, 7)), kernel=2, stride=1)
    assert split[0].tolist() == [
        [1, 2, 8, 9],
        [2, 3, 9, 10],
        [3, 4, 10, 11],
        [4, 5, 11, 12],
        [5, 6, 12, 13],
        [6, 7, 13, 14],
    ]


def test_a_token_holds_its_window_channel_by_channel() -> None:
    image = torch.randn(2, 3, 12, 8)
    tokens = soft_split(image, kernel=7, stride=4, padding=2)
    assert tokens.shape == (2, 3 * 2, 3 * 49)
    padded = nn.functional.pad(image, (2, 2, 2, 2))
    assert torch.equal(tokens[:, 1 * 2 + 1], padded[:, :, 4:11, 4:11].flatten(1))


def test_every_size_is_in_the_table() -> None:
    assert {spec.name for spec in SPECS} == {*PUBLISHED, "t2t_vit_nano_32"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones_to_the_digit(name: str) -> None:
    every, trained, _ = PUBLISHED[name]
    model = meta(SPEC[name])
    assert count_parameters(model) == every
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in PUBLISHED],
)
def test_arithmetic_is_the_published_one_to_the_digit(name: str) -> None:
    spec = SPEC[name]
    assert round(count_gmacs(meta(spec), spec.img_size), 3) == PUBLISHED[name][2]


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_the_authors(name: str) -> None:
    words = name.split("_")
    dim, depth, _, ratio = SIZES[next(word for word in words if word in SIZES)]
    performer, positions = "t" not in words, 577 if name.endswith("384") else 197
    expected: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, dim), "pos_embed": (1, positions, dim)}

    def layer(name: str, *weight: int, bias: bool = True) -> None:
        expected[f"{name}.weight"] = weight
        if bias:
            expected[f"{name}.bias"] = weight[:1]

    for i, wide in ((1, 147), (2, 576)):
        mixer = f"tokens_to_token.attention{i}"
        layer(f"{mixer}.norm1", wide)
        layer(f"{mixer}.norm2", 64)
        if performer:
            expected[f"{mixer}.w"] = (32, 64)
            layer(f"{mixer}.kqv", 192, wide)
        else:
            layer(f"{mixer}.attn.qkv", 192, wide, bias=False)
        layer(f"{mixer}.proj" if performer else f"{mixer}.attn.proj", 64, 64)
        for part in ("mlp.0", "mlp.2") if performer else ("mlp.fc1", "mlp.fc2"):
            layer(f"{mixer}.{part}", 64, 64)
    layer("tokens_to_token.project", dim, 576)
    for i in range(depth):
        layer(f"blocks.{i}.norm1", dim)
        layer(f"blocks.{i}.norm2", dim)
        layer(f"blocks.{i}.attn.qkv", 3 * dim, dim, bias=False)
        layer(f"blocks.{i}.attn.proj", dim, dim)
        layer(f"blocks.{i}.mlp.fc1", ratio * dim, dim)
        layer(f"blocks.{i}.mlp.fc2", dim, ratio * dim)
    layer("norm", dim)
    layer("head", 1000, dim)
    assert {key: tuple(tensor.shape) for key, tensor in meta(SPEC[name]).state_dict().items()} == expected


def test_our_small_model_stays_small() -> None:
    assert count_parameters(meta(NANO, 10)) == 371_776


@pytest.mark.parametrize("mixer", ["performer", "transformer"])
@torch.no_grad()
def test_every_stage_of_the_module_can_be_seen(mixer: str) -> None:
    model, inner = tiny(mixer=mixer), "" if mixer == "performer" else "attn."
    with record(model, "tokens_to_token.**") as seen:
        model(torch.randn(2, 3, 32, 32))
    shapes = {name: tuple(value.shape) for name, value in seen.items() if isinstance(value, torch.Tensor)}
    for name, shape in {
        "split0": (2, 64, 147),
        f"attention1.{inner}q": (2, 1, 64, 64),
        f"attention1.{inner}pattern": (2, 1, 64, 64),
        "attention1.mlp.hidden": (2, 64, 64),
        "attention1.tokens": (2, 64, 64),
        "split1": (2, 16, 576),
        f"attention2.{inner}pattern": (2, 1, 16, 16),
        "attention2.tokens": (2, 16, 64),
        "split2": (2, 4, 576),
        "patches": (2, 4, 24),
    }.items():
        assert shapes[f"tokens_to_token.{name}"] == shape, name
    pattern = seen[f"tokens_to_token.attention1.{inner}pattern"]
    assert (pattern >= 0).all()
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 1, 64))


@torch.no_grad()
def test_the_performers_matrix_is_made_only_for_a_listener_and_equals_the_sums() -> None:
    torch.manual_seed(0)
    mixer = TokenPerformer(20, 16).eval()
    nn.init.orthogonal_(mixer.w, gain=8**0.5)
    x = torch.randn(2, 50, 20)
    plain = mixer(x)
    with record(mixer, "pattern") as seen:
        listened = mixer(x)
    assert (listened - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert seen["pattern"].std() > 0.001  # not the same everywhere
    asked = []
    mixer.pattern.register_forward_hook(lambda *_: asked.append(1))  # a hook that is no listener
    mixer(x)
    assert asked == []


@torch.no_grad()
def test_random_features_estimate_the_softmax_kernel() -> None:
    torch.manual_seed(0)
    mixer = TokenPerformer(8, 8)
    q, k = torch.randn(2, 8) * 0.4
    estimates = []
    for _ in range(3000):
        mixer.w.copy_(torch.randn(4, 8))
        estimates.append(mixer.kernel(q) @ mixer.kernel(k))
    found = torch.stack(estimates)
    assert abs(found.mean() - (q @ k).exp()) < 4 * found.std() / 3000**0.5


@torch.no_grad()
def test_features_stay_float32_under_bfloat16() -> None:
    model, x = tiny(), torch.randn(2, 3, 32, 32)
    exact = model(x)
    with record(model, "tokens_to_token.*.pattern") as seen, torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)
    assert {pattern.dtype for pattern in seen.values()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(x) - exact).abs().max() < 0.05 * exact.abs().max()


def test_positions_and_random_features_stay_frozen() -> None:
    model = tiny(img_size=64)
    frozen = {"pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"}
    model.requires_grad_(False).requires_grad_(True)
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == frozen
    model.train()(torch.randn(3, 3, 64, 64)).logsumexp(1).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == frozen


def test_positions_count_from_the_class_token_and_belong_to_one_size() -> None:
    model = tiny(img_size=(32, 48))
    assert torch.equal(model.pos_embed[0], sinusoidal_positions(1 + 2 * 3, 24))
    assert model(torch.randn(1, 3, 32, 48)).shape == (1, 5)
    with pytest.raises(RegardError, match=r"are 32x32, the model was made for 32x48"):
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(RegardError, match=r"img_size=40: is no multiple"):
        tiny(img_size=40)


@pytest.mark.parametrize("mixer", ["performer", pytest.param("transformer", marks=pytest.mark.long)])
def test_exported_it_says_the_same(mixer: str) -> None:
    model, x = tiny(mixer=mixer), torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))


def test_fresh_weights_follow_the_table() -> None:
    model = tiny(embed_dim=96, num_heads=3, num_classes=100)
    for name, weight in model.named_parameters():
        if name.endswith(".w"):
            torch.testing.assert_close(weight @ weight.T, 32 * torch.eye(32), atol=1e-4, rtol=0)
        elif "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not weight.any()
        elif name != "pos_embed":
            assert weight.std().item() == pytest.approx(0.02, rel=0.2 if name == "cls_token" else 0.1), name


def test_dropout_sits_at_the_authors_positions() -> None:
    model = tiny(depth=1, drop_rate=0.25, drop_path_rate=0.3)
    dropouts = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p}
    ours = ("pos_drop", "blocks.0.attn.drop", "blocks.0.mlp.drop1", "blocks.0.mlp.drop2")
    performers = [f"tokens_to_token.attention{i}.{part}" for i in (1, 2) for part in ("drop", "mlp.3")]
    assert dropouts == dict.fromkeys(ours, 0.25) | dict.fromkeys(performers, 0.1)
