"""The recorded counts are what is counted now: after a change, `python tests/models/write_costs.py` records anew."""

from __future__ import annotations

import pytest

from regard.models import list_models, model_spec
from regard.models.costs import COSTS, count_cost, recorded_cost

QUICK = {"clip_vit_base_patch32", "gru_tiny", "resnet20_32", "sam_nano_128", "vit_tiny_patch16_224"}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in list_models()]


def test_every_registered_model_is_recorded() -> None:
    assert COSTS.keys() == set(list_models())


@pytest.mark.parametrize("name", NAMES)
def test_the_record_is_the_count(name: str) -> None:
    assert count_cost(model_spec(name)) == COSTS[name]


def test_the_records_of_known_models_are_the_published_counts() -> None:
    assert COSTS["vit_base_patch16_224"] == (86_567_656, 17.5638)
    assert COSTS["clip_vit_base_patch16"][0] == 149_620_737
    assert COSTS["resnet50"] == (25_557_032, 4.0892)
    assert [COSTS[f"sam_vit_{size}"][0] for size in "blh"] == [93_735_472, 312_342_832, 641_090_608]


def test_a_model_without_a_record_is_counted() -> None:
    parameters, gmacs = recorded_cost(model_spec("vit_nano_patch4_32+pool=mean"))
    assert parameters == COSTS["vit_nano_patch4_32"][0] - 2 * 96  # neither a class token nor its position
    assert gmacs == pytest.approx(COSTS["vit_nano_patch4_32"][1], rel=0.05)
