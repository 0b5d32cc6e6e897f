"""One door to all problems: the right metrics come back, and photo scores average to them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from regard.evaluation import metrics, multilabel, regression
from regard.evaluation.problems import (
    HEADLINE,
    LOWER_IS_BETTER,
    METRIC,
    Evaluator,
    headline,
    label_scale,
    photo_scores,
    summarise,
    values,
)
from regard.results import Predictions

RNG = np.random.default_rng(0)
IDS = tuple(map(str, range(50)))
SINGLE = Predictions(IDS, RNG.normal(size=(50, 3)).astype(np.float32), RNG.integers(3, size=50), tuple("abc"))
SEVERAL = Predictions(
    IDS,
    RNG.normal(size=(50, 3)).astype(np.float32),
    (RNG.random((50, 3)) < 0.4).astype(np.float32),
    tuple("abc"),
    "multi_label",
)
NUMBERS = Predictions(
    IDS,
    RNG.normal(size=(50, 2)).astype(np.float32),
    RNG.normal(size=(50, 2)).astype(np.float32),
    ("x", "y"),
    "regression",
)
ALL = {"single_label": SINGLE, "multi_label": SEVERAL, "regression": NUMBERS}


@pytest.mark.parametrize("problem", ALL)
def test_each_problem_has_its_metrics(problem: str) -> None:
    predictions = ALL[problem]
    found = values(predictions, 1.5)
    room = {"single_label": metrics, "multi_label": multilabel}.get(problem)
    assert found == (room.values(predictions, 1.5) if room else regression.values(predictions))
    assert HEADLINE[predictions.problem] in found
    assert {name: metric.value for name, metric in summarise(predictions, 1.5).items()}.items() >= found.items()
    turned = -1 if HEADLINE[predictions.problem] in LOWER_IS_BETTER else 1
    assert headline(predictions, 1.5) == turned * found[HEADLINE[predictions.problem]]
    assert set(METRIC) == set(HEADLINE) == set(ALL)


def test_photo_scores_average_to_the_metric() -> None:
    assert photo_scores(SINGLE).mean() == pytest.approx(
        reference.accuracy_score(SINGLE.labels, SINGLE.logits.argmax(1))
    )
    expected = reference.label_ranking_average_precision_score(SEVERAL.labels, SEVERAL.logits)
    assert photo_scores(SEVERAL).mean() == pytest.approx(expected)
    errors = np.abs(NUMBERS.logits - NUMBERS.labels)
    assert photo_scores(NUMBERS) == pytest.approx(-(errors / NUMBERS.labels.std(axis=0)).mean(axis=1), rel=1e-5)
    assert photo_scores(NUMBERS, (2.0, 4.0)) == pytest.approx(-(errors / [2, 4]).mean(axis=1), rel=1e-5)
    assert all(photo_scores(one).dtype == np.float64 for one in ALL.values())


def test_photos_without_a_label_have_no_score() -> None:
    labels = SINGLE.labels.copy()
    labels[3] = -1
    single = Predictions(IDS, SINGLE.logits, labels, SINGLE.classes)
    assert np.isnan(photo_scores(single)).nonzero()[0].tolist() == [3]
    for predictions in (SEVERAL, NUMBERS):
        labels = predictions.labels.copy()
        labels[3], labels[4, 0] = np.nan, np.nan
        hidden = Predictions(IDS, predictions.logits, labels, predictions.classes, predictions.problem)
        assert np.isnan(photo_scores(hidden)).nonzero()[0].tolist() == [3]


def test_the_scale_is_the_deviation_of_the_known_labels() -> None:
    labels = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])
    assert label_scale(labels).tolist() == [1.0, 1.0]
    assert label_scale(10 * labels).tolist() == [10.0, 1.0]


@pytest.mark.parametrize("problem", ALL)
def test_the_evaluator_yields_named_values_of_the_model_it_is_given(problem: str) -> None:
    asked = []

    def predict(model: str) -> Predictions:
        asked.append(model)
        return ALL[problem]

    found = dict(Evaluator(predict, prefix="val/", temperature=2.0)("the model"))
    assert asked == ["the model"]
    assert found == {f"val/{name}": value for name, value in values(ALL[problem], 2.0).items()}
