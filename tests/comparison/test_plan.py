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
    assert len(found) == len(set(found)) == 2 * 2 * 3  # two models and the reference
    assert [condition.seed for condition in found] == [0] * 6 + [1] * 6
    assert found[0].fraction == 1.0
    assert len({condition.folder for condition in found}) == 12
    assert [condition.candidate for condition in found[:3]] == ["a (scratch)", "b (scratch)", "hog_svm (classical)"]


def test_an_interrupted_comparison_on_folds_holds_whole_repeats() -> None:
    found = replace(PLAN, folds=3).conditions()
    assert len(found) == len({condition.folder for condition in found}) == 2 * 2 * 3 * 3
    first = found[:9]  # the full fraction of the first repeat, all folds
    assert {(one.seed, one.fraction) for one in first} == {(0, 1.0)}
    assert [one.fold for one in first] == [0] * 3 + [1] * 3 + [2] * 3
    assert first[3].folder == "a-scratch-1-seed0-fold1"
    assert [one.seed for one in found] == [0] * 18 + [1] * 18


def test_folder_names_are_safe() -> None:
    condition = replace(PLAN, models=("timm:a/b", "c")).conditions()[0]
    assert "/" not in condition.folder and ":" not in condition.folder


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"models": ("a", "a")}, "--models"),
        ({"models": ("a",)}, "--models"),
        ({"seeds": 0}, "--seeds"),
        ({"fractions": (0.0, 1.0)}, "--fractions"),
        ({"fractions": (1.5,)}, "--fractions"),
        ({"folds": 1}, "--folds 1"),
        ({"trials": -1}, "--trials"),
        ({"trials": 3, "folds": 5}, "--trials 3 with --folds 5"),
    ],
)
def test_senseless_plans_are_refused_by_flag(change: dict, names: str) -> None:
    with pytest.raises(RegardError, match=names):
        replace(PLAN, **change)


def test_one_model_by_two_methods_is_a_comparison() -> None:
    assert len(replace(PLAN, models=("a",), methods=("head", "scratch")).conditions()) == 12


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
