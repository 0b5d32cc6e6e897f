from __future__ import annotations

import pytest
import torch
from torchvision.ops import StochasticDepth

from regard.models import create_model


def test_stochastic_depth_rises_linearly_over_the_blocks() -> None:
    with torch.device("meta"):
        model = create_model("convnext_tiny", drop_path_rate=0.17)
    rates = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0.17 * i / 17 for i in range(18)])


@torch.no_grad()
def test_tokens_are_normalised_pixels_and_the_head_reads_the_normalised_mean() -> None:
    torch.manual_seed(0)
    model = create_model("convnext_micro_32", 5).eval()
    norm = model.get_submodule("classifier.0")
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)  # pyright: ignore[reportArgumentType]
    x = torch.randn(2, 3, 32, 32)
    features = model.final_features(x)  # pyright: ignore[reportCallIssue]
    last = model.get_submodule("features")(x)  # (2, 192, 4, 4)
    normalise = lambda y: torch.nn.functional.layer_norm(y, (192,), norm.weight, norm.bias, 1e-6)  # noqa: E731  # pyright: ignore
    assert features.grid == (4, 4)
    torch.testing.assert_close(features.tokens[1, 6], normalise(last[1, :, 1, 2]))
    torch.testing.assert_close(features.pooled, normalise(last.mean((2, 3))))
