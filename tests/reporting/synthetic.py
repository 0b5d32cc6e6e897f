"""Made-up records for the report's tests: two models, two methods, three seeds, three fractions."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from regard.evaluation import problems
from regard.reporting import ClassScore, ModelDetail, ReliabilityBin, ReportData, Suspect
from regard.results import CheckReport, Cost, Finding, Predictions, RunResult, Verdict

NAMES = ("ankle boot", "bag", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "top", "trouser")


class Metric(NamedTuple):
    value: float | None
    low: float | None = None
    high: float | None = None


def photo(id_: str) -> np.ndarray:
    """A smooth picture with some texture, 160 x 120."""
    rng = np.random.default_rng(zlib.crc32(id_.encode("utf-8", "surrogatepass")))
    y, x = np.mgrid[0:120, 0:160] / 100
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    noisy = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 12, (120, 160, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def predictions(rng, ids, labels, classes, accuracy) -> Predictions:
    """Answers that are right with probability `accuracy`, mistakes mostly among neighbours."""
    size = len(classes)
    logits = rng.normal(0, 1, (len(ids), size))
    said = labels.copy()
    wrong = rng.random(len(ids)) > accuracy
    said[wrong] = (labels[wrong] + rng.choice([1, 2, size - 1], wrong.sum())) % size
    logits[np.arange(len(ids)), said] += np.where(wrong, rng.uniform(2.5, 6, len(ids)), rng.uniform(3, 8, len(ids)))
    logits[np.arange(len(ids)), said] = logits.max(axis=1) + rng.uniform(0.05, 1, len(ids))
    return Predictions(tuple(ids), logits.astype(np.float32), labels, tuple(classes))


def run_of(rng, ids, labels, classes, model, method, seed, fraction, accuracy, images=12_000) -> RunResult:
    curve = ()
    if method != "head":
        curve = tuple(
            {
                "step": step * 50,
                "images": step * 1000,
                "loss": 0.35 + 2 * np.exp(-step / 5) + rng.normal(0, 0.03),
                "val/top1": accuracy - 0.6 * np.exp(-step / 4) + rng.normal(0, 0.006),
                "train/top1": accuracy + 0.04 - 0.6 * np.exp(-step / 3.6),
                "val/loss": 0.5 + 2 * np.exp(-step / 5) + rng.normal(0, 0.03),
            }
            for step in range(1, 21)
        )
    vit = model.startswith("vit")
    return RunResult(
        model=model,
        method=method,
        seed=seed,
        fraction=fraction,
        train_images=int(images * fraction),
        images_seen=20_000,
        val=predictions(rng, ids[:200], labels[:200], classes, accuracy),
        test=predictions(rng, ids, labels, classes, accuracy),
        temperature=1.3,
        unsure_below=0.42,
        cost=Cost(
            parameters=5_526_346 if vit else 11_181_642,
            trainable_parameters=None,
            gmacs=1.08 if vit else 1.82,
            peak_memory_mb=1480.0 if vit else 1720.0,
            images_per_second=412.0 if vit else 289.0,
            latency_ms=7.4 if vit else 9.8,
            train_seconds=(412.0 if vit else 633.0) if method != "head" else 38.0,
            train_flops=(1.3e14 if vit else 2.2e14) if method != "head" else 2.6e13,
        ),
        pretraining="none (trained from scratch)"
        if method == "scratch"
        else "ImageNet-21k, then ImageNet-1k (Apache-2.0)",
        curve=curve,
        recipe={
            "model": model,
            "method": method,
            "optimizer": {"name": "adamw", "lr": 0.001, "betas": [0.9, 0.999]},
            "batch_size": 64,
        },
        folder=f"runs/c/{model}-{method}-{seed}-{fraction}",
    )


def scored(runs) -> dict[str, tuple]:
    """Headline metric of every run on test and validation, and the scores of its test photos."""
    name = problems.HEADLINE[runs[0].problem]
    return {
        "scores": tuple(problems.values(run.test, run.temperature)[name] for run in runs),
        "validation": tuple(problems.values(run.val, run.temperature)[name] for run in runs),
        "photo_scores": tuple(problems.photo_scores(run.test) for run in runs),
    }


def detail_of(name, model, method, accuracy, classes, photos) -> ModelDetail:
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / photos)
    metrics = {
        "top1": Metric(accuracy, accuracy - half, accuracy + half),
        "top5": Metric(0.992, 0.988, 0.995),
        "macro_f1": Metric(accuracy - 0.004, accuracy - half, accuracy + half),
        "balanced_accuracy": Metric(accuracy - 0.002, accuracy - half, accuracy + half),
        "nll": Metric(0.411, 0.386, 0.440),
        "brier": Metric(0.182, 0.171, 0.193),
        "ece": Metric(0.031, None, None),
    }
    spread = np.linspace(-0.12, 0.06, len(classes))
    return ModelDetail(
        name=name,
        model=model,
        method=method,
        metrics=metrics,
        per_class=tuple(
            ClassScore(
                c,
                photos // len(classes),
                accuracy + s / 2,
                accuracy + s,
                accuracy + s * 0.7,
                accuracy + s - 0.04,
                accuracy + s + 0.03,
            )
            for c, s in zip(classes, spread, strict=True)
        ),
        reliability=tuple(ReliabilityBin(x, min(1, x * 0.9 + 0.06), photos // 10) for x in np.linspace(0.3, 0.99, 15)),
        risk_coverage=tuple((x, (1 - accuracy) * x**2.2) for x in np.linspace(0.01, 1, 400)),
        ece_if_calibrated=0.014,
        mean=Metric(accuracy, accuracy - 1.3 * half, accuracy + 1.3 * half),
    )


def verdict_of(a: ModelDetail, b: ModelDetail, outcome, seeds, photos) -> Verdict:
    gap = a.metrics["top1"].value - b.metrics["top1"].value
    return Verdict(
        a=a.name,
        b=b.name,
        outcome=outcome,
        difference=gap,
        low=gap - 0.017,
        high=gap + 0.017,
        p_value=0.0041,
        p_equivalent=0.93,
        margin=0.01,
        alpha=0.05,
        seeds=(seeds, seeds),
        photos=photos,
        degrees_of_freedom=6.2,
        seed_variance=4e-5,
        photo_variance=7e-5,
    )


def make_report(
    photos=600,
    classes=NAMES,
    methods=("scratch", "head"),
    models=("vit_tiny_patch4_32", "resnet18"),
    seeds=3,
    fractions=(0.1, 0.3, 1.0),
    ids=None,
    outcome="better",
    pixels=photo,
) -> ReportData:
    rng = np.random.default_rng(7)
    labels = np.arange(photos) % len(classes)
    ids = ids or [f"test/{classes[labels[i]]}/IMG_{i:05d}.jpg" for i in range(photos)]
    base = {"vit scratch": 0.815, "resnet scratch": 0.835, "vit head": 0.93, "resnet head": 0.878}
    runs, details = [], []
    for method in methods:
        for model in models:
            accuracy = base[f"{'vit' if model.startswith('vit') else 'resnet'} {method}"]
            full = []
            for seed in range(seeds):
                for fraction in fractions:
                    lost = 0.055 * np.log10(fraction) * (3 if method == "scratch" else 1)
                    chance = accuracy + lost + rng.normal(0, 0.008)
                    runs.append(run_of(rng, ids, labels, classes, model, method, seed, fraction, chance))
                full.append(runs[-1].test.correct.mean())
            name = model if len(methods) == 1 else f"{model} {method}"
            details.append(detail_of(name, model, method, float(np.mean(full)), classes, photos))
    details.sort(key=lambda one: -one.metrics["top1"].value)
    first = details[0]
    verdicts = tuple(
        verdict_of(first, other, outcome if at == 0 else "better", seeds, photos)
        for at, other in enumerate(details[1:])
    )
    per_split = {"train": 12_000, "val": 2_100, "test": photos}
    check = CheckReport(
        name="clothing",
        classes=tuple(classes),
        counts={split: dict.fromkeys(classes, n // len(classes)) for split, n in per_split.items()},
        findings=(
            Finding(
                "duplicate-across-splits",
                "error",
                "4 test photos have a near-duplicate in train: left out of scoring",
                tuple(ids[:4]),
            ),
            Finding("imbalance", "warning", "sandal has 3.1 times the photos of shirt", ()),
            Finding("odd", "note", "2 photos are almost uniform", tuple(ids[4:6])),
        ),
        unreadable=("train/bag/broken.jpg",),
        leaked=tuple(ids[:4]),
        decides=f"With {photos} test photos, gaps of about 4 to 5 points are found with 80% power.",
    )
    return ReportData(
        title="clothing",
        models=tuple(details),
        runs=tuple(runs),
        **scored(runs),
        verdicts=verdicts,
        check=check,
        suspects=tuple(
            Suspect(ids[i], classes[labels[i]], classes[(labels[i] + 3) % len(classes)], 0.99 - i / 100)
            for i in range(8)
        ),
        interval_note="Top1, top5, recall: Wilson 95%. The others: bootstrap over near-duplicate groups.",
        protocol=(
            "Train: 12,000 photos; validation: 2,100, cut from train by every seed; test: as given.",
            "Stopping, temperature and thresholds: validation photos only.",
            "Winner: chosen on validation.",
        ),
        budget="20,000 images seen by every run, no tuning trials",
        environment={"Python": "3.11.9", "torch": "2.11.0", "CPU": "2 cores", "commit": "0f3a91c"},
        command="regard compare ../shared/data/clothing --models vit_tiny_patch4_32,resnet18 "
        "--img-size 128 --methods scratch,head --seeds 3 --fractions 0.1,0.3,1 --out runs/c",
        created="20 November 2026",
        pixels=pixels,
    )
