"""`distil` from the data to the report: digits, a teacher of other classes, several seeds, leaks, and going on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regard
from regard.cli.main import main
from regard.comparison.students import Estimate
from regard.errors import RegardError
from regard.runs.run import Run
from regard.verbs.distil import Distilled, distil

SMALL = {"img_size": 16, "batch_size": 16, "precision": "fp32", "evaluations": 1}
STUDENT = "deit_nano_distilled_patch4_32"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for room in ("regard.training.run", "regard.comparison.students"):
        monkeypatch.setattr(f"{room}.inference_speed", lambda model, size: (100.0, 10.0))


def photos(root: Path, first: int, last: int, colours: tuple[str, ...] = ("blue", "green", "red")) -> Path:
    """Class folders of noise with one bright channel."""
    for number in range(first, last):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., 2 - number % len(colours)] += 120
        folder = root / colours[number % len(colours)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("photos") / "colours", 0, 60)


@pytest.fixture(scope="module")
def teachers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on these photos, on other ones of two classes, and on the digits."""
    root = tmp_path_factory.mktemp("teachers")
    two = photos(root / "two", 100, 130, ("blue", "green"))
    short = {"model": "resnet20_32", "method": "scratch", "images_seen": 48, **SMALL}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regard.training.run.inference_speed", lambda model, size: (100.0, 10.0))
        patch.setattr("regard.verbs.train._write_report", lambda *told: None)
        return {
            name: regard.train(source, out=root / name, **short).folder
            for name, source in (("same", data), ("other", two), ("digits", "digits"))
        }


def test_digits_from_a_run_to_the_report(teachers: dict[str, Path], tmp_path: Path) -> None:
    out, told = tmp_path / "d", []
    options = {"teacher": str(teachers["digits"]), "student": STUDENT, "method": "scratch", "kind": "soft", "out": out}
    options |= {"images_seen": 96, **SMALL}
    found = distil("digits", **options, on_event=told.append)
    assert isinstance(found, Distilled)
    names = [f"{STUDENT} distilled", "alone on equal images", "alone on equal compute", "resnet20_32 (teacher)"]
    assert [row.name for row in found.rows] == names
    assert [row.reference for row in found.rows] == [False, False, False, True]
    assert [verdict.outcome for verdict in found.verdicts] == ["undecided", "undecided"]
    assert found.sentence.startswith(f"No verdict: {STUDENT} ") and "one seed never yields a verdict" in found.sentence
    assert any(event.get("text", "").startswith("expected: 3 runs") for event in told)

    runs = {name: Run.open(out / name).result() for name in ("student", "alone-images", "alone-compute")}
    assert found.student == out / "student"
    assert {name: run.images_seen for name, run in runs.items()}["student"] == runs["alone-images"].images_seen == 96
    costs = {name: run.cost.train_flops for name, run in runs.items()}
    assert costs["student"] > 1.1 * costs["alone-images"]
    step = costs["alone-images"] / 96 * SMALL["batch_size"]
    assert abs(costs["alone-compute"] - costs["student"]) <= step
    recipes = [Run.open(out / name).config["recipe"] for name in runs]
    alike = [{**recipe, "images_seen": 0, "steps": 0} for recipe in recipes]
    assert alike[0] == alike[1] == alike[2]
    assert Run.open(out / "student").config["distillation"]["tau"] == 3.0

    page = found.report.read_text("utf-8")
    for words in ("alone on equal compute", "its probabilities at temperature 3", "regard distil digits", "McNemar p"):
        assert words in page
    student = regard.load_model(out / "student")
    pixels = np.full((8, 8, 3), 200, np.uint8)
    assert student.predict(pixels).logits.shape == (1, 10)

    before = (out / "alone-compute" / "result.json").stat().st_mtime_ns
    again = distil("digits", **options, resume=True)
    assert isinstance(again, Distilled) and again.rows == found.rows
    assert (out / "alone-compute" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(RegardError, match=r"alpha was 0\.5, is 0\.3"):
        distil("digits", **options | {"alpha": 0.3}, resume=True)
    with pytest.raises(RegardError, match="already holds 'alone-compute'; use --resume"):
        distil("digits", **options)


class Killed(Exception):
    """Ends a training between two steps."""


def test_other_classes_several_seeds_and_going_on_after_a_kill(
    data: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    options = {"teacher": str(teachers["other"]), "student": "vit_nano_patch4_32", "method": "scratch", "seeds": 2}
    options |= {"alone": "images", "images_seen": 48, **SMALL}
    whole = distil(data, out=tmp_path / "whole", **options)
    assert isinstance(whole, Distilled)
    assert [row.runs for row in whole.rows] == [2, 2, 2]
    assert len(whole.verdicts) == 1 and whole.verdicts[0].seeds == (2, 2)
    assert "vit_nano_patch4_32 distilled" in whole.sentence and "the teacher resnet20_32 reaches" in whole.sentence

    seen: list[str] = []

    def kill(event: dict) -> None:
        seen.append(event.get("text", ""))
        if event["event"] == "step" and seen.count("vit_nano_patch4_32, distilled, seed 1") and event["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        distil(data, out=tmp_path / "broken", **options, on_event=kill)
    assert not (tmp_path / "broken" / "report.html").exists()
    broken = distil(data, out=tmp_path / "broken", **options, resume=True)
    assert isinstance(broken, Distilled) and broken.rows == whole.rows
    for name in ("teacher-head-seed0", "student-seed0", "student-seed1", "alone-images-seed1"):
        weights = [(tmp_path / way / name / "model.safetensors").read_bytes() for way in ("whole", "broken")]
        assert weights[0] == weights[1]

    found = regard.reproduce(broken.student, out=tmp_path / "again")
    assert (found.outcome, found.equal_weights) == ("same", True)


def test_photos_that_the_teacher_learned_from_are_not_scored(
    data: Path, teachers: dict[str, Path], tmp_path: Path
) -> None:
    """The same photos in a folder whose test part is named: most of it were training photos of the teacher."""
    moved = tmp_path / "moved"
    test = set(Run.open(teachers["same"]).result().test.ids)
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        part = "test" if number % 3 == 0 else "train"
        (moved / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        (moved / part / path.parent.name / path.name).write_bytes(path.read_bytes())
    told: list[dict] = []
    options = {"teacher": str(teachers["same"]), "student": "vit_nano_patch4_32", "method": "scratch"}
    options |= {"alone": "none", "images_seen": 16, **SMALL}
    found = distil(moved, out=tmp_path / "d", **options, on_event=told.append)
    assert isinstance(found, Distilled) and found.verdicts == ()
    scored = Run.open(found.student).result().test.ids
    unseen = {f"test/{path.parent.name}/{path.name}" for path in (data / name for name in test)}
    assert set(scored) == {id_ for id_ in unseen if (moved / id_).is_file()} and scored
    left = 20 - len(scored)
    line = f"{left} of 20 test images were training or validation images of the teacher and are left out of scoring"
    assert any(event.get("text") == line for event in told)
    assert line in found.report.read_text("utf-8")


def test_models_from_python_and_a_pretrained_student(data: Path, teachers: dict[str, Path], tmp_path: Path) -> None:
    """The teacher is a loaded model, the student goes on from a run of its own and keeps its name."""
    teacher = regard.load_model(teachers["same"])
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    options = {"method": "finetune", "alone": "none", "images_seen": 16, "trials": 1, **SMALL}
    found = distil(data, teacher=teacher, student=str(teachers["same"]), out=tmp_path / "d", **options)
    assert isinstance(found, Distilled)
    run = Run.open(found.student)
    assert (run.config["model"], run.config["method"]) == ("resnet20_32", "finetune")
    assert run.config["source"]["model"] == str(teachers["same"])
    assert (tmp_path / "d" / "trials" / "student" / "trials.json").is_file()
    assert all(value.equal(before[name]) for name, value in teacher.model.state_dict().items())
    assert found.sentence.startswith(f"{teachers['same']} distilled names ") and len(found.rows) == 2


def test_a_dry_run_states_the_cost_and_makes_nothing(
    data: Path, teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--student", STUDENT, "--method", "scratch", "--img-size", "16", "--images-seen", "64", "--seeds", "3"]
    out = tmp_path / "d"
    command = ["distil", str(data), "--teacher", str(teachers["other"]), *words, "--out", str(out), "--dry-run"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("12 runs, under a minute")
    assert not out.exists()
    found = distil(
        data, teacher=regard.load_model(teachers["same"]), student="vit_nano_patch4_32", method="scratch",
        img_size=16, images_seen=64, out=out, dry_run=True,
    )  # fmt: skip
    assert isinstance(found, Estimate) and found.runs == 3 and found.minutes > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 2.0}, "--tau 2: the teacher's most probable class has no temperature"),
        ({"seeds": 0}, "--seeds 0: at least 1"),
        ({"alpha": 2.0}, "--alpha 2: expected a share"),
        ({"kind": "warm"}, "--kind warm: expected hard or soft"),
        ({"teacher": "nowhere/run"}, "nowhere/run: no such folder"),
        ({"student": "vit_nano_patch4_33"}, "vit_nano_patch4_33: no such model"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_made(
    data: Path, teachers: dict[str, Path], tmp_path: Path, options: dict, message: str
) -> None:
    given = {"teacher": str(teachers["same"]), "student": "vit_nano_patch4_32", "method": "scratch", **SMALL}
    with pytest.raises(RegardError, match=message):
        distil(data, **given | {"out": tmp_path / "d"} | options)
    assert not (tmp_path / "d").exists()
