from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from regard.errors import RegardError
from regard.results import Cost, Predictions
from regard.runs.run import Run


def predictions(n: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(
        tuple(f"{seed}/{i}.jpg" for i in range(n)),
        rng.normal(size=(n, 3)).astype(np.float32),
        rng.integers(0, 3, n),
        ("a", "b", "c"),
    )


def finished(folder) -> Run:
    run = Run.create(folder)
    run.write_classes(("a", "b", "c"))
    run.write_config(
        {"model": "vit", "recipe": {"lr": 1e-3, "randaugment": [2, 9.0]}, "preprocess": {"crop_pct": 0.875}}
    )
    for step in (10, 20, 30):
        run.append_metrics({"step": step, "loss": 1 / step, "val/top1": 0.5})
    run.write_environment({"python": "3"})
    run.write_predictions({"val": predictions(5, 1), "test": predictions(7, 2)}, seed=4, fraction=0.3)
    run.write_result(
        {
            "model": "vit",
            "method": "scratch",
            "seed": 4,
            "fraction": 0.3,
            "train_images": 9,
            "images_seen": 90,
            "temperature": 1.25,
            "unsure_below": 0.4,
            "pretraining": "none",
            "deterministic": False,
        },
        Cost(parameters=12, gmacs=0.5),
    )
    return run


def test_everything_written_is_read_back(tmp_path):
    finished(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert run.classes == ("a", "b", "c")
    assert run.config["recipe"]["lr"] == 1e-3
    assert run.preprocess == {"crop_pct": 0.875}
    result = run.result()
    for split, n, seed in (("val", 5, 1), ("test", 7, 2)):
        expected, got = predictions(n, seed), getattr(result, split)
        assert got.ids == expected.ids
        assert got.classes == expected.classes
        assert got.logits.dtype == np.float32
        np.testing.assert_array_equal(got.logits, expected.logits)
        np.testing.assert_array_equal(got.labels, expected.labels)
    assert result.cost == Cost(parameters=12, gmacs=0.5) == run.cost
    assert (result.seed, result.fraction, result.temperature) == (4, 0.3, 1.25)
    assert [row["step"] for row in result.curve] == [10, 20, 30]
    assert not [name for name in os.listdir(run.folder) if name.startswith(".")]


def test_a_split_without_predictions_is_empty(tmp_path):
    run = finished(tmp_path / "run")
    assert run.predictions("train").logits.shape == (0, 3)


def test_the_table_stands_alone(tmp_path):
    import pyarrow.parquet as pq

    run = finished(tmp_path / "run")
    table = pq.read_table(run.folder / "predictions.parquet")
    assert table.column_names == ["id", "split", "label", "seed", "fraction", "logits"]
    assert set(table["fraction"].to_pylist()) == {0.3}


def test_a_folder_in_use_is_refused_and_named(tmp_path):
    finished(tmp_path / "run")
    with pytest.raises(RegardError, match=r"run: already exists.*--resume.*--overwrite"):
        Run.create(tmp_path / "run")
    with pytest.raises(RegardError, match="is a file"):
        Run.create(tmp_path / "run" / "config.yaml")


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.tmp-01234567").write_text("leftover")
    Run.create(tmp_path / "run")
    assert os.listdir(tmp_path / "run") == []


def test_overwriting_spares_what_is_no_run(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(RegardError, match=r"'cat\.jpg' but no config\.yaml"):
        Run.create(tmp_path / "photos", overwrite=True)
    run = finished(tmp_path / "run")
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "last").mkdir()
    Run.create(run.folder, overwrite=True)
    assert os.listdir(run.folder) == ["notes.txt"]


def test_no_run_here(tmp_path):
    with pytest.raises(RegardError, match=r"config\.yaml is missing"):
        Run.open(tmp_path)


def test_resume_opens_or_begins(tmp_path):
    assert Run.resume(tmp_path / "new").folder.is_dir()
    run = finished(tmp_path / "run")
    (run.folder / ".last.tmp-01234567").mkdir()
    assert Run.resume(run.folder).finished
    assert not (run.folder / ".last.tmp-01234567").exists()


def test_metrics_survive_a_torn_line_and_are_cut_at_a_step(tmp_path):
    run = finished(tmp_path / "run")
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in run.metrics()] == [10, 20, 30]
    run.truncate_metrics(20)
    run.append_metrics({"step": 30})
    assert [row["step"] for row in run.metrics()] == [10, 20, 30]


def test_an_unfinished_run_says_so(tmp_path):
    run = finished(tmp_path / "run")
    (run.folder / "result.json").unlink()
    with pytest.raises(RegardError, match=r"not finished.*--resume"):
        run.result()


@pytest.mark.parametrize("name", ["config.yaml", "classes.json", "result.json"])
def test_damage_is_named(tmp_path, name):
    run = finished(tmp_path / "run")
    (run.folder / name).write_text("{: [\n")
    with pytest.raises(RegardError, match=rf"{name}: damaged"):
        _ = (run.config, run.classes, run.cost)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    run = finished(tmp_path / "run")
    before = (run.folder / "classes.json").read_text()

    def refuse(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RegardError, match=r"classes\.json.*No space left.*--resume"):
        run.write_classes(("x", "y"))
    assert (run.folder / "classes.json").read_text() == before


def test_a_cost_from_the_future_is_named(tmp_path):
    run = finished(tmp_path / "run")
    result = json.loads((run.folder / "result.json").read_text())
    result["cost"]["watts"] = 5
    (run.folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(RegardError, match="'watts'"):
        _ = run.cost


@pytest.mark.parametrize("problem", ["multi_label", "regression"])
def test_several_labels_and_numbers_come_back_as_they_were(tmp_path: Path, problem: str) -> None:
    run = Run.create(tmp_path / "run")
    run.write_classes(("a", "b", "c"))
    run.write_config({"problem": problem})
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (5, 3)).astype(np.float32)
    labels[1, 2] = labels[4] = np.nan
    told = Predictions(tuple("vwxyz"), rng.normal(size=(5, 3)).astype(np.float32), labels, ("a", "b", "c"), problem)
    nobody = Predictions((), np.empty((0, 3), np.float32), np.empty((0, 3), np.float32), ("a", "b", "c"), problem)
    run.write_predictions({"val": nobody, "test": told}, seed=1, fraction=0.5)
    found = run.predictions("test")
    assert found.problem == problem and found.ids == told.ids
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.logits, told.logits)
    assert run.predictions("val").labels.shape == (0, 3)


def test_a_run_killed_before_its_config_continues_and_other_folders_do_not(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    run.split_path.write_text("id,class,split")
    (run.folder / "trials.json").write_text("{}")
    assert Run.resume(run.folder).split_path.is_file()
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(RegardError, match="already exists"):
        Run.resume(run.folder)
