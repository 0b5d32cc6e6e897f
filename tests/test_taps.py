"""Taps: what is seen and changed, that it is undone, and that nobody pays while nobody looks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from regard.errors import RegardError
from regard.models.vit import ViT
from regard.taps import Tap, edit, record

DEPTH, HEADS, DIM, TOKENS = 2, 2, 16, 17
PeakBytes = Callable[[Callable[[], object]], int]


@pytest.fixture
def model() -> ViT:
    torch.manual_seed(0)
    vit = ViT(img_size=16, patch_size=4, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=5).eval()
    for parameter in vit.parameters():  # patterns of freshly drawn weights are all but uniform
        nn.init.normal_(parameter, std=0.3)
    return vit


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state_of(model: nn.Module) -> list[object]:
    """All that a listener might leave behind."""
    left: list[object] = []
    for name, module in model.named_modules():
        plain = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
        left.append((name, sorted(plain), len(module._forward_hooks), len(module._forward_pre_hooks), module.training))
        left.append(module.listening if isinstance(module, Tap) else None)
    return left


def test_every_activation_worth_looking_at_has_its_tap(model: ViT, images: Tensor) -> None:
    names = (
        "patch_embed.patches",
        "positions",
        "embedded",
        "blocks.*.attn.*",
        "blocks.*.mlp.hidden",
        "blocks.*.tokens",
    )
    with record(model, *names) as seen:
        model(images)
    head = (3, HEADS, TOKENS, DIM // HEADS)
    expected: dict[str, tuple[int, ...]] = {
        "patch_embed.patches": (3, 16, DIM),
        "positions": (1, TOKENS, DIM),
        "embedded": (3, TOKENS, DIM),
    }
    for block in range(DEPTH):
        expected |= {f"blocks.{block}.attn.{name}": head for name in "qkv"}
        expected[f"blocks.{block}.attn.pattern"] = (3, HEADS, TOKENS, TOKENS)
        expected[f"blocks.{block}.mlp.hidden"] = (3, TOKENS, 4 * DIM)
        expected[f"blocks.{block}.tokens"] = (3, TOKENS, DIM)
    taps = {name for name, module in model.named_modules() if isinstance(module, Tap)}
    assert {name: tuple(seen[name].shape) for name in taps} == expected


def test_listening_gives_what_the_fused_kernel_gives(model: ViT, images: Tensor) -> None:
    fused = model(images)
    with record(model, "blocks.*.attn.pattern") as seen:
        explicit = model(images)
    assert (explicit - fused).abs().max() <= 1e-5 * fused.abs().max()
    for pattern in seen.values():
        torch.testing.assert_close(pattern.sum(-1), torch.ones(3, HEADS, TOKENS))
        assert pattern.std() > 1e-3  # a uniform pattern would hide a wrong scale
    assert torch.equal(model(images), fused)


def test_recorded_tokens_are_those_that_the_head_gets(model: ViT, images: Tensor) -> None:
    with record(model, f"blocks.{DEPTH - 1}.tokens", "norm") as seen:
        logits = model(images)
    assert torch.equal(model.norm(seen[f"blocks.{DEPTH - 1}.tokens"]), seen["norm"])
    assert torch.equal(model.head(seen["norm"][:, 0]), logits)


def test_nothing_is_left_behind(model: ViT, images: Tensor) -> None:
    before, weights = state_of(model), copy.deepcopy(model.state_dict())
    with record(model, "**") as seen, edit(model, {"**.pattern": lambda p: p}):
        model(images)
        assert state_of(model) != before
    assert seen and state_of(model) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_nothing_is_left_behind_after_an_exception(model: ViT, images: Tensor) -> None:
    before, fused = state_of(model), model(images)

    def fail(pattern: Tensor) -> Tensor:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        record(model, "**.pattern"),
        edit(model, {"blocks.1.attn.pattern": fail}),
    ):
        model(images)
    with pytest.raises(RegardError), edit(model, {"blocks.0.tokens": lambda x: x, "nowhere": lambda x: x}):
        pass
    assert state_of(model) == before and torch.equal(model(images), fused)


def test_contexts_nest(model: ViT, images: Tensor) -> None:
    with record(model, "blocks.0.attn.pattern") as outer:
        with record(model, "blocks.0.attn.pattern") as inner:
            model(images)
        assert model.get_submodule("blocks.0.attn.pattern").listening  # pyright: ignore[reportAttributeAccessIssue]
        model(images)
    assert isinstance(inner["blocks.0.attn.pattern"], Tensor)
    assert len(outer["blocks.0.attn.pattern"]) == 2


def test_a_recording_reads_what_an_earlier_edit_wrote(model: ViT, images: Tensor) -> None:
    with edit(model, {"blocks.0.attn.pattern": torch.zeros_like}), record(model, "blocks.0.attn.*") as seen:
        model(images)
    assert not seen["blocks.0.attn.pattern"].any()
    assert seen["blocks.0.attn.v"].any()


def test_an_ablated_head_is_a_head_without_output_weights(model: ViT, images: Tensor) -> None:
    def ablate(pattern: Tensor) -> Tensor:
        return pattern * torch.tensor([0.0, 1.0])[:, None, None]

    with edit(model, {"blocks.1.attn.pattern": ablate}):
        edited = model(images)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("blocks.1.attn.proj.weight")[:, : DIM // HEADS] = 0
    assert not torch.allclose(edited, model(images))
    torch.testing.assert_close(edited, other(images), rtol=1e-5, atol=1e-5)


def test_gradients_flow_to_what_is_recorded(model: ViT, images: Tensor) -> None:
    with record(model, "blocks.*.attn.pattern") as seen:
        logits = model(images)
    gradients = torch.autograd.grad(logits[:, 2].sum(), list(seen.values()))
    assert all(g.shape == p.shape and g.any() for g, p in zip(gradients, seen.values(), strict=True))


@torch.no_grad()
def test_only_what_is_kept_is_recorded(model: ViT, images: Tensor) -> None:
    fused = model(images)
    with record(model, "blocks.*.attn.pattern") as whole, record(model, "**.pattern", keep=lambda p: p.mean(1)) as seen:
        model(images)
    for name, pattern in whole.items():
        assert torch.equal(seen[name], pattern.mean(1))
    with record(model, "blocks.0.tokens", keep=lambda tokens: tokens.sum().item()) as seen:
        assert torch.equal(model(images), fused) and torch.equal(model(images), fused)  # what flows is not what is kept
    assert len(seen["blocks.0.tokens"]) == 2 and isinstance(seen["blocks.0.tokens"][0], float)


@torch.no_grad()
def test_recording_one_layer_costs_the_memory_of_that_layer(peak_bytes: PeakBytes) -> None:
    deep = ViT(img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=5).eval()
    images = torch.randn(4, 3, 32, 32)
    pattern = 4 * 3 * 65 * 65 * 4  # of a layer, bytes
    fused = peak_bytes(lambda: deep(images))

    def recorded(pattern: str, keep: Callable[[Tensor], Tensor] | None = None) -> int:
        def run() -> None:
            with record(deep, pattern, keep=keep):
                deep(images)

        return peak_bytes(run) - fused

    assert 0.9 * pattern <= recorded("blocks.0.attn.pattern") <= 1.1 * pattern
    assert recorded("blocks.*.attn.pattern") >= 6 * pattern
    # The mean of three heads is a third, and only that stays.
    assert recorded("blocks.*.attn.pattern", lambda p: p.mean(1)) <= 6 * 1.1 * pattern / 3


@torch.no_grad()
def test_listening_to_a_folder_is_bounded_by_a_batch(peak_bytes: PeakBytes, model: ViT) -> None:
    def stream(batches: int) -> None:
        rows = []
        for _ in range(batches):
            with record(model, "blocks.*.attn.pattern", keep=lambda p: p[:, :, 0].mean((0, 1))) as seen:
                model(torch.randn(8, 3, 16, 16))
            rows.append(sum(seen.values()))

    row = TOKENS * 4
    assert peak_bytes(lambda: stream(12)) - peak_bytes(lambda: stream(2)) <= 10 * 64 * -(-row // 64)


def test_a_pattern_that_matches_nothing_names_near_names(model: ViT) -> None:
    with (
        pytest.raises(RegardError, match=r"blocks\.\*\.attn\.patern.*nearest: blocks\.\*\.attn\.pattern") as error,
        record(model, "blocks.*.attn.patern"),
    ):
        pass
    assert "\n" not in str(error.value)
    with (
        pytest.raises(RegardError, match="matches no tap or module of ViT; there are"),
        edit(model, {"xyz": abs}),
    ):
        pass
    with pytest.raises(RegardError, match="no pattern"), record(model):
        pass


def test_one_good_pattern_does_not_excuse_a_bad_one(model: ViT) -> None:
    with (
        pytest.raises(RegardError, match=r"blocks\.9\.tokens"),
        record(model, "blocks.0.tokens", "blocks.9.tokens"),
    ):
        pass


def test_asking_for_what_was_not_recorded_is_an_error(model: ViT, images: Tensor) -> None:
    with record(model, "blocks.0.tokens") as seen:
        with pytest.raises(RegardError, match="run the model"):
            seen["blocks.0.tokens"]
        model(images)
    with pytest.raises(RegardError, match=r"nearest: blocks\.0\.tokens"):
        seen["blocks.1.tokens"]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("blocks.0.tokens", 1),
        ("blocks.*.tokens", 2),
        ("blocks.*", 2),
        ("**.pattern", 2),
        ("blocks.**.[qk]", 4),
    ],
)
def test_a_star_is_one_part_and_two_stars_are_any_number(model: ViT, images: Tensor, pattern: str, count: int) -> None:
    with record(model, pattern) as seen:
        model(images)
    assert len(seen) == count


@pytest.mark.parametrize("function", [lambda x: x[:1], lambda x: None, lambda x: (x,)])
def test_an_edit_must_keep_the_shape(model: ViT, images: Tensor, function) -> None:
    with (
        pytest.raises(
            RegardError, match=r"edit of blocks\.0\.tokens: the function gave .* expected shape \(3, 17, 16\)"
        ),
        edit(model, {"blocks.0.tokens": function}),
    ):
        model(images)


def test_any_module_of_a_torchvision_cnn_can_be_seen_and_changed() -> None:
    torch.manual_seed(0)
    cnn, images = resnet18(num_classes=4).eval(), torch.randn(2, 3, 64, 64)
    plain = cnn(images)
    with record(cnn, "layer1.0.bn1", "layer4", "avgpool", "layer1.0.relu") as seen:
        recorded = cnn(images)
    assert torch.equal(recorded, plain)
    assert torch.equal(cnn.avgpool(seen["layer4"]), seen["avgpool"])
    assert (seen["layer1.0.bn1"] < 0).any()  # the in-place ReLU behind it has not reached it
    assert len(seen["layer1.0.relu"]) == 2  # called twice in a block
    with edit(cnn, {"layer4": torch.zeros_like}):
        torch.testing.assert_close(cnn(images), cnn.fc.bias.expand(2, -1))
    assert torch.equal(cnn(images), plain)


def test_outputs_that_are_no_tensors_are_recorded_too() -> None:
    layer = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True))
    layer.forward = lambda x: layer[0](x, x, x)[0]  # type: ignore[method-assign]  # a user's model
    with record(layer, "0") as seen:
        layer(torch.randn(1, 3, 8))
    assert seen["0"][0].shape == (1, 3, 8) and seen["0"][1].shape == (1, 3, 3)


def test_compiled_and_exported_models_are_refused(model: ViT, images: Tensor) -> None:
    exported = torch.export.export(model, (images,))
    compiled_in_place = copy.deepcopy(model)
    compiled_in_place.compile(backend="eager")
    frozen = [torch.compile(model, backend="eager"), exported, exported.module(), compiled_in_place]
    for graph in [*frozen, nn.Sequential(frozen[0])]:
        with pytest.raises(RegardError, match="eager"), record(graph, "**"):
            pass
        with pytest.raises(RegardError, match="eager"), edit(graph, {"**": lambda x: x}):
            pass


def test_a_listener_reaches_the_model_behind_a_compiled_one(model: ViT, images: Tensor) -> None:
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    plain = compiled(images)
    with record(model, "blocks.*.attn.pattern") as seen:
        model(images)
    assert len(seen) == DEPTH
    assert torch.equal(compiled(images), plain)


def test_an_exported_model_has_fused_attention_and_no_softmax(model: ViT, images: Tensor) -> None:
    graph = torch.export.export(model, (images,)).graph
    targets = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert sum("scaled_dot_product_attention" in target for target in targets) == DEPTH
    assert not any("softmax" in target for target in targets)
