"""What a comparison will run, and that a continued one has the arguments it began with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from regard.comparison.plan import Plan
from regard.errors import RegardError

PLAN = Plan(
    data="photos",
    models=("a", "b"),
    methods=("scratch",),
    seeds=2,
    fractions=(0.1, 1.0),
    img_size=None,
    images_seen=100,
    minutes=None,
    margin=0.01,
    keep_leaks=False,
    deterministic=False,
    force=False,
    overrides={"flip": True},
)


def test_conditions_are_the_whole_grid_one_seed_after_the_other() -> None:
    found = PLAN.conditions()
    assert len(found) == len(set(found)) == 8
    assert [condition.seed for condition in found] == [0] * 4 + [1] * 4
    assert found[0].fraction == 1.0
    assert len({condition.folder for condition in found}) == 8


def test_folder_names_are_safe() -> None:
    (condition, *_) = replace(PLAN, models=("timm:a/b", "c")).conditions()
    assert "/" not in condition.folder and ":" not in condition.folder


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"models": ("a", "a")}, "--models"),
        ({"models": ("a",)}, "--models"),
        ({"seeds": 0}, "--seeds"),
        ({"fractions": (0.0, 1.0)}, "--fractions"),
        ({"fractions": (1.5,)}, "--fractions"),
    ],
)
def test_senseless_plans_are_refused_by_flag(change: dict, names: str) -> None:
    with pytest.raises(RegardError, match=names):
        replace(PLAN, **change)


def test_one_model_by_two_methods_is_a_comparison() -> None:
    assert len(replace(PLAN, models=("a",), methods=("head", "scratch")).conditions()) == 8


def test_a_saved_plan_is_recognised_and_a_changed_one_refused(tmp_path: Path) -> None:
    PLAN.save(tmp_path, "bf16")
    PLAN.check_same(tmp_path)
    assert Plan.measured_precision(tmp_path) == "bf16"
    with pytest.raises(RegardError, match="seeds was 2, is 3"):
        replace(PLAN, seeds=3).check_same(tmp_path)


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.yaml").write_text("}{")
    with pytest.raises(RegardError, match=r"comparison\.yaml"):
        PLAN.check_same(tmp_path)
