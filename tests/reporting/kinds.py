"""Made-up runs for the other kinds of labels, told through `comparison.details` as the verbs do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from synthetic import photo

from regard.comparison.compare import Candidate
from regard.comparison.details import Story, report_data
from regard.data.sources import ImageSet
from regard.reporting import ReportData
from regard.reporting.records import BOX
from regard.results import Cost, Predictions, Problem, RunResult, Verdict

LABELS = ("beach", "boat", "clouds", "dog", "person", "sunset", "tree", "water")
VIT, RESNET = "vit_small_patch16_224", "resnet50"


def box_photo(corners) -> np.ndarray:
    """Grey noise, 120 x 160, with a coloured rectangle where the true box is."""
    picture = np.random.default_rng(int(1e6 * corners[0])).normal(120, 14, (120, 160, 3))
    x0, x1 = (int(160 * corners[place]) for place in (0, 2))
    y0, y1 = (int(120 * corners[place]) for place in (1, 3))
    picture[y0:y1, x0:x1] = (236, 190, 80)
    return np.clip(picture, 0, 255).astype(np.uint8)


def truth_of(problem: Problem, rng, photos: int, columns: int) -> np.ndarray:
    """(N, K) float32 labels: some of them unknown, but none of a box."""
    if problem == "multi_label":
        common = rng.uniform(0.08, 0.45, columns)
        labels = (rng.random((photos, columns)) < common).astype(np.float32)
        labels[rng.random((photos, columns)) < 0.01] = np.nan
        return labels
    return rng.normal(40, 15, (photos, columns)).astype(np.float32)


def boxes_of(rng, photos: int) -> np.ndarray:
    low = rng.uniform(0.05, 0.5, (photos, 2))
    return np.concatenate([low, low + rng.uniform(0.2, 0.45, (photos, 2))], axis=1).astype(np.float32)


def answered(problem: Problem, rng, labels: np.ndarray, noise: float) -> np.ndarray:
    """(N, K) float32 answers that are off by `noise`: of logits, or of the spread of the labels."""
    if problem == "multi_label":
        clean = np.where(np.nan_to_num(labels) == 1, 2.2, -2.6)
        return (clean + rng.normal(0, 2.2 * noise, labels.shape)).astype(np.float32)
    return (labels + rng.normal(0, noise * np.nanstd(labels), labels.shape)).astype(np.float32)


def make(
    problem: Problem = "multi_label",
    classes: tuple[str, ...] | None = None,
    photos: int = 240,
    seeds: int = 3,
    folds: int = 0,
    fractions: tuple[float, ...] = (1.0,),
    models: tuple[str, ...] = (VIT, RESNET),
    reference: float | None = None,  # noise of a row of HOG and SVM
    boxes: bool = False,
    outcome: str = "better",
    ids: list[str] | None = None,
    slices: dict[str, tuple[str, ...]] | None = None,
    pixels: bool = True,
    title: str = "harbour",
) -> ReportData:
    """A report of two models on photos of one kind of labels."""
    rng = np.random.default_rng(5)
    classes = BOX if boxes else classes or (LABELS if problem == "multi_label" else ("age",))
    labels = boxes_of(rng, photos) if boxes else truth_of(problem, rng, photos, len(classes))
    ids = ids or [f"day {i % 7}/IMG_{i:05d}.jpg" for i in range(photos)]
    noises = dict(zip(models, (0.75, 1.0) if problem == "multi_label" else (0.22, 0.3), strict=False))
    rows = [(model, "head", noise) for model, noise in noises.items()]
    if reference is not None:
        rows.append(("hog_svm", "classical", reference))
    results = [
        run
        for model, method, noise in rows
        for seed in range(seeds)
        for fraction in fractions
        for run in _runs(problem, rng, ids, labels, classes, model, method, noise, seed, fraction, folds)
    ]
    candidates = [
        Candidate(model, model, method, tuple(run for run in results if run.model == model and run.fraction == 1))
        for model, method, _ in rows
    ]
    images = ImageSet(
        name=title,
        ids=tuple(ids),
        labels=labels,
        classes=classes,
        split=("test",) * photos,
        sources=[box_photo(labels[i]) if boxes else photo(id_) for i, id_ in enumerate(ids)] if pixels else [],
        problem=problem,
        slices=slices or {},
        boxes=boxes,
    )
    story = Story(title, f"regard compare {title}.csv --models {','.join(models)} --out runs/c", budget="equal")
    verdicts = (verdict_of(problem, models, outcome, seeds, folds, photos),) if len(models) > 1 and seeds > 1 else ()
    data = report_data(story, candidates, results, verdicts, images)
    return data if pixels else replace(data, pixels=None)


def _runs(problem, rng, ids, labels, classes, model, method, noise, seed, fraction, folds):
    """The run of one seed, or one for each fold."""
    dealt = np.random.default_rng(seed).permutation(len(ids)) if folds else np.arange(len(ids))
    for fold, rows in enumerate(np.array_split(dealt, max(1, folds))):
        rows = np.sort(rows)
        off = noise * (1 - 0.35 * np.log10(fraction)) * rng.uniform(0.95, 1.05)
        test = Predictions(
            tuple(ids[row] for row in rows),
            answered(problem, rng, labels[rows], off),
            labels[rows],
            classes,
            problem,
        )
        val = replace(test, ids=tuple(f"val/{id_}" for id_ in test.ids))
        key = {"multi_label": "val/map", "regression": "val/mae"}[problem]
        gain = 1 - 0.6 * np.exp(-np.arange(1, 13) / 3)
        values = 0.8 * gain if problem == "multi_label" else 9 / gain
        network = method != "classical"
        curve = tuple(
            {"step": 10 * n, "images": 500 * n, "loss": 1.5 / (n + 1), "val/loss": 1.7 / (n + 1), key: float(values[n])}
            for n in range(12)
        )
        yield RunResult(
            model=model,
            method=method,
            seed=seed,
            fraction=fraction,
            train_images=int(900 * fraction),
            images_seen=5500,
            val=val,
            test=test,
            temperature=1.2 if problem == "multi_label" else 1.0,
            unsure_below=0.0,
            cost=Cost(
                parameters=22_000_000 if model == VIT else 25_600_000,
                images_per_second=80.0 if model == VIT else 60.0,
                train_seconds=210.0 if model == VIT else 240.0,
                train_flops=3e14,
            )
            if network
            else Cost(parameters=0, train_seconds=12.0),
            pretraining="ImageNet-21k (Apache-2.0)" if network else "none (trained from scratch)",
            curve=curve if network else (),
            recipe={"model": model, "problem": problem},
            fold=fold if folds else None,
            thresholds=(0.4 + 0.01 * fold,) * len(classes) if problem == "multi_label" else (),
        )


def verdict_of(problem, models, outcome, seeds, folds, photos) -> Verdict:
    gap = {"multi_label": 0.034, "regression": 0.052}[problem]
    return Verdict(
        a=models[0],
        b=models[1],
        outcome=outcome,
        difference=gap,
        low=gap - 0.021,
        high=gap + 0.021,
        p_value=0.004,
        p_equivalent=0.9,
        margin=0.01,
        alpha=0.05,
        seeds=(seeds, seeds),
        photos=photos,
        degrees_of_freedom=float(seeds * folds - 1) if folds else 5.1,
        seed_variance=3e-5,
        photo_variance=6e-5,
        metric="lrap" if problem == "multi_label" else "scaled_mae",
        folds=folds,
    )
