from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.models import Heads, create_model, features_of, head_names, model_spec


@pytest.mark.parametrize(
    ("name", "readers", "size"),
    [("googlenet", ("aux1", "aux2"), 64), pytest.param("inception_v3", ("AuxLogits",), 299, marks=pytest.mark.long)],
)
def test_auxiliary_classifiers_speak_in_training_only(name: str, readers: tuple[str, ...], size: int) -> None:
    torch.manual_seed(0)
    model, x = create_model(name, 5), torch.randn(2, 3, size, size)
    said: dict[str, Tensor] = {}
    for reader in readers:
        model.get_submodule(reader).register_forward_hook(
            lambda module, args, output, reader=reader: said.update({reader: output})
        )
    with torch.no_grad():
        assert isinstance(model.eval()(x), Tensor) and not said
        heads = model.train()(x)
    assert isinstance(heads, Heads) and heads.logits.shape == (2, 5)
    assert all(torch.equal(a, said[reader]) for a, reader in zip(heads.others, readers, strict=True))
    # (the battery skips this where another head is as wide as the main one)
    with torch.no_grad():
        pooled = features_of(model.eval(), x).pooled
        assert torch.equal(model.get_submodule("fc")(pooled), model(x))
    # one name per tensor, in the same order, of a linear layer inside the classifier that gave it
    assert [other.partition(".")[0] for other in head_names(model)[1:]] == list(readers)
    assert all(isinstance(model.get_submodule(other), nn.Linear) for other in head_names(model))


def test_the_auxiliary_losses_count_as_published() -> None:
    with torch.device("meta"):
        weights = {name: create_model(name).OTHERS_WEIGHT for name in ("googlenet", "inception_v3")}
    assert weights == {"googlenet": 0.3, "inception_v3": 0.4}


def test_the_small_one_has_no_auxiliary_classifiers_and_says_so() -> None:
    model, x = create_model("googlenet_nano_32", 5).train(), torch.randn(2, 3, 32, 32)
    assert head_names(model) == ("fc",) and isinstance(model(x), Tensor)
    assert "no auxiliary classifiers" in model_spec("googlenet_nano_32").deviations


def test_the_small_one_has_the_modules_of_the_large_one() -> None:
    """32 pixels go through three grids, as 224 do: 16x16, 8x8, 4x4."""
    model = create_model("googlenet_nano_32", 5).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_children():
        module.register_forward_hook(
            lambda module, args, output, name=name: shapes.update({name: output.shape[1:]})  # pyright: ignore
        )
    features = model.features(torch.zeros(1, 3, 32, 32))  # pyright: ignore[reportCallIssue]
    assert shapes["inception3b"] == (144, 16, 16)
    assert shapes["inception4b"] == (256, 8, 8)
    assert shapes["inception5b"] == (320, 4, 4)
    assert features.grid == (4, 4) and features.pooled.shape == (1, 320)
