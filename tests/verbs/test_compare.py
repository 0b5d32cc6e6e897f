"""`compare` from the data to the report, with tiny models: every kind of labels, folds, trials, and going on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regard
from regard.comparison.estimate import Estimate
from regard.errors import RegardError
from regard.runs.run import Run
from regard.verbs.compare import Answer, compare

MODELS = ("vit_nano_patch4_32", "resnet20_32")


def table(root: Path, columns: dict[str, list], rng: np.random.Generator) -> Path:
    """Photos with a square whose colour and place follow the first column, and their table."""
    count = len(next(iter(columns.values())))
    (root / "photos").mkdir(parents=True)
    rows = []
    for row in range(count):
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        top, left = rng.integers(0, 16, 2)
        pixels[top : top + 16, left : left + 16, row % 3] += 150
        Image.fromarray(pixels).save(root / "photos" / f"{row:03}.png")
        rows.append({"path": f"photos/{row:03}.png", **{name: cells[row] for name, cells in columns.items()}})
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "labels.csv"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of photos with a class, several labels, numbers, a place and a patient each."""
    rng = np.random.default_rng(0)
    colours = [("red", "green", "blue")[row % 3] for row in range(60)]
    return table(
        tmp_path_factory.mktemp("data"),
        {
            "label": colours,
            "things": [f"{colour}|{'even' if row % 2 else 'odd'}" for row, colour in enumerate(colours)],
            "brightness": [0.5 * (row % 3) + rng.normal(0, 0.1) for row in range(60)],
            "place": ["north" if row % 2 else "south" for row in range(60)],
            "patient": [f"p{row // 2}" for row in range(60)],
        },
        rng,
    )


def test_one_class_with_slices_and_a_reference(photos: Path, tmp_path: Path) -> None:
    told: list[dict] = []
    out = tmp_path / "out"
    options = {"models": MODELS, "methods": ("scratch",), "seeds": 2, "images_seen": 96, "slices": ("place",)}
    options |= {"target": ("label",), "group": "patient", "out": out, "precision": "fp32"}
    found = compare(photos, **options, on_event=told.append)
    assert isinstance(found, Answer)
    assert [row.reference for row in found.rows] == [False, False, True]
    assert {row.metric for row in found.rows} == {"top1"} and found.rows[2].name == "hog_svm (classical)"
    assert [row.runs for row in found.rows] == [2, 2, 2]
    assert len(found.verdicts) == 1 and "hog_svm" not in (found.verdicts[0].a, found.verdicts[0].b)
    assert 0 < found.verdicts[0].groups < found.verdicts[0].photos  # patients have two photos each
    assert f"{found.verdicts[0].groups} groups" in found.sentence
    assert any("for the reference without a network" in event.get("text", "") for event in told)
    page = found.report.read_text("utf-8")
    assert "hog_svm (classical)" in page and "north" in page
    config = Run.open(out / "runs" / "resnet20_32-scratch-1-seed1").config
    assert (config["problem"], config["target"], config["group"]) == ("single_label", ["label"], "patient")
    lines = (out / "runs" / "hog_svm-classical-1-seed0" / "split.csv").read_text().splitlines()
    by_patient: dict[str, set[str]] = {}
    for row in csv.DictReader(lines):
        by_patient.setdefault(row["group"], set()).add(row["split"])
    assert all(len(where) == 1 for where in by_patient.values())

    shutil.rmtree(out / "runs" / "resnet20_32-scratch-1-seed1")
    kept = (out / "runs" / "hog_svm-classical-1-seed1" / "result.json").stat().st_mtime_ns
    again = compare(photos, **options, resume=True)
    assert isinstance(again, Answer) and again.rows == found.rows and again.verdicts == found.verdicts
    assert (out / "runs" / "hog_svm-classical-1-seed1" / "result.json").stat().st_mtime_ns == kept
    with pytest.raises(RegardError, match="folds was 0, is 3"):
        compare(photos, **options | {"folds": 3}, resume=True)


@pytest.mark.parametrize(
    ("column", "problem", "metric", "reference"),
    [
        ("things", "multi_label", "map", "hog_svm"),
        pytest.param("brightness", "regression", "mae", "hog_ridge", marks=pytest.mark.long),
    ],
)
def test_several_labels_and_numbers_on_folds(
    photos: Path, column: str, problem: str, metric: str, reference: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = compare(
        photos,
        models=MODELS,
        methods=("scratch",),
        folds=2,
        images_seen=64,
        target=(column,),
        out=out,
        precision="fp32",
    )
    assert isinstance(found, Answer)
    assert [row.runs for row in found.rows] == [2, 2, 2]  # one repeat
    assert {row.metric for row in found.rows} == {metric}
    (verdict,) = found.verdicts
    assert (verdict.folds, verdict.seeds) == (2, (1, 1))
    assert verdict.metric == {"multi_label": "lrap", "regression": "scaled_mae"}[problem]
    results = [Run.open(out / "runs" / f"{reference}-classical-1-seed0-fold{fold}").result() for fold in range(2)]
    assert [one.fold for one in results] == [0, 1] and results[0].problem == problem
    assert sorted(results[0].test.ids + results[1].test.ids) == sorted(f"photos/{row:03}.png" for row in range(60))
    assert found.report.is_file()


def test_trials_are_equal_kept_and_used(photos: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    options = {"models": MODELS, "methods": ("scratch",), "seeds": 1, "images_seen": 48, "trials": 2, "out": out}
    options |= {"target": ("label",), "precision": "fp32"}
    found = compare(photos, **options, on_event=told.append)
    assert isinstance(found, Answer) and found.verdicts[0].outcome == "undecided"
    assert "2 learning-rate trials for each model" in found.report.read_text("utf-8")
    assert any("for learning-rate trials" in event.get("text", "") for event in told)
    for model in MODELS:
        assert (out / "trials" / f"{model}-scratch" / "trials.json").is_file()
    config = Run.open(out / "runs" / f"{MODELS[0]}-scratch-1-seed0").config
    text = next(event["text"] for event in told if event.get("text", "").startswith("learning rate "))
    assert f"learning rate {config['recipe']['lr']:g} " in text
    with pytest.raises(RegardError, match="--trials 2: a solved head"):
        compare(photos, **options | {"methods": ("head",), "out": tmp_path / "other"})


def test_a_dry_run_states_the_cost(photos: Path, tmp_path: Path) -> None:
    found = compare(
        photos, models=MODELS, methods=("scratch",), folds=3, target=("label",), out=tmp_path / "out", dry_run=True
    )
    assert isinstance(found, Estimate)
    assert found.runs == 9 and 0 < found.reference_minutes < found.minutes
    assert not (tmp_path / "out").exists()


def test_predictions_of_several_labels_need_the_data(photos: Path, tmp_path: Path) -> None:
    names = ("blue", "even", "green", "odd", "red")
    rng = np.random.default_rng(0)
    paths = []
    for name in ("a", "b"):
        lines = [f"photos/{row:03}.png," + ",".join(f"{p:.3f}" for p in rng.random(5)) for row in range(60)]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("path," + ",".join(names) + "\n" + "\n".join(lines) + "\n")
    found = compare(photos, predictions=tuple(paths), target=("things",), out=tmp_path / "out")
    assert isinstance(found, Answer) and {row.metric for row in found.rows} == {"map"}
    assert found.report.is_file()


def test_a_run_is_evaluated_as_it_was_trained(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"model": "vit_nano_patch4_32", "method": "scratch", "images_seen": 64, "out": out}
    regard.train(photos, target=("things",), group="patient", **options)
    found = regard.evaluate(out, photos, slices=("place",))
    result = Run.open(out).result()
    assert (found.problem, found.confusion, found.mistakes) == ("multi_label", None, ())
    assert found.images == len(result.test)
    assert found.metrics["map"].value > 0 and found.metrics["map"].low is not None
    assert [row.name for row in found.per_class] == list(result.test.classes)
    assert tuple(row.threshold for row in found.per_class) == result.thresholds
    assert {row.value for row in found.slices["place"]} <= {"north", "south"}
    assert sum(row.images for row in found.slices["place"]) == found.images


def test_numbers_are_evaluated_in_their_units(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    regard.train(photos, target=("brightness",), model="resnet20_32", method="scratch", images_seen=64, out=out)
    found = regard.evaluate(out, photos)
    test = Run.open(out).result().test
    assert set(found.metrics) == {"mae", "rmse", "r2"}
    assert found.metrics["mae"].value == pytest.approx(np.abs(test.logits - test.labels).mean(), rel=1e-3)
    assert [row.name for row in found.per_class] == ["brightness"]


def test_a_model_without_weights_is_refused_and_leaves_no_folder(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="vit_nano_patch4_32: no published weights are known"):
        compare(str(photos), models=MODELS, out=tmp_path / "out", img_size=32, images_seen=64)
    assert not (tmp_path / "out").exists()
