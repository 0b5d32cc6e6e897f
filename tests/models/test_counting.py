from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from regard.layers.local_attention import LocalAttention, LocalRelation
from regard.models import count_gmacs, count_parameters, create_model, list_models, model_spec
from regard.models.costs import COSTS
from regard.models.counting import KINDS, cost_shares, gmacs_by_part
from regard.models.examples import example_inputs, without_weights
from regard.models.nonlocal_resnet import add_nonlocals
from regard.models.resnet import ResNet
from regard.models.sam import SAM
from regard.models.vit import ViT
from regard.models.vitdet import Block
from regard.taps import record


def test_counts_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 5))
    assert count_parameters(model) == 3 * 4 * 9 + 4 + 8 + 4 * 64 * 5 + 5
    assert count_gmacs(model, 8) * 1e9 == pytest.approx(64 * 4 * 3 * 9 + 4 * 64 * 5)


def test_b16_is_exact() -> None:
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224")
    assert round(count_gmacs(model, 224) * 1e9) == 17_563_828_224


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("sam_vit_b", 486.04),
        pytest.param("sam_vit_l", 1492.84, marks=pytest.mark.long),
        pytest.param("sam_vit_h", 2980.54, marks=pytest.mark.long),
    ],
)
def test_sams_image_encoder_costs_what_is_published_but_for_what_fills_windows_up(name: str, gmacs: float) -> None:
    model, inputs = without_weights(model_spec(name))
    assert isinstance(model, SAM)
    blocks = [block for block in model.image_encoder.blocks if isinstance(block, Block) and block.attn.window]
    filled, width = 70**2 - 64**2, model.image_encoder.pos_embed.shape[-1]  # tokens that the published code projects
    parts = gmacs_by_part(model, 1024, inputs)
    assert round(parts["image_encoder"] + len(blocks) * filled * 4 * width**2 / 1e9, 2) == gmacs
    assert sum(parts.values()) == pytest.approx(COSTS[name][1], abs=1e-3)


def test_the_decoder_of_sam_costs_less_than_its_equations_say_while_nobody_listens() -> None:
    """Of one point; the image encoder, which is the same for both, is left small."""
    with torch.device("meta"):
        model = SAM(width=48, depth=1, num_heads=1, global_blocks=()).eval()
    inputs = example_inputs(model_spec("sam_vit_b"), device="meta")

    def decoder() -> float:
        parts = gmacs_by_part(model, 1024, inputs)
        return sum(parts.values()) - parts["image_encoder"]

    with record(model, "mask_decoder.**.pattern"):
        assert round(decoder(), 2) == 1.81
    assert decoder() < 1.2


def test_a_weight_that_is_shown_as_a_view_is_counted_and_stays_trainable() -> None:
    """torch's counter asks for gradients of views of weights, and fails."""

    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Embedding(1, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.weight[:, :, None].expand(1, 4, 3)

    model = nn.Sequential(nn.Flatten(), Shown())
    model[1].inner.weight.requires_grad_(True)
    assert count_gmacs(model, 2) == 0
    assert model[1].inner.weight.requires_grad


def test_meta_and_real_agree_and_the_model_is_left_as_it_was() -> None:
    model = create_model("resnet20_32", num_classes=10)
    model.get_submodule("layer1").eval()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    real = count_gmacs(model, 32)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert real == count_gmacs(model.to("meta"), 32) == pytest.approx(0.0406, abs=1e-4)


def test_real_attention_is_counted_as_on_meta() -> None:
    model = create_model("vit_nano_patch4_32", num_classes=10)
    tokens, dim = 65, 96
    by_hand = 4 * (12 * tokens * dim**2 + 2 * tokens**2 * dim) + 64 * 48 * dim + dim * 10
    assert round(count_gmacs(model, 32) * 1e9) == by_hand


def assert_shares(model: nn.Module, size: int, parameters: dict[str, int], macs: dict[str, int]) -> None:
    shares = cost_shares(model, size)
    for found, by_hand in ((shares.parameters, parameters), (shares.macs, macs)):
        total = sum(by_hand.values())
        assert found == pytest.approx({kind: by_hand.get(kind, 0) / total for kind in KINDS}, abs=1e-12)
        assert sum(found.values()) == pytest.approx(1)


def test_shares_of_a_tiny_vit_by_hand() -> None:
    model = ViT(img_size=8, patch_size=4, embed_dim=6, depth=2, num_heads=2, num_classes=5)
    tokens, dim = 1 + 4, 6
    parameters = {
        "attention": 2 * (4 * dim**2 + 4 * dim),  # q, k, v, proj with biases
        "mlp": 2 * (8 * dim**2 + 5 * dim),
        "embedding": 48 * dim + dim + dim + tokens * dim,  # patches with a bias, class token, positions
        "other": 2 * 4 * dim + 2 * dim + 5 * dim + 5,  # norms, head
    }
    assert sum(parameters.values()) == count_parameters(model)
    macs = {
        "attention": 2 * (4 * tokens * dim**2 + 2 * tokens**2 * dim),
        "mlp": 2 * 8 * tokens * dim**2,
        "embedding": 4 * 48 * dim,
        "other": 5 * dim,
    }
    assert_shares(model, 8, parameters, macs)


def test_shares_of_a_tiny_resnet_with_a_non_local_block_by_hand() -> None:
    model = ResNet(BasicBlock, (1,), (4,), True, True, 3)
    convolutions = 4 * 3 * 9 + 2 * 4 * 4 * 9
    parameters = {"convolution": convolutions, "other": 3 * 2 * 4 + 4 * 3 + 3}
    macs = {"convolution": 64 * convolutions, "other": 4 * 3}
    assert_shares(model, 8, parameters, macs)
    add_nonlocals(model, {"layer1": (0,)})
    parameters["attention"] = 3 * (4 * 2 + 2) + 2 * 4 + 4
    parameters["other"] += 2 * 4
    macs["attention"] = 64 * 4 * 4 * 2 + 2 * 64 * 64 * 2
    assert_shares(model, 8, parameters, macs)


@pytest.mark.parametrize("relation", ["product", "absolute"])
def test_shares_of_shifted_sums_by_hand(relation: str) -> None:
    layer = LocalRelation(8, 8, 3, 4, 2, relation)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer, LocalAttention(8, 6, 5, 3), nn.Flatten(), nn.Linear(5 * 9, 2))
    prior = 2 * 32 + 32 * 2
    parameters = {
        "convolution": 3 * 8 + 8,
        "attention": 2 * 8 * 2 + prior + 32 + 8 * 8 + 2 * 8 * 6 + 8 * 5,
        "mlp": 45 * 2 + 2,
    }
    relations = 9 * 9 * (8 + 2 * (relation == "product"))  # window, pixels, channels and groups
    attention = 9 * 8 * 2 + 25 * 8 * 2 + 9 * prior + relations + 9 * 8 * 8 + 9 * (2 * 8 * 6 + 8 * 5) + 9 * 9 * (6 + 5)
    assert_shares(model, 5, parameters, {"convolution": 25 * 3 * 8, "attention": attention, "mlp": 45 * 2})


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("swin_nano_patch2_window4_32", {"attention", "mlp", "embedding", "other"}),
        ("t2t_vit_nano_32", {"attention", "mlp", "embedding", "other"}),
        ("vit_nano_r8_s4_32", set(KINDS)),
        ("convnext_micro_32", {"convolution", "mlp", "other"}),
        ("botnet20_32", {"convolution", "attention", "other"}),
        ("vgg_nano_bn_32", {"convolution", "mlp", "other"}),
    ],
)
def test_families_spend_on_what_they_are_made_of(name: str, kinds: set[str]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    shares = cost_shares(model, model_spec(name).img_size)
    for part in shares:
        assert {kind for kind, share in part.items() if share} == kinds
        assert sum(part.values()) == pytest.approx(1)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in list_models() if model_spec(name).task == "classify"])
def test_shares_of_every_classifier_sum_to_one(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    for part in cost_shares(model, model_spec(name).img_size):
        assert sum(part.values()) == pytest.approx(1) and all(0 <= share <= 1 for share in part.values())
