from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import RegardError
from regard.layers.local_attention import LocalAttention, LocalRelation
from regard.models import count_gmacs, count_parameters, create_model


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def test_lrnet_50_is_within_a_tenth_of_the_published_millions() -> None:
    model = on_meta("lrnet50")
    assert count_parameters(model) == 23_363_400
    assert abs(count_parameters(model) / 1e6 - 23.3) < 0.1
    assert abs(count_gmacs(model, 224) - 4.3) < 0.35  # published 4.3; ours 4.0


@pytest.mark.parametrize(
    ("name", "millions"),
    # 14.7 M is published for LR-Net-26; 18.0 M for a ResNet-50 of local self-attention (arXiv 1906.05909).
    [("lrnet26", 14.7), ("local_resnet50", 18.0), ("lrnet20_32", 0.05), ("local_resnet20_32", 0.1)],
)
def test_counts_of_the_others(name: str, millions: float) -> None:
    assert abs(count_parameters(on_meta(name)) / 1e6 - millions) <= 0.11


@pytest.mark.parametrize("name", ["lrnet50", "lrnet20_32", "local_resnet50", "local_resnet20_32"])
def test_no_3x3_convolution_is_left_in_the_stages(name: str) -> None:
    model = on_meta(name)
    kernels = [m.kernel_size for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and n.startswith("layer")]
    assert kernels and set(kernels) == {(1, 1)}
    kind = LocalRelation if name.startswith("lrnet") else LocalAttention
    layers = [module for module in model.modules() if isinstance(module, kind)]
    assert len(layers) == (16 if "50" in name else 18) + name.startswith("lrnet")
    assert {layer.window for layer in layers} == {7 if "50" in name else 5}


def test_the_stem_of_lrnet_strides_where_the_resnets_does() -> None:
    for size, stride in ((64, 2), (32, 1)):
        with torch.device("meta"):
            stem = create_model("lrnet26", img_size=size).get_submodule("conv1.1")
        assert isinstance(stem, LocalRelation) and stem.stride == stride


@torch.no_grad()
def test_the_relation_is_an_option_of_the_name() -> None:
    x = torch.randn(1, 3, 32, 32)
    answers = []
    for suffix in ("", "+relation=product", "+relation=squared", "+relation=absolute"):
        torch.manual_seed(0)
        answers.append(create_model(f"lrnet20_32{suffix}", 4).eval()(x))
    assert torch.equal(answers[0], answers[1])
    assert all(not torch.allclose(a, b) for i, a in enumerate(answers[1:]) for b in answers[i + 2 :])
    with pytest.raises(RegardError, match=r"relation=product\|squared\|absolute"):
        create_model("lrnet20_32+relation=cosine")


def test_rates_that_the_paper_lacks_are_refused() -> None:
    with pytest.raises(RegardError, match=r"drop_rate=0\.1: lrnet20_32 has no dropout"):
        create_model("lrnet20_32", drop_rate=0.1)
