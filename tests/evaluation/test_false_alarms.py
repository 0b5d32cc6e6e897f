"""The verdict's and the intervals' bars (protocols.md, section 1): simulated, and on 60 stored real runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from regard.evaluation.intervals import COVERAGE_SHOWN, coverage_shown
from regard.evaluation.statistics import mcnemar

FALSE_ALARMS, POWER = 0.07, 0.80


def load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "verdict_calibration.py"
    spec = importlib.util.spec_from_file_location("verdict_calibration", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bench = load_benchmark()


@pytest.mark.parametrize(("photos", "sets"), [(360, 500), (2000, 300)])
def test_one_recipe_twice_is_seldom_called_different(photos, sets):
    found = bench.rates(bench.Setting(photos), sets)
    assert found.different <= FALSE_ALARMS
    assert found.covered >= 0.93


def test_two_recipes_of_equal_accuracy_are_seldom_called_different():
    setting = bench.Setting(360, accuracy=0.93, disagreement=0.06, likeness=0.9)
    assert bench.rates(setting, 600).different <= FALSE_ALARMS


def test_a_gap_of_five_points_is_found():
    setting = bench.Setting(360, seeds=5, accuracy=0.93, disagreement=0.06, gap=0.05, likeness=0.95)
    found = bench.rates(setting, 400)
    assert found.found >= POWER
    assert 0.91 <= found.covered <= 0.98


def test_a_gap_of_the_margin_is_seldom_called_equivalent():
    setting = bench.Setting(2000, accuracy=0.98, disagreement=0.015, seed_deviation=0.003, gap=0.01, likeness=0.95)
    assert bench.rates(setting, 400).equivalent <= FALSE_ALARMS


def test_the_simulation_catches_a_way_that_alarms_too_often():
    pairs = list(bench.simulate(bench.Setting(2000), 150))
    assert np.mean([mcnemar(a[0], b[0]).p_value < 0.05 for a, b in pairs]) > 0.2  # the protocol measured 38%
    paired = [a.mean(axis=0) - b.mean(axis=0) for a, b in pairs]
    assert np.mean([abs(row.mean()) > 1.96 * row.std() / 2000**0.5 for row in paired]) > 0.2  # photos only: 43%


def test_intervals_cover_where_it_is_claimed():
    whole = bench.population(0.9, 10, size=30_000)
    covered = bench.interval_coverage(whole, 360, sets=500, resamples=200)
    for name in ("top1", "macro_f1", "balanced_accuracy", "nll", "brier"):
        assert coverage_shown(name, 0.9, 360)
        assert 0.905 <= covered[name] <= 0.985, name  # 93-97% give or take what 500 sets can tell


def test_nothing_is_claimed_where_it_was_not_shown():
    assert not coverage_shown("nll", 0.98, 360)
    assert not coverage_shown("macro_f1", 0.9, 100)
    assert not coverage_shown("ece", 0.9, 360)
    assert not coverage_shown("top1", 0.995, 360)


@pytest.fixture(scope="module")
def digits_runs():
    return bench.load_digits_runs()


def test_the_stored_runs_are_sixty_different_ones_of_each_recipe(digits_runs):
    assert set(digits_runs) == {"recipe", "weaker"}
    for rows in digits_runs.values():
        assert rows.shape == (60, 270)
        assert len({row.tobytes() for row in rows}) == 60
    assert bench.DIGITS_FILE.stat().st_size < 20_000


def test_three_against_three_real_runs_of_one_recipe_are_seldom_called_different(digits_runs):
    for rows in digits_runs.values():
        found = bench.rates_of(bench.same_against_same(rows, seeds=3, draws=2000), gap=0.0)
        assert found.different <= FALSE_ALARMS


def test_a_gap_of_five_points_between_real_runs_is_found(digits_runs):
    verdicts = bench.same_against_same(digits_runs["recipe"], seeds=5, draws=500, gap=0.05)
    assert np.mean([one.difference for one in verdicts]) <= 0.05
    found = bench.rates_of(verdicts, gap=0.05)
    assert found.found >= POWER


@pytest.mark.long
@pytest.mark.parametrize("photos", [360, 1000])
@pytest.mark.parametrize(("accuracy", "classes", "imbalance"), [(0.5, 10, 0), (0.9, 10, 2), (0.9, 2, 0), (0.98, 10, 0)])
def test_coverage_at_full_count(accuracy, classes, imbalance, photos):
    covered = bench.interval_coverage(bench.population(accuracy, classes, imbalance), photos)
    for name in COVERAGE_SHOWN.keys() & covered.keys():
        if coverage_shown(name, accuracy, photos):
            assert 0.925 <= covered[name] <= 0.975, name  # 93-97% give or take half of what 2,000 sets can tell


@pytest.mark.long
@pytest.mark.parametrize("photos", [360, 2000])
@pytest.mark.parametrize(("accuracy", "disagreement"), [(0.8, 0.18), (0.93, 0.06)])
def test_the_verdict_at_full_count(accuracy, disagreement, photos):
    same = bench.rates(bench.Setting(photos, 3, accuracy, disagreement))
    assert same.different <= FALSE_ALARMS
    gap = bench.rates(bench.Setting(photos, 5, accuracy, disagreement, gap=0.05, likeness=0.95))
    assert gap.found >= POWER
    assert 0.93 <= gap.covered <= 0.97
