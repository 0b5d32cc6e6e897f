from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.inference.memory import InParts
from regard.models import count_gmacs, create_model, model_spec
from regard.models import memory as memory_module
from regard.models.pixels import SPECS, PixelTransformer, activation_bytes, pattern_bytes
from regard.taps import record

# n -> n^4 and MiB of one head's float32 pattern
PATTERNS = {
    8: (4_096, 0.0156),
    16: (65_536, 0.25),
    28: (614_656, 2.345),
    32: (1_048_576, 4),
    48: (5_308_416, 20.25),
    64: (16_777_216, 64),
    112: (157_351_936, 600.25),
    224: (2_517_630_976, 9604),
}


def tiny(n: int, **changes: int) -> PixelTransformer:
    torch.manual_seed(0)
    arguments = {"img_size": n, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return PixelTransformer(**(arguments | changes))


@pytest.mark.parametrize("n", PATTERNS)
def test_patterns_take_heads_times_n4_times_four_bytes(n: int) -> None:
    entries, mebibytes = PATTERNS[n]
    assert pattern_bytes(n, 1) == 4 * entries
    assert pattern_bytes(n, 1) / 2**20 == pytest.approx(mebibytes, rel=2e-3)
    assert pattern_bytes(n, 12) == 12 * pattern_bytes(n, 1)


@pytest.mark.parametrize("n", [4, 8])
def test_arithmetic_grows_with_the_fourth_power_of_the_side(n: int) -> None:
    dim, depth, tokens = 16, 3, n**2 + 1
    linear = 3 * n**2 * dim + depth * 12 * tokens * dim**2 + 3 * dim
    assert count_gmacs(tiny(n), n) * 1e9 == pytest.approx(linear + depth * 2 * tokens**2 * dim, abs=0.5)


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answers = model(images)
    assert answers.requires_grad
    return sum(kept.values())


def test_fused_memory_is_linear_in_the_pixels_and_observed_memory_is_not() -> None:
    found, observed = {}, {}
    for n in (8, 16, 32):
        model, images = tiny(n), torch.randn(1, 3, n, n)
        found[n] = kept_bytes(model, images)
        assert found[n] == pytest.approx(activation_bytes(n, 16, 3, training=True), rel=0.25), n
        with record(model, "blocks.*.attn.pattern") as seen:
            observed[n] = kept_bytes(model, images)
        assert sum(pattern.nbytes for pattern in seen.values()) >= 3 * pattern_bytes(n, 2)
    assert found[32] / found[16] == pytest.approx(4, rel=0.1)
    assert (observed[32] - found[32]) / (observed[16] - found[16]) == pytest.approx(16, rel=0.1)


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(memory_module, "free_memory", lambda device: free)


@torch.no_grad()
def test_observed_patterns_are_refused_where_fused_attention_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(16), torch.randn(2, 3, 16, 16)
    exact = model(images)
    with_free(monkeypatch, pattern_bytes(16, 2))
    assert torch.equal(model(images), exact)
    said = r"^out of memory: attention patterns of 257 tokens need .*listen to fewer"
    with pytest.raises(RegardError, match=said), record(model, "blocks.1.attn.pattern"):
        model(images)
    assert torch.equal(model(images), exact), "listening is over"


@torch.no_grad()
def test_activations_that_do_not_fit_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(16), torch.randn(4, 3, 16, 16)
    exact, one = model(images), activation_bytes(16, 16, 3, training=False)
    with_free(monkeypatch, one - 1)
    said = r"^out of memory: activations of 16x16 pixels .*smaller img_size.*$"
    with pytest.raises(RegardError, match=said) as raised:
        model(images)
    assert "\n" not in str(raised.value)
    with_free(monkeypatch, 2 * one)
    with pytest.raises(MemoryError, match="too little for 4 at a time"):
        model(images)
    torch.testing.assert_close(InParts(model)(images), exact)  # halved until it fits


def test_a_training_step_needs_more_than_a_pass_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(16), torch.randn(1, 3, 16, 16)
    with_free(monkeypatch, activation_bytes(16, 16, 3, training=False))
    with torch.no_grad():
        model(images)
    with pytest.raises(RegardError, match="out of memory: activations"):
        model(images)


def test_sheets_tell_memory_and_arithmetic() -> None:
    assert [spec.name for spec in SPECS] == [f"pixel_transformer_{n}" for n in (8, 16, 28, 32)]
    words = model_spec("pixel_transformer_32").deviations
    assert "26.7 MB of activations in training" in words
    assert "12.58 MB, only while observed" in words
    assert "201.3 M multiply-adds" in words


def test_its_copies_and_its_options_work() -> None:
    model = create_model("pixel_transformer_8+positions=none+pool=mean", num_classes=3).eval()
    images = torch.randn(2, 3, 8, 8)
    shuffled = images.flatten(2)[:, :, torch.randperm(64)].unflatten(2, (8, 8))
    with torch.no_grad():
        torch.testing.assert_close(model(shuffled), model(images))
        assert torch.equal(copy.deepcopy(model)(images), model(images))


@pytest.mark.long
def test_exported_it_says_the_same() -> None:
    model, images = tiny(8).eval(), torch.randn(2, 3, 8, 8)
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images))
