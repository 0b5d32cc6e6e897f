"""Numbers and boxes: against scikit-learn and torchvision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as reference
from torchvision.ops import box_iou

from regard.evaluation.calibration import fit_temperature, unsure_threshold
from regard.evaluation.regression import BOX, ious, per_column, summarise, values
from regard.results import Predictions


def make(images: int = 200, columns: int = 3, seed: int = 0, mean: float = 0.0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(images, columns)) * [1, 10, 0.1][:columns] + mean
    answers = truth + 0.4 * rng.normal(size=truth.shape) * [1, 10, 0.1][:columns]
    ids = tuple(f"{row:05}" for row in range(images))
    names = ("age", "weight", "share")[:columns]
    return Predictions(ids, answers.astype(np.float32), truth.astype(np.float32), names, "regression")


def boxes(images: int = 100, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    corner, size = rng.random((images, 2)) * 0.5, 0.1 + rng.random((images, 2)) * 0.3
    truth = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    answers = (truth + 0.05 * rng.normal(size=truth.shape)).astype(np.float32)
    return Predictions(tuple(map(str, range(images))), answers, truth, BOX, "regression")


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_values_are_scikit_learns(mean: float) -> None:
    predictions = make(mean=mean)
    truth, answers = predictions.labels.astype(float), predictions.logits.astype(float)
    found = values(predictions)
    assert set(found) == {"mae", "rmse", "r2"}
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, answers))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, answers))
    assert found["r2"] == pytest.approx(reference.r2_score(truth, answers))


def test_columns_with_unknown_cells_are_scikit_learns() -> None:
    predictions = make()
    hidden = np.random.default_rng(1).random(predictions.labels.shape) < 0.3
    hidden[:5] = True
    predictions = replace(predictions, labels=np.where(hidden, np.nan, predictions.labels).astype(np.float32))
    rows = per_column(predictions)
    for k, row in enumerate(rows):
        own = ~hidden[:, k]
        truth, answers = predictions.labels[own, k], predictions.logits[own, k]
        assert (row.name, row.images) == (predictions.classes[k], own.sum())
        expected = (
            reference.mean_absolute_error(truth, answers),
            reference.root_mean_squared_error(truth, answers),
            reference.r2_score(truth, answers),
        )
        for metric, value in zip((row.mae, row.rmse, row.r2), expected, strict=True):
            assert metric is not None and metric.value == pytest.approx(value, rel=1e-5)
            assert metric.low < metric.value < metric.high
    found = values(predictions)
    assert found["mae"] == pytest.approx(np.mean([row.mae.value for row in rows if row.mae]))
    assert {name: metric.value for name, metric in summarise(predictions).items()} == pytest.approx(found)


def test_a_column_without_values_stays_out() -> None:
    predictions = make()
    predictions.labels[:, 1] = np.nan
    rows = per_column(predictions)
    assert (rows[1].images, rows[1].mae, rows[1].r2) == (0, None, None)
    assert values(predictions)["mae"] == pytest.approx(np.mean([rows[k].mae.value for k in (0, 2)]))


@pytest.mark.filterwarnings("ignore")
def test_r2_of_constant_labels_is_scikit_learns() -> None:
    predictions = make(20, 2)
    predictions.labels[:] = 5
    predictions.logits[:, 0] = 5
    assert values(predictions)["r2"] == reference.r2_score(predictions.labels, predictions.logits) == 0.5


def test_iou_is_torchvisions() -> None:
    predictions = boxes()
    expected = box_iou(torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)).diagonal()
    assert ious(predictions) == pytest.approx(expected.numpy(), abs=1e-5)
    assert values(predictions)["iou"] == pytest.approx(expected.mean().item(), abs=1e-5)
    found = summarise(predictions)["iou"]
    assert found.low < found.value < found.high < 1


def test_boxes_that_are_none_overlap_nothing() -> None:
    predictions = boxes(4)
    predictions.logits[0] = predictions.logits[0][[2, 3, 0, 1]]  # corners the wrong way round
    predictions.logits[1] = [0.9, 0.9, 1, 1]
    predictions.labels[2] = np.nan
    predictions.labels[1] = [0, 0, 0.5, 0.5]
    found = ious(predictions)
    assert found[0] == found[1] == 0
    assert np.isnan(found[2])
    assert values(predictions)["iou"] == pytest.approx(found[[0, 1, 3]].mean())


def test_intervals_are_those_of_theory_for_normal_errors() -> None:
    predictions = make(400, 1)
    errors = np.abs(predictions.logits - predictions.labels)[:, 0]
    half = stats.t.ppf(0.975, 399) * errors.std(ddof=1) / 20
    found = summarise(predictions)["mae"]
    assert np.log(found.high / found.value) == pytest.approx(half / errors.mean(), rel=0.08)
    r2 = summarise(predictions)["r2"]
    assert 0.75 < r2.low < r2.value < r2.high < 0.95


def test_groups_widen_the_intervals_and_one_group_has_none() -> None:
    single = make(100)
    several = replace(
        single,
        ids=tuple(f"{id_}-{copy}" for copy in range(4) for id_ in single.ids),
        logits=np.tile(single.logits, (4, 1)),
        labels=np.tile(single.labels, (4, 1)),
    )
    groups = [tuple(f"{id_}-{copy}" for copy in range(4)) for id_ in single.ids]
    narrow, wide = summarise(several), summarise(several, groups)
    for name in ("mae", "rmse", "r2"):
        assert wide[name].high - wide[name].low > 1.7 * (narrow[name].high - narrow[name].low)
    assert all(metric.low is None for metric in summarise(single, [single.ids]).values())


def test_numbers_have_no_temperature_and_are_never_unsure() -> None:
    assert fit_temperature(make()) == 1.0
    assert unsure_threshold(make()) == 0.0
