from __future__ import annotations

import pytest
import torch

from regard.models import Heads, count_gmacs, count_parameters, create_model, model_spec
from regard.models.deit import PUBLISHED, DistilledDeiT
from regard.models.vit import ViT

COUNTS = {  # parameters, GMAC, with K = 1000
    "deit_tiny_patch16_224": (5_717_416, 1.2537),
    "deit_small_patch16_224": (22_050_664, 4.5989),
    "deit_base_patch16_224": (86_567_656, 17.5638),
    "deit_base_patch16_384": (86_859_496, 55.4844),
    "deit_tiny_distilled_patch16_224": (5_910_800, 1.2610),
    "deit_small_distilled_patch16_224": (22_436_432, 4.6241),
    "deit_base_distilled_patch16_224": (87_338_192, 17.6568),
    "deit_base_distilled_patch16_384": (87_630_032, 55.5913),
}
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def test_every_published_size_is_in_the_table() -> None:
    assert COUNTS.keys() == {f"deit_{s}{v}_patch{p}_{i}" for s, p, i in PUBLISHED for v in ("", "_distilled")}


QUICK = {"deit_tiny_patch16_224", "deit_base_distilled_patch16_384"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in COUNTS]
)
def test_counts_are_the_published_ones_to_the_digit(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert (count_parameters(model), round(count_gmacs(model, model_spec(name).img_size), 4)) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "count"), [("deit_nano_patch4_32", 459_562), ("deit_nano_distilled_patch4_32", 460_724)]
)
def test_our_small_models_stay_small(name: str, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(create_model(name, 10)) == count


def test_the_plain_ones_are_vits() -> None:
    with torch.device("meta"):
        plain, vit = create_model("deit_small_patch16_224"), create_model("vit_small_patch16_224")
    assert type(plain) is ViT and plain.state_dict().keys() == vit.state_dict().keys()


def test_two_heads_answer_in_training_and_their_mean_in_evaluation() -> None:
    torch.manual_seed(0)
    model, images = DistilledDeiT(**SMALL), torch.randn(3, 3, 16, 16)
    answers = model(images)
    assert isinstance(answers, Heads) and len(answers.others) == 1
    tokens = model.features(images).tokens
    torch.testing.assert_close(answers.logits, model.head(tokens[:, 0]))
    torch.testing.assert_close(answers.others[0], model.head_dist(tokens[:, 1]))
    assert (answers.logits - answers.others[0]).abs().min() > 0
    torch.testing.assert_close(model.eval()(images), torch.stack([answers.logits, answers.others[0]]).mean(0))


def test_equal_heads_multiply_the_pooled_tokens() -> None:
    """What a frozen head that is fitted to `pooled` and put in both places relies on."""
    torch.manual_seed(0)
    model, images = DistilledDeiT(**SMALL).eval(), torch.randn(3, 3, 16, 16)
    model.head_dist.load_state_dict(model.head.state_dict())
    features = model.features(images)
    assert features.prefix == 2 and features.cls is not None
    assert torch.equal(features.cls, features.tokens[:, 0])
    torch.testing.assert_close(features.pooled, features.tokens[:, :2].mean(1))
    torch.testing.assert_close(model(images), model.head(features.pooled))


def test_each_head_teaches_its_own_token_first() -> None:
    model = DistilledDeiT(**(SMALL | {"depth": 0}))
    logits, (distilled,) = model(torch.randn(3, 3, 16, 16))
    logits.sum().backward()
    assert model.cls_token.grad is not None and model.cls_token.grad.any()
    assert model.dist_token.grad is not None and not model.dist_token.grad.any()
    assert distilled.shape == logits.shape


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    model = DistilledDeiT(**(SMALL | {"embed_dim": 128, "num_classes": 100}))
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight"))))
        elif name.startswith("patch_embed"):
            assert weight.abs().max() <= (3 * 16) ** -0.5
        elif name.endswith("bias"):
            assert not weight.any()
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.3), name
