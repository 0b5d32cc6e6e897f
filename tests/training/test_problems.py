"""`train_run` on labels of every kind: the folder that it writes, what loads it again, and what the options do."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.runs.run import Run
from regard.training.recipe import Recipe
from regard.training.run import train_run
from regard.training.trials import choose_lr, rates

SPLIT = Split(np.arange(0, 60), np.arange(60, 80), np.arange(80, 100), ())
RECIPE = Recipe(images_seen=96, batch_size=12, lr=3e-3, precision="fp32", evaluations=2, crop="pad")
BOX = ("x0", "y0", "x1", "y1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("regard.training.run.inference_speed", lambda model, size: (100.0, 10.0))


def make(problem: str, count: int = 100) -> ImageSet:
    """Noise with bright channels; a bright square for boxes. Some labels are unknown."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (count, 16, 16, 3), dtype=np.uint8)
    if problem == "boxes":
        corner = rng.integers(0, 10, (count, 2))
        for image, (x, y) in zip(pixels, corner, strict=True):
            image[y : y + 6, x : x + 6] += 180
        labels = np.concatenate([corner, corner + 6], axis=1).astype(np.float32) / 16
        names: tuple[str, ...] = BOX
    elif problem == "single_label":
        labels = (np.arange(count) % 10 == 0).astype(np.int64)
        pixels[labels == 1, ..., 0] += 100
        names = ("often", "rare")
    else:
        present = rng.random((count, 3)) < (0.5, 0.3, 0.2)
        pixels += (120 * present[:, None, None, :]).astype(np.uint8)
        labels, names = present.astype(np.float32), ("red", "green", "blue")
        if problem == "regression":
            labels, names = (1000 + 50 * present[:, :2]).astype(np.float32), ("first", "second")
        labels[::9, 1] = np.nan
    ids = tuple(f"made/{number}" for number in range(count))
    kind = "regression" if problem == "boxes" else problem
    return ImageSet("made", ids, labels, names, ("",) * count, list(pixels), problem=kind, boxes=problem == "boxes")


def fresh(images: ImageSet, name: str = "vit_nano_patch4_32") -> LoadedModel:
    torch.manual_seed(0)
    return fresh_model(name, images.classes, 16)


METHODS = {
    "scratch": replace(RECIPE, mixup=0.2, cutmix=1.0, label_smoothing=0.1, randaugment=(1, 3.0)),
    "lora": replace(RECIPE, method="lora", lora_rank=4, ema=0.9),
    "sgd": replace(RECIPE, method="head", head="sgd", optimiser="sgd", lr=0.05, weight_decay=0.0),
    "linear": Recipe(method="head", precision="fp32"),
    "svm": Recipe(method="head", head="svm", precision="fp32"),
    "knn": Recipe(method="head", head="knn", precision="fp32"),
}


QUICK = {("multi_label", "scratch"), ("regression", "lora"), ("boxes", "sgd")}
CASES = [
    pytest.param(problem, method, marks=[] if recipe.solved or (problem, method) in QUICK else pytest.mark.long)
    for problem in ("multi_label", "regression", "boxes")
    for method, recipe in METHODS.items()
]


@pytest.mark.parametrize(("problem", "method"), CASES)
def test_a_run_answers_the_same_when_it_is_loaded_again(tmp_path, problem, method):
    images = make(problem)
    loaded = fresh(images)
    said: list[str] = []
    run = train_run(
        Run.create(tmp_path / "run"),
        images,
        SPLIT,
        loaded,
        METHODS[method],
        on_event=lambda event: said.append(str(event.get("text", ""))),
        cache_dir=tmp_path / "cache",
        opened={"target": ["a", "b"], "group": "patient", "slices": ["site"]},
    )
    result, config = run.result(), run.config
    assert result.problem == images.problem == config["problem"] and config["boxes"] == images.boxes
    assert (config["target"], config["group"], config["slices"]) == (["a", "b"], "patient", ["site"])
    np.testing.assert_array_equal(result.test.labels, images.labels[SPLIT.test])
    watched = "val/map" if problem == "multi_label" else "val/mae"
    assert all(watched in row for row in result.curve)
    assert len(result.thresholds) == (3 if problem == "multi_label" else 0)
    assert any("switched off" in line for line in said) == (method == "scratch" and problem != "multi_label")
    again = load_model(run.folder)
    assert (again.problem, again.thresholds, again.boxes) == (result.problem, result.thresholds, images.boxes)
    answers = again.predict([images.sources[row] for row in SPLIT.test])
    assert answers.problem == images.problem and np.isnan(answers.labels).all()
    scale = 50.0 if problem == "regression" else 1.0
    np.testing.assert_allclose(answers.logits, result.test.logits, atol=2e-4 * scale)
    if problem == "regression":  # in the units of the labels
        assert 950 < result.test.logits.mean() < 1100
    if method == "knn":
        assert not (run.folder / "config.json").exists() and any("no config.json" in line for line in said)
        return
    timm = pytest.importorskip("timm")
    model = timm.create_model(f"local-dir:{run.folder}", pretrained=True).eval()
    pixels = torch.stack([loaded.preprocess(images.sources[row]) for row in SPLIT.test])
    with torch.no_grad():
        np.testing.assert_allclose(model(pixels).numpy(), result.test.logits, atol=2e-4 * scale)


def test_numbers_are_learned(tmp_path):
    images = make("regression")
    run = train_run(
        Run.create(tmp_path / "run"), images, SPLIT, fresh(images), replace(RECIPE, images_seen=720, crop="centre")
    )
    test = run.result().test
    guess = np.nanmean(np.abs(test.labels - np.nanmean(images.labels[SPLIT.train], axis=0)))
    assert np.nanmean(np.abs(test.labels - test.logits)) < 0.7 * guess


def test_boxes_see_the_whole_photo(tmp_path):
    images = make("boxes")
    loaded = fresh(images)
    loaded.preprocess = replace(loaded.preprocess, resize="short", crop_pct=0.9)
    run = train_run(Run.create(tmp_path / "run"), images, SPLIT, loaded, replace(RECIPE, crop="resized"))
    preprocess = load_model(run.folder).preprocess
    assert (preprocess.resize, preprocess.crop_pct) == ("squash", 1.0)
    assert run.config["recipe"]["crop"] == "centre"


def test_lora_trains_adapters_and_head_alone(tmp_path):
    images = make("single_label")
    loaded = fresh(images)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    run = train_run(Run.create(tmp_path / "run"), images, SPLIT, loaded, METHODS["lora"])
    after = loaded.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"blocks.{n}.attn.{layer}.weight" for n in range(4) for layer in ("qkv", "proj")} | {
        "head.weight",
        "head.bias",
    }
    cost = run.result().cost
    assert cost.trainable_parameters == 4 * 4 * (96 + 288 + 96 + 96) + 2 * 96 + 2
    assert cost.gmacs is not None and cost.train_flops == pytest.approx(4e9 * cost.gmacs * 96)
    with pytest.raises(RegardError, match="--method lora"):
        train_run(Run.create(tmp_path / "cnn"), images, SPLIT, fresh(images, "resnet20_32"), METHODS["lora"])


@pytest.mark.parametrize("method", ["lora", "sgd", pytest.param("scratch", marks=pytest.mark.long)])
def test_snapshots_are_whole_models_in_the_units_of_the_labels(tmp_path, method):
    from safetensors.torch import load_file

    images = make("regression")
    recipe = replace(METHODS[method], snapshots=3, evaluations=1)
    run = train_run(Run.create(tmp_path / "run"), images, SPLIT, fresh(images), recipe)
    files = sorted((run.folder / "snapshots").iterdir())
    assert [file.name for file in files] == [f"{step:08d}.safetensors" for step in (0, 4, 8)]
    states = [load_file(file) for file in files]
    final = load_file(run.weights_path)
    for key, value in final.items():
        torch.testing.assert_close(states[-1][key], value)
    assert states[0].keys() == final.keys() and abs(states[0]["head.bias"][0].item() - 1025) < 15
    assert not torch.equal(states[0]["head.weight"], final["head.weight"])


def test_options_of_the_stream_change_the_training(tmp_path):
    images, found = make("single_label"), []
    for changes in ({}, {"balance": "loss"}, {"balance": "sampler"}, {"repeated_augmentation": 3}):
        run = train_run(
            Run.create(tmp_path / str(len(found))),
            images,
            SPLIT,
            fresh(images, "resnet20_32"),
            replace(RECIPE, optimiser="sgd", images_seen=24, evaluations=1, **changes),
        )
        found.append(run.result())
        assert found[-1].images_seen == 24
        assert found[-1].recipe["recipe"].items() >= changes.items()
    answers = [result.test.logits.tobytes() for result in found]
    assert len(set(answers)) == 4


def test_old_run_folders_still_load(tmp_path):
    import yaml

    images = make("single_label")
    run = train_run(Run.create(tmp_path / "run"), images, SPLIT, fresh(images), replace(RECIPE, images_seen=12))
    config = json.loads(json.dumps(run.config))
    for name in ("problem", "target", "group", "slices", "boxes"):
        del config[name]
    new = ("lora_rank", "balance", "repeated_augmentation", "snapshots", "trials")
    config["recipe"] = {name: value for name, value in config["recipe"].items() if name not in new}
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((run.folder / "result.json").read_text())
    for name in ("problem", "thresholds", "fold"):
        del result[name]
    (run.folder / "result.json").write_text(json.dumps(result))
    again = load_model(run.folder)
    assert (again.problem, again.thresholds, again.boxes) == ("single_label", (), False)
    assert run.result().fold is None and run.result().test.labels.dtype == np.int64


def test_rates_surround_the_recipes_own():
    assert rates(1e-3, 1) == [1e-3]
    np.testing.assert_allclose(rates(1e-3, 3), [1e-3 / 10**0.5, 1e-3, 1e-3 * 10**0.5], rtol=1e-3)
    assert rates(1e-3, 4)[1] < 1e-3 < rates(1e-3, 4)[2]


def test_trials_choose_on_validation_and_are_kept(tmp_path):
    images = make("single_label")
    loads, said = [], []

    def load() -> LoadedModel:
        loads.append(1)
        return fresh(images)

    recipe = replace(RECIPE, lr=1e-4, watch="nll")
    folder = Run.create(tmp_path / "run").folder

    def choose(trials: int = 3, recipe: Recipe = recipe):
        return choose_lr(images, SPLIT, load, recipe, trials, folder, lambda event: said.append(str(event.get("text"))))

    lr, rows = choose()
    assert len(loads) == len(rows) == 3 and all(row["images"] == 36 for row in rows)  # a third of 8 steps, rounded up
    assert lr == min(rows, key=lambda row: row["score"])["lr"]
    assert f"learning rate {lr:g} by val/nll of 3 trials" in said[-1]
    assert choose() == (lr, rows) and len(loads) == 3  # nothing is done twice
    text = (folder / "trials.json").read_text()
    document = json.loads(text)
    document["trials"].pop()
    (folder / "trials.json").write_text(json.dumps(document))
    assert choose() == (lr, rows) and len(loads) == 4  # only what is missing
    assert len(choose(2)[1]) == 2 and len(loads) == 6  # another plan begins anew
    swapped = replace(SPLIT, test=SPLIT.test[:1])
    assert choose_lr(images, swapped, load, recipe, 2, folder, lambda event: None)[0] in rates(1e-4, 2)
    assert Run.resume(folder).folder == folder  # a run that was killed during its trials goes on


def test_a_rate_that_diverges_is_passed_over(tmp_path, monkeypatch):
    from regard.training import trials
    from regard.training.nonfinite import NotFinite

    images = make("single_label")
    loop = trials.run_loop

    def diverging(training, recipe, team, **how):
        if recipe.lr > 1e-3:
            raise NotFinite("step 1: the loss is nan")
        return loop(training, recipe, team, **how)

    monkeypatch.setattr(trials, "run_loop", diverging)
    lr, rows = choose_lr(
        images, SPLIT, lambda: fresh(images), replace(RECIPE, lr=1e-3), 3, tmp_path, lambda event: None
    )
    assert [row["score"] is None for row in rows] == [False, False, True] and lr <= 1e-3
    with pytest.raises(RegardError, match="diverges at every rate"):
        choose_lr(images, SPLIT, lambda: fresh(images), replace(RECIPE, lr=1.0), 2, tmp_path, lambda event: None)


def test_a_solved_head_has_nothing_to_try(tmp_path):
    said = []
    found = choose_lr(
        make("single_label"),
        SPLIT,
        lambda: pytest.fail("a model was loaded"),
        METHODS["svm"],
        3,
        tmp_path,
        lambda event: said.append(event["text"]),
    )
    assert found == (METHODS["svm"].lr, []) and len(said) == 1 and "--trials 3" in said[0]
