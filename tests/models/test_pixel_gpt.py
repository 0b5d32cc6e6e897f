from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.models import count_parameters, create_model, model_spec
from regard.models.pixel_gpt import Past, PixelGPT
from regard.taps import record

# Parameters of the paper's sizes with 512 clusters and 32x32 pixels: width, layers, heads, count.
PUBLISHED = {
    "S": (512, 24, 8, 76_571_648),
    "M": (1024, 36, 8, 455_157_760),
    "L": (1536, 48, 16, 1_362_250_752),
    "XL": (3072, 60, 16, 6_801_438_720),
}


def tiny(**changes: float) -> PixelGPT:
    torch.manual_seed(0)
    arguments = {"img_size": 4, "levels": 5, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = PixelGPT(**(arguments | changes)).eval()  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():  # far from the even answers of fresh weights
        nn.init.normal_(parameter, std=0.5)
    return model


def images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 5, (count, 16), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_papers_sizes_have_its_parameters(size: str) -> None:
    dim, depth, heads, count = PUBLISHED[size]
    with torch.device("meta"):
        model = PixelGPT(32, 512, dim, depth, heads)
    assert count_parameters(model) == count


def test_ours_is_small_and_of_its_own_task() -> None:
    model = create_model("pixel_gpt_8", num_classes=0)
    assert count_parameters(model) == 452_736
    assert model_spec("pixel_gpt_8").task == "generate"
    assert model(torch.zeros(2, 64, dtype=torch.long)).shape == (2, 64, 17)


@pytest.mark.parametrize("listening", [False, True])
@torch.no_grad()
def test_a_pixel_knows_those_before_it_and_no_other(listening: bool) -> None:
    model, x = tiny(), images()
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 5
    with record(model, "blocks.*.attn.pattern" if listening else "blocks.*.tokens"):
        before, after = model(x), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] != after[:, 8:]).any(dim=2).all()


@torch.no_grad()
def test_the_pattern_is_causal_and_listening_changes_nothing() -> None:
    model, x = tiny(), images()
    plain = model(x)
    with record(model, "**") as seen:
        listened = model(x)
    assert (listened - plain).abs().max() <= 1e-5 * plain.abs().max()
    pattern = seen["blocks.1.attn.pattern"]
    assert pattern.shape == (3, 2, 16, 16)
    assert not pattern.triu(1).any() and pattern.tril().gt(0).sum() == 3 * 2 * 136
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 2, 16))


@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one() -> None:
    """The product of the parts is a distribution over images: all 2^4 of them are asked."""
    model = tiny(img_size=2, levels=2)
    every = torch.tensor([[(number >> place) & 1 for place in range(4)] for number in range(16)])
    for labels in (None, torch.full((16,), 2)):
        log_p = model(every, labels).log_softmax(2).gather(2, every.unsqueeze(2)).sum((1, 2))
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_kept_keys_and_values_draw_the_same_images(temperature: float) -> None:
    model, labels = tiny(), torch.tensor([0, 1, 2, -1] * 4)
    drawn = [
        model.generate(16, labels, temperature, torch.Generator().manual_seed(3), keep=keep) for keep in (True, False)
    ]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (16, 16) and drawn[0].min() >= 0 and drawn[0].max() <= 4


@torch.no_grad()
def test_kept_keys_and_values_give_the_same_logits() -> None:
    model, x = tiny(), images()
    whole = model(x)
    pasts = [Past(16) for _ in model.blocks]
    tokens = torch.cat([model.start.weight[:1].expand(3, 1, -1), model.pixel_embed(x[:, :-1])], dim=1)
    steps = [model._predict(tokens[:, i : i + 1], model.pos_embed[:, i : i + 1], pasts) for i in range(16)]
    assert (torch.cat(steps, dim=1) - whole).abs().max() <= 1e-5 * whole.abs().max()


@torch.no_grad()
def test_drawn_images_follow_the_models_probabilities() -> None:
    model = tiny(img_size=2, levels=2)
    every = torch.tensor([[(number >> place) & 1 for place in range(4)] for number in range(16)])
    p = model(every).log_softmax(2).gather(2, every.unsqueeze(2)).sum((1, 2)).exp()
    drawn = model.generate(20_000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn * torch.tensor([1, 2, 4, 8])).sum(1), minlength=16)
    sigma = (20_000 * p * (1 - p)).sqrt()
    assert ((counts - 20_000 * p).abs() <= 4.5 * sigma + 1).all()


@torch.no_grad()
def test_a_low_temperature_takes_the_likeliest_and_a_class_changes_the_image() -> None:
    model = tiny()
    cold = model.generate(3, temperature=1e-4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(cold).argmax(2), cold)
    x = images()
    logits = [model(x, labels) for labels in (None, torch.full((3,), -1), torch.full((3,), 1))]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(RegardError, match=r"temperature=.*expected a number above 0"):
            model.generate(1, temperature=temperature)


def test_backward_reaches_every_parameter() -> None:
    model = tiny().train()
    model(images(), torch.tensor([-1, 0, 2])).logsumexp(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_fresh_weights_follow_the_table() -> None:
    torch.manual_seed(0)
    model = PixelGPT(embed_dim=96, depth=4, num_heads=4, num_classes=20)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight))
        else:
            narrow = name.endswith(("proj.weight", "fc2.weight"))
            std = 0.01 if name == "pos_embed" else 0.02 / 8**0.5 if narrow else 0.02
            assert weight.std().item() == pytest.approx(std, rel=0.1), name


@pytest.mark.long
def test_exported_it_says_the_same() -> None:
    model, x = tiny(), images()
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))
