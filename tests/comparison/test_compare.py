"""Candidates, references and verdicts from results; no model is trained here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from regard.comparison.compare import Candidate, candidates, references, verdicts
from regard.errors import RegardError
from regard.evaluation.statistics import verdict
from regard.results import Cost, Predictions, Problem, RunResult

CLASSES = ("a", "b", "c")


def answers(
    quality: float, seed: int, problem: Problem = "single_label", photos: int = 120, at: int = 0
) -> Predictions:
    """Answers whose noise differs by `seed`; the photos are the same for the same `at`."""
    truth, noise = np.random.default_rng(1000 + at), np.random.default_rng(seed)
    ids = tuple(f"{at}/{row}" for row in range(photos))
    if problem == "single_label":
        labels = truth.integers(3, size=photos)
        logits = noise.normal(size=(photos, 3)) + quality * np.eye(3)[labels]
    elif problem == "multi_label":
        labels = (truth.random((photos, 3)) < 0.4).astype(np.float32)
        logits = noise.normal(size=(photos, 3)) + quality * (labels - 0.5)
    else:
        labels = (truth.normal(size=(photos, 3)) * [1, 10, 100]).astype(np.float32)
        logits = labels + noise.normal(size=(photos, 3)) * [1, 10, 100] / quality
    return Predictions(ids, logits.astype(np.float32), labels, CLASSES, problem)


def run(model: str, quality: float, seed: int = 0, problem: Problem = "single_label", **changes) -> RunResult:
    number = sum(map(ord, model)) + 97 * seed + 1009 * (changes.get("fold") or 0)
    val = answers(quality, number + 1, problem, at=-1)
    test = answers(quality, number, problem, at=changes.get("fold") or 0)
    result = RunResult(model, "scratch", seed, 1.0, 400, 400, val, test, 1.0, 0.0, Cost(1), "none")
    return replace(result, **changes)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_the_best_on_validation_comes_first_and_the_gap_is_tested(problem: Problem) -> None:
    results = [
        run(model, quality, seed, problem) for model, quality in (("weak", 1), ("strong", 4)) for seed in range(3)
    ]
    first, second = candidates(results)
    assert (first.name, second.name) == ("strong", "weak")
    assert first.validation != first.test
    (found,) = verdicts([first, second], 0.01)
    assert (found.a, found.b, found.outcome) == ("strong", "weak", "better")
    assert found.metric == {"single_label": "top1", "multi_label": "lrap", "regression": "scaled_mae"}[problem]
    assert (found.seeds, found.photos, found.folds) == ((3, 3), 120, 0)


def test_right_answers_are_judged_as_ever() -> None:
    results = [run(model, quality, seed) for model, quality in (("a", 1.5), ("b", 1.8)) for seed in range(3)]
    first, second = candidates(results)
    right = [np.stack([one.test.correct for one in each.runs]) for each in (first, second)]
    assert verdicts([first, second], 0.02) == (verdict(first.name, second.name, *right, margin=0.02),)


def test_a_reference_is_shown_and_neither_chosen_nor_tested() -> None:
    results = [run("a", 1.5), run("b", 2.0), run("hog_svm", 9.0, method="classical"), run("a", 1.2, fraction=0.1)]
    assert [one.name for one in candidates(results)] == ["b", "a"]
    (reference,) = references(results)
    assert (reference.name, reference.method) == ("hog_svm (classical)", "classical")
    assert reference.test > 0.95
    assert references(results[:2]) == []


def test_methods_are_named_where_there_are_several() -> None:
    results = [run("a", 1.5), run("a", 2.0, method="head"), run("hog_svm", 9.0, method="classical")]
    assert {one.name for one in candidates(results)} == {"a (scratch)", "a (head)"}


def test_the_scale_of_numbers_is_the_training_labels() -> None:
    results = [run("a", 3, seed, "regression") for seed in range(2)]
    (one,) = candidates(results, scale=(1.0, 1.0, 1.0))
    expected = -np.abs(results[0].test.logits - results[0].test.labels).mean(axis=1)
    assert one.scores[0] == pytest.approx(expected)
    assert (candidates(results)[0].scores > one.scores).all()


def test_photos_without_a_label_are_left_out_of_the_test() -> None:
    results = [run(model, 2, seed) for model in "ab" for seed in range(2)]
    for one in results:
        one.test.labels[:20] = -1
    assert verdicts(candidates(results), 0.01)[0].photos == 100


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "regression"])
def test_folds_are_judged_by_the_corrected_test(problem: Problem) -> None:
    results = [
        run(model, quality, repeat, problem, fold=fold)
        for repeat in range(2)
        for fold in (2, 0, 1)
        for model, quality in (("weak", 1.5), ("strong", 2))
    ]
    first, second = candidates(results)
    assert [(one.seed, one.fold) for one in first.runs] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    (found,) = verdicts([first, second], 0.01)
    means = [[one.of_run(each).mean() for each in one.runs] for one in (first, second)]
    table = np.subtract(*means)
    error = np.sqrt(table.var(ddof=1) * (1 / 6 + 120 / 520))  # 400 training and 120 validation photos
    assert found.folds == 3 and found.seeds == (2, 2) and found.photos == 360
    assert found.difference == pytest.approx(table.mean())
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(table.mean()) / error, 5))


def test_answers_to_other_photos_are_refused() -> None:
    with pytest.raises(RegardError, match="different test images"):
        verdicts(candidates([run("a", 2), run("b", 2, test=answers(2, 0, at=7))]), 0.01)
    folds = [run(model, 2, fold=fold) for model in "ab" for fold in (0, 1)]
    folds[3] = run("b", 2, fold=1, test=answers(2, 0, at=7))
    with pytest.raises(RegardError, match="different test images"):
        verdicts(candidates(folds), 0.01)


def test_a_candidate_without_validation_is_ordered_by_its_test() -> None:
    one = run("a", 2)
    empty = replace(one.val, ids=(), logits=one.val.logits[:0], labels=one.val.labels[:0])
    found = Candidate("a", "a", "given", (replace(one, val=empty),))
    assert found.validation == found.test
