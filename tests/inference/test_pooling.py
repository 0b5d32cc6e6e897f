from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.inference.pooling import pooled_features, set_head
from regard.models import create_model, features_of, head_names


class ThreeHeads(nn.Module):
    """Of a main head, one of the same width, and one of another that speaks in training only."""

    HEAD, OTHER_HEADS = "main", ("twin", "narrow")

    def __init__(self) -> None:
        super().__init__()
        self.main, self.twin, self.narrow = nn.Linear(6, 1000), nn.Linear(6, 1000), nn.Linear(2, 1000)

    def forward(self, images: Tensor) -> Tensor:
        pooled = images.mean((2, 3)).repeat(1, 2)  # (B, 6)
        return (self.main(pooled) + self.twin(pooled)) / 2


def test_a_fitted_head_takes_the_place_of_each_that_fits_and_none_keeps_the_old_classes() -> None:
    loaded = LoadedModel(ThreeHeads().eval(), Preprocess(8), ("a", "b"), "three", "nothing", head="main")
    weight, bias, x = torch.randn(2, 6), torch.randn(2), torch.randn(3, 3, 8, 8)
    set_head(loaded, weight, bias)
    pooled = x.mean((2, 3)).repeat(1, 2)
    torch.testing.assert_close(loaded.model(x), pooled @ weight.T + bias)
    narrow = loaded.model.get_submodule("narrow")
    assert isinstance(narrow, nn.Linear) and (narrow.in_features, narrow.out_features) == (2, 2)
    assert not narrow.weight.any() and not narrow.bias.any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["vgg_nano_32", "convnext_micro_32", "resnet20_32", "vit_nano_patch4_32"])
def test_pooled_features_are_the_models_own_and_what_its_head_reads(name: str) -> None:
    torch.manual_seed(0)
    model, x = create_model(name, 5).eval(), torch.randn(2, 3, 32, 32)
    head = head_names(model)[0]
    own = pooled_features(model, "", x)  # no head is named, so the model itself must say
    assert torch.equal(own, features_of(model, x).pooled)
    read: list[Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model(x)
    handle.remove()
    assert torch.equal(own, read[0])


def test_a_model_that_does_not_classify_is_refused_by_name() -> None:
    for call in (lambda: load_model("deeplabv3_resnet50"), lambda: fresh_model("deeplabv3_resnet50", ("a", "b"))):
        with pytest.raises(RegardError, match=r"^deeplabv3_resnet50: its task is 'segment', .*classified"):
            call()
