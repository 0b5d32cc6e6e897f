from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import count_gmacs, count_parameters, create_model
from regard.models.botnet import RelativeAttention, relative_logits
from regard.taps import record


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


def test_count_is_the_published_one_at_224() -> None:
    with torch.device("meta"):
        model = create_model("botnet50")
    assert count_parameters(model) == 20_852_008
    tables = [p.shape for name, p in model.named_parameters() if name.endswith("_rel")]
    assert tables == [(27, 128)] * 2 + [(13, 128)] * 4
    assert round(count_gmacs(model, 224), 2) == 4.02


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (5, 1)])
def test_relative_logits_are_the_plain_loop(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = grid
    q = torch.randn(2, 3, height * width, 6, dtype=torch.float64)
    rows = torch.randn(2 * height - 1, 6, dtype=torch.float64)
    columns = torch.randn(2 * width - 1, 6, dtype=torch.float64)
    expected = torch.zeros(2, 3, height * width, height * width, dtype=torch.float64)
    for b in range(2):
        for head in range(3):
            for i in range(height * width):
                for j in range(height * width):
                    down, right = j // width - i // width, j % width - i % width
                    table = rows[down + height - 1] + columns[right + width - 1]
                    expected[b, head, i, j] = q[b, head, i] @ table
    torch.testing.assert_close(relative_logits(q, rows, columns), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("grid", "stride"), [((6, 4), 1), ((6, 4), 2)])
@torch.no_grad()
def test_attention_is_timms_with_scaled_positions(grid: tuple[int, int], stride: int) -> None:
    layers = pytest.importorskip("timm.layers.bottleneck_attn")
    theirs = drawn(layers.BottleneckAttn(32, 32, grid, stride=stride, num_heads=4, scale_pos_embed=True))
    ours = RelativeAttention(32, grid, 4, stride).eval()
    ours.load_state_dict({name.replace("pos_embed.", ""): tensor for name, tensor in theirs.state_dict().items()})
    x = torch.randn(2, 32, *grid)
    expected = theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    with record(ours, "pattern", "positions") as seen:
        assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert seen["pattern"].shape == seen["positions"].shape == (2, 4, 24, 24)
    torch.testing.assert_close(seen["pattern"].sum(-1), torch.ones(2, 4, 24))


@torch.no_grad()
def test_an_odd_side_is_averaged_over_what_is_there() -> None:
    attention = drawn(RelativeAttention(8, (3, 3), 2, 2))
    pool, x = attention.get_submodule("pool"), torch.randn(1, 8, 3, 3)
    attention.set_submodule("pool", nn.Identity())
    full: Tensor = attention(x)
    attention.set_submodule("pool", pool)
    halved = attention(x)
    assert halved.shape == (1, 8, 2, 2)
    torch.testing.assert_close(halved[..., 1, 1], full[..., 2, 2])
    torch.testing.assert_close(halved[..., 0, 0], full[..., :2, :2].mean((-2, -1)))


@pytest.mark.parametrize(("size", "grids"), [(224, (14, 7, 7)), (32, (8, 4, 4)), (72, (5, 3, 3))])
def test_the_grid_follows_the_image_size(size: int, grids: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = create_model("botnet50", img_size=size)
    layers = [module for module in model.modules() if isinstance(module, RelativeAttention)]
    assert [layer.grid for layer in layers] == [(side, side) for side in grids]
    assert model(torch.zeros(1, 3, size, size, device="meta")).shape == (1, 1000)


def test_another_image_size_is_an_error_with_advice() -> None:
    model = create_model("botnet20_32", 3)
    with pytest.raises(RegardError, match="10x10 where this model attends over 8x8; resize them"):
        model(torch.zeros(1, 3, 40, 40))


def test_fresh_units_with_attention_pass_the_shortcut_on() -> None:
    model = create_model("botnet20_32", 3)
    for i in range(3):
        assert not model.get_parameter(f"layer3.{i}.bn2.weight").any()
    assert model.get_parameter("layer2.0.bn2.weight").all()
