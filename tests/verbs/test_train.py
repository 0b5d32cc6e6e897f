"""`train` and `compare` as a user calls them, on a few small images."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import regard
from regard.cli.main import main
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.verbs.command import command_line


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 images of 20 pixels: red and blue noise."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (root / name).mkdir()
        for number in range(24):
            pixels = rng.integers(0, 120, (20, 20, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


SHORT = {"method": "scratch", "img_size": 16, "images_seen": 64, "batch_size": 16, "precision": "fp32"}


def test_train_makes_a_run_that_every_verb_takes(photos: Path, tmp_path: Path) -> None:
    run = regard.train(photos, model="resnet20_32", out=tmp_path / "a", **SHORT)
    assert (run.folder / "report.html").is_file() and run.classes == ("blue", "red")
    assert len(run.predictions("test")) == len(run.predictions("val")) == 7
    scored = regard.evaluate(run.folder, photos)
    assert scored.images == 7
    assert scored.metrics["top1"].value == pytest.approx(run.predictions("test").correct.mean())
    again = regard.load_model(run.folder).predict(photos / "red" / "0.png")
    assert again.classes == run.classes


@pytest.fixture(scope="module")
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photos with labels of every kind: several, numbers, a patient and a site."""
    path = tmp_path_factory.mktemp("table") / "photos.csv"
    lines = ["path,tags,weight,patient,site"]
    for name in ("red", "blue"):
        for number in range(24):
            tags = f"{name}|even" if number % 2 == 0 else name
            weight = 100 * (name == "red") + number
            lines.append(f"{photos}/{name}/{number}.png,{tags},{weight},{name}{number // 3},{'ab'[number % 2]}")
    path.write_text("\n".join(lines))
    return path


def test_several_labels_in_groups_with_slices(table: Path, tmp_path: Path) -> None:
    run = regard.train(
        table, model="resnet20_32", out=tmp_path / "a", target=("tags",), group="patient", slices=("site",), **SHORT
    )
    result = run.result()
    assert result.problem == "multi_label" and run.classes == ("blue", "even", "red")
    assert len(result.thresholds) == 3 and (run.folder / "report.html").is_file()
    config = run.config
    assert (config["target"], config["group"], config["slices"]) == (["tags"], "patient", ["site"])

    def patients(ids: tuple[str, ...]) -> set[str]:
        return {f"{Path(id_).parent.name}{int(Path(id_).stem) // 3}" for id_ in ids}

    assert not patients(result.val.ids) & patients(result.test.ids)


def test_numbers_by_a_solved_head(table: Path, photos: Path, tmp_path: Path) -> None:
    base = regard.train(photos, model="resnet20_32", out=tmp_path / "base", **SHORT)
    loaded = regard.load_model(base.folder, num_classes=1, classes=("weight",))
    run = regard.train(table, model=loaded, out=tmp_path / "a", target=("weight",), precision="fp32")
    result = run.result()
    assert result.problem == "regression"
    assert np.abs(result.test.logits - result.test.labels).mean() < 25  # knowing the colour alone leaves 6, nothing 50


def test_a_failed_training_leaves_no_empty_folder(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="--watch map"):
        regard.train(photos, model="resnet20_32", out=tmp_path / "a", watch="map", **SHORT)
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(RegardError, match="no such"):
        regard.train(tmp_path / "nothing", model="resnet20_32", out=tmp_path / "mine", **SHORT)
    assert (tmp_path / "mine").exists()


def test_trials_snapshots_and_advice(photos: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    rows = [f"{photos}/red/{n}.png,red" for n in range(24)] + [f"{photos}/blue/{n}.png,blue" for n in range(24)]
    rows += [f"{photos}/blue/{n}.png,odd" for n in range(3)]
    few.write_text("\n".join(["path,label", *rows[:24], *rows[-3:]]))
    said: list[str] = []
    run = regard.train(
        few,
        model="resnet20_32",
        out=tmp_path / "a",
        trials=2,
        snapshots=2,
        keep_leaks=True,
        on_event=lambda event: said.append(str(event.get("text", ""))),
        **SHORT,
    )
    assert any("--balance loss" in line for line in said)
    assert any(line.startswith("learning rate") for line in said)
    assert run.config["recipe"]["lr"] in [
        row["lr"] for row in json.loads((run.folder / "trials.json").read_text())["trials"]
    ]
    assert len(list((run.folder / "snapshots").iterdir())) == 2


def test_a_tracker_hears_steps_and_evaluations(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = regard.train(photos, model="resnet20_32", out=tmp_path / "a", track="tensorboard", **SHORT)
    written = EventAccumulator(str(run.folder / "track")).Reload()
    assert len(written.Scalars("train/loss")) >= 4
    assert written.Scalars("val/top1")[-1].value == pytest.approx(run.metrics()[-1]["val/top1"])


def test_unknown_photos_are_judged_after_training(photos: Path, tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(others / f"{number}.png")
    run = regard.train(photos, model="resnet20_32", out=tmp_path / "a", unknown=others, **SHORT)
    numbers = re.compile(r"\d+\.\d+")
    first = numbers.findall((run.folder / "unknown.json").read_text())
    (run.folder / "unknown.json").unlink()
    regard.train(photos, model="resnet20_32", out=tmp_path / "a", unknown=others, resume=True, trials=2, **SHORT)
    again = numbers.findall((run.folder / "unknown.json").read_text())
    np.testing.assert_allclose(list(map(float, again)), list(map(float, first)), rtol=1e-3)  # of the trained model
    assert not (run.folder / "trials.json").exists()


def test_trials_leave_a_module_of_the_user_as_it_was(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    answers = []
    for trials in (0, 1):
        loaded = regard.load_model(module, preprocess=Preprocess(8, 1.0, "squash"), classes=("blue", "red"))
        one = regard.load_model(
            type(module)(*map(copy.deepcopy, module)), preprocess=loaded.preprocess, classes=loaded.classes
        )
        run = regard.train(
            photos,
            model=one,
            out=tmp_path / str(trials),
            method="scratch",
            trials=trials,
            images_seen=64,
            batch_size=16,
            precision="fp32",
        )
        answers.append(run.predictions("test").logits)
    np.testing.assert_array_equal(*answers)  # one trial tries the recipe's own rate


def test_a_run_is_not_replaced_unasked(photos: Path, tmp_path: Path) -> None:
    regard.train(photos, model="resnet20_32", out=tmp_path / "a", **SHORT)
    with pytest.raises(RegardError, match="--resume"):
        regard.train(photos, model="resnet20_32", out=tmp_path / "a", **SHORT)
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    regard.train(photos, model="resnet20_32", out=tmp_path / "a", resume=True, **SHORT)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before


def test_never_from_scratch_unasked(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    with pytest.raises(RegardError, match="--method scratch") as refused:
        regard.train(photos, model="vit_tiny_patch16_224", out=tmp_path / "a")
    assert "--weights" in str(refused.value) and "\n" not in str(refused.value)


def test_a_users_module_trains_under_the_same_verb(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    loaded = regard.load_model(module, preprocess=Preprocess(8, 1.0, "squash"), classes=("blue", "red"))
    run = regard.train(
        photos,
        model=loaded,
        out=tmp_path / "a",
        method="scratch",
        epochs=20,
        batch_size=16,
        lr=0.01,
        precision="fp32",
    )
    assert run.predictions("test").correct.mean() == 1.0


def test_unreadable_files_are_skipped_by_name_or_refused(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for path in photos.rglob("*.png"):
        target = root / path.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "red" / "0.png").write_bytes((root / "red" / "0.png").read_bytes()[:100])
    said: list[str] = []

    def note(event: dict) -> None:
        said.append(str(event.get("text", "")))

    run = regard.train(root, model="resnet20_32", out=tmp_path / "a", max_bad=0.05, on_event=note, **SHORT)
    assert any("red/0.png" in line for line in said)
    assert "red/0.png" not in run.split_path.read_text()
    with pytest.raises(RegardError, match=r"red/0\.png"):
        regard.train(root, model="resnet20_32", out=tmp_path / "b", on_bad_image="error", **SHORT)
    with pytest.raises(RegardError, match="1 of 48"):
        regard.train(root, model="resnet20_32", out=tmp_path / "c", max_bad=0.0, **SHORT)


def test_compare_answers_and_continues(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "compare",
        str(photos),
        "--models",
        "vit_nano_patch4_32,resnet20_32",
        "--methods",
        "scratch",
        "--img-size",
        "16",
    ]
    words += [
        "--seeds",
        "2",
        "--fractions",
        "0.5,1",
        "--images-seen",
        "48",
        "--batch-size",
        "16",
        "--precision",
        "fp32",
    ]
    words += ["--out", str(tmp_path / "c")]
    assert main([*words, "--dry-run"]) == 0
    assert "12 runs" in capsys.readouterr().out and not (tmp_path / "c").exists()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "report:" in out and "resnet20_32" in out
    assert len(list((tmp_path / "c" / "runs").iterdir())) == 12  # 8, and 4 of the reference
    # One run lost: only that one is trained again, and the answer is the same.
    lost = tmp_path / "c" / "runs" / "resnet20_32-scratch-0.5-seed1"
    (lost / "result.json").unlink()
    kept = (tmp_path / "c" / "runs" / "resnet20_32-scratch-1-seed1" / "result.json").stat().st_mtime_ns
    assert main(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out == out
    assert (tmp_path / "c" / "runs" / "resnet20_32-scratch-1-seed1" / "result.json").stat().st_mtime_ns == kept
    assert main([*words[:-2], "--out", str(tmp_path / "c"), "--resume", "--margin", "0.02"]) == 2
    assert "margin was 0.01" in capsys.readouterr().err


def test_compare_takes_modules_of_the_user_and_frozen_heads(photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)

    def mine(name: str, width: int) -> LoadedModel:
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, width), nn.ReLU(), nn.Linear(width, 2))
        loaded = regard.load_model(module, preprocess=Preprocess(8, 1.0, "squash"), classes=("blue", "red"))
        loaded.name = name
        return loaded

    models = (mine("narrow", 4), mine("wide", 32))
    before = models[0].model[1].weight.detach().clone()
    answer = regard.compare(photos, models=models, methods=("head",), seeds=2, out=tmp_path / "c")
    rows = {row.name: row.reference for row in answer.rows}
    assert rows == {"narrow": False, "wide": False, "hog_svm (classical)": True} and answer.report.is_file()
    assert torch.equal(models[0].model[1].weight, before)  # each run began with a copy


def test_a_model_without_weights_is_refused_before_anything_is_trained(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    run = regard.train(photos, model="resnet20_32", out=tmp_path / "a", **SHORT)
    models = (str(run.folder), "vit_tiny_patch16_224")
    with pytest.raises(RegardError, match="vit_tiny_patch16_224"):
        regard.compare(photos, models=models, methods=("head",), seeds=2, img_size=64, out=tmp_path / "c")
    assert not (tmp_path / "c" / "runs").exists()


def test_compare_takes_the_predictions_of_any_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, answers in (("a", "xxxxxxxxyy"), ("b", "xxyyxxyyyy")):
        rows = "".join(f"{number}.jpg,{'xxxxxxxxyy'[number]},{answer}\n" for number, answer in enumerate(answers))
        (tmp_path / f"{name}.csv").write_text("path,label,class\n" + rows)
    words = [
        "compare",
        "--predictions",
        str(tmp_path / "a.csv"),
        str(tmp_path / "b.csv"),
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
    assert result["sentence"].startswith("a is right on 4 photos that b gets wrong")
    assert (tmp_path / "c" / "report.html").is_file()


def test_the_command_of_a_report_makes_it_again() -> None:
    given = {
        name: parameter.default for name, parameter in __import__("inspect").signature(regard.train).parameters.items()
    }
    given |= {
        "data": "my photos",
        "model": "resnet18",
        "out": Path("runs/a"),
        "lr": 0.1,
        "force": True,
        "randaugment": (2.0, 9.0),
    }
    assert command_line(regard.train, given) == (
        "regard train 'my photos' --model resnet18 --out runs/a --lr 0.1 --randaugment 2,9 --force"
    )
