"""`train_run` on a few tiny images: the folder it writes, what others read from it, and continuing."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from regard.data.sources import ImageSet
from regard.data.splits import Split
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel, fresh_model, load_model
from regard.runs.run import FILES, Run
from regard.training.interrupts import Stopped
from regard.training.recipe import Recipe
from regard.training.run import train_run

CLASSES = ("blue", "green", "red")


def make_images(count: int = 90, size: int = 16) -> ImageSet:
    """Noise with one bright channel: learnable in a few steps."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = rng.integers(0, 120, (count, size, size, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[..., 2 - label] += 90
    ids = tuple(f"made/{number:04d}" for number in range(count))
    return ImageSet("made", ids, labels.astype(np.int64), CLASSES, ("",) * count, list(pixels))


NOT_ALWAYS = {
    "report.html",
    "trials.json",
    "not-finite.safetensors",
    "unknown.json",
    "unknown.safetensors",
    "masks.csv",
}
IMAGES = make_images()
SPLIT = Split(np.arange(0, 54), np.arange(54, 72), np.arange(72, 90), ("cut for the test",))
RECIPE = Recipe(
    images_seen=96,
    batch_size=8,
    lr=1e-3,
    precision="fp32",
    evaluations=3,
    crop="pad",
    label_smoothing=0.1,
    drop_path=0.1,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("regard.training.run.inference_speed", lambda model, size: (100.0, 10.0))


def fresh(name: str = "vit_nano_patch4_32", size: int = 16) -> LoadedModel:
    return fresh_model(name, CLASSES, size)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Run, LoadedModel, list[dict]]:
    events: list[dict] = []
    loaded = fresh()
    run = Run.create(tmp_path_factory.mktemp("runs") / "a")
    train_run(run, IMAGES, SPLIT, loaded, RECIPE, on_event=events.append, fraction=0.5)
    return run, loaded, events


def test_the_folder_holds_everything(trained):
    run, loaded, events = trained
    assert set(os.listdir(run.folder)) == set(FILES) - NOT_ALWAYS | {"last"}
    assert [row["step"] for row in run.metrics()] == [4, 8, 12]
    assert {"val/top1", "val/nll", "loss", "lr", "images", "seconds"} <= set(run.metrics()[0])
    assert run.config["recipe"]["steps"] == 12
    assert Recipe.from_config(run.config["recipe"]) == replace(RECIPE, steps=12, watch="top1")
    assert Preprocess.from_config(run.preprocess) == loaded.preprocess
    assert len([event for event in events if event["event"] == "step"]) == 12
    text = "".join(
        (run.folder / name).read_text(errors="replace") for name in ("environment.json", "config.yaml", "result.json")
    )
    assert str(run.folder.parent) not in text
    assert os.path.expanduser("~") not in text


def test_the_result(trained):
    run, loaded, _ = trained
    result = run.result()
    assert (result.model, result.method, result.fraction, result.seed) == (
        "vit_nano_patch4_32",
        "scratch",
        0.5,
        0,
    )
    assert (result.train_images, result.images_seen) == (54, 96)
    assert result.test.ids == tuple(IMAGES.ids[row] for row in SPLIT.test)
    assert np.array_equal(result.test.labels, IMAGES.labels[SPLIT.test])
    best = max(row["val/top1"] for row in result.curve)
    assert result.val.correct.mean() == best > 0.5
    cost = result.cost
    assert cost.parameters == cost.trainable_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert cost.gmacs is not None
    assert cost.train_flops == pytest.approx(6e9 * cost.gmacs * 96)
    assert cost.peak_memory_mb is not None and cost.peak_memory_mb > 50
    assert (loaded.temperature, loaded.unsure_below) == (result.temperature, result.unsure_below)


def test_the_run_loads_and_answers_the_same(trained):
    run, _, _ = trained
    again = load_model(run.folder)
    assert again.classes == CLASSES
    answers = again.predict([IMAGES.sources[row] for row in SPLIT.test])
    np.testing.assert_allclose(answers.logits, run.result().test.logits, atol=1e-5)
    assert again.temperature == run.result().temperature


@pytest.mark.parametrize(("name", "size"), [("vit_nano_patch4_32", 32), ("vit_tiny_patch16_224", 64), ("resnet18", 64)])
def test_timm_loads_the_run_with_no_other_argument(tmp_path, name, size):
    timm = pytest.importorskip("timm")
    images = make_images(24, size)
    split = Split(np.arange(0, 12), np.arange(12, 18), np.arange(18, 24), ())
    loaded = fresh(name, size)
    run = train_run(
        Run.create(tmp_path / "run"),
        images,
        split,
        loaded,
        replace(RECIPE, images_seen=8, batch_size=8, drop_path=0.0),
    )
    model = timm.create_model(f"local-dir:{run.folder}", pretrained=True).eval()
    pixels = torch.stack([loaded.preprocess(images.sources[row]) for row in split.test])
    with torch.no_grad():
        theirs = model(pixels).numpy()
    np.testing.assert_allclose(theirs, run.result().test.logits, atol=2e-5)
    assert model.pretrained_cfg["label_names"] == list(CLASSES)
    transform = timm.data.resolve_model_data_config(model)
    assert tuple(transform["input_size"]) == (3, size, size)
    assert tuple(transform["mean"]) == loaded.preprocess.mean


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.weights_path)


def test_the_seed_decides_and_the_caller_does_not(trained, tmp_path):
    first = weights_of(trained[0])
    torch.manual_seed(1234)
    same = train_run(Run.create(tmp_path / "b"), IMAGES, SPLIT, fresh(), RECIPE)
    assert all(torch.equal(first[name], value) for name, value in weights_of(same).items())
    other = train_run(Run.create(tmp_path / "c"), IMAGES, SPLIT, fresh(), replace(RECIPE, seed=1))
    assert not torch.equal(first["head.weight"], weights_of(other)["head.weight"])


@pytest.mark.parametrize("name", ["vit_nano_patch4_32", "resnet20_32"])
def test_a_terminated_run_continues_to_the_same_bits(tmp_path, name):
    recipe = replace(RECIPE, mixup=0.2, cutmix=1.0, randaugment=(2, 5.0), erasing=0.25, ema=0.9, accumulation=2)
    recipe = replace(recipe, deterministic=True, drop_path=0.1 if name.startswith("vit") else 0.0)
    whole = train_run(Run.create(tmp_path / "whole"), IMAGES, SPLIT, fresh(name), recipe)

    def stop_at(step: int):
        def listen(event: dict) -> None:
            if event["event"] == "step" and event["step"] == step:
                os.kill(os.getpid(), signal.SIGTERM)

        return listen

    cut = Run.create(tmp_path / "cut")
    for attempt, step in enumerate((2, 7)):
        with pytest.raises(Stopped) as stop:
            train_run(cut, IMAGES, SPLIT, fresh(name), recipe, on_event=stop_at(step), resume=attempt > 0)
        assert stop.value.code == 143
        assert not cut.finished
    resumed = train_run(Run.resume(cut.folder), IMAGES, SPLIT, fresh(name), recipe, resume=True)
    expected = weights_of(whole)
    assert all(torch.equal(expected[key], value) for key, value in weights_of(resumed).items())
    np.testing.assert_array_equal(whole.result().test.logits, resumed.result().test.logits)
    assert train_run(resumed, IMAGES, SPLIT, fresh(name), recipe, resume=True).finished


def test_resuming_with_other_arguments_names_them(tmp_path):
    run = Run.create(tmp_path / "run")

    def stop(event: dict) -> None:
        if event["event"] == "step":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) as stopped:
        train_run(run, IMAGES, SPLIT, fresh(), RECIPE, on_event=stop)
    assert stopped.value.code == 130
    with pytest.raises(RegardError, match=r"lr was 0\.001, is 0\.5"):
        train_run(run, IMAGES, SPLIT, fresh(), replace(RECIPE, lr=0.5), resume=True)
    with pytest.raises(RegardError, match=r"split differs"):
        train_run(run, IMAGES, replace(SPLIT, train=SPLIT.train[:-1]), fresh(), RECIPE, resume=True)


def test_minutes_become_steps_once(tmp_path, monkeypatch):
    monkeypatch.setattr("regard.training.fitting.measure_steps", lambda *args, **how: {"fp32": 1.0, "bf16": 0.5})
    recipe = replace(RECIPE, images_seen=None, minutes=0.1, precision="auto")
    run = train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, fresh(), recipe)
    # 6 s, less 3 evaluations of 18 images at a third of a step of 8: 1.125 s; at 0.5 s a step.
    assert run.config["recipe"]["steps"] == 9
    assert run.config["recipe"]["precision"] == "bf16"
    assert run.result().images_seen == 72


def test_a_head_by_sgd_leaves_the_rest_as_it_is(tmp_path):
    torch.manual_seed(0)
    loaded = fresh()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    recipe = replace(RECIPE, method="head", head="sgd", optimiser="sgd", lr=0.05, weight_decay=0.0)
    run = train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, loaded, recipe)
    after = weights_of(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    cost = run.result().cost
    assert cost.trainable_parameters == 3 * before["head.weight"].shape[1] + 3
    assert cost.gmacs is not None
    assert cost.train_flops == pytest.approx(2e9 * cost.gmacs * 96)


def test_a_solved_head(tmp_path):
    loaded = fresh()
    recipe = Recipe(method="head", head="linear", precision="fp32")
    run = train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, loaded, recipe, cache_dir=tmp_path / "cache")
    result = run.result()
    assert result.deterministic
    assert result.method == "head"
    assert result.images_seen == 108
    again = load_model(run.folder).predict([IMAGES.sources[row] for row in SPLIT.test])
    np.testing.assert_allclose(again.logits, result.test.logits, atol=1e-4)


def test_finetuning_starts_from_the_loaded_weights(tmp_path):
    torch.manual_seed(0)
    loaded = fresh()
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    recipe = replace(RECIPE, method="finetune", lr=1e-9, weight_decay=0.0, layer_decay=0.75, images_seen=16)
    run = train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, loaded, recipe)
    after = weights_of(run)
    torch.testing.assert_close(after["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"], atol=1e-7, rtol=0)
    assert not torch.allclose(after["head.weight"], before["head.weight"])


def test_a_module_of_the_users(tmp_path):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    loaded = load_model(module, preprocess=Preprocess(16), classes=CLASSES)
    run = train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, loaded, RECIPE)
    assert run.result().test.logits.shape == (18, 3)
    assert not (run.folder / "config.json").exists()


def test_other_classes_are_refused(tmp_path):
    loaded = fresh_model("vit_nano_patch4_32", ("cat", "dog"), 16)
    with pytest.raises(RegardError, match=r"2 classes \(cat, dog\).*3 classes \(blue, green, red\)"):
        train_run(Run.create(tmp_path / "run"), IMAGES, SPLIT, loaded, RECIPE)


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_an_empty_part_is_refused(tmp_path, name):
    empty = replace(SPLIT, **{name: np.array([], dtype=np.int64)})
    with pytest.raises(RegardError, match=f"no {name} images"):
        train_run(Run.create(tmp_path / "run"), IMAGES, empty, fresh(), RECIPE)


def test_a_batch_that_is_not_finite_is_named(tmp_path):
    loaded = fresh()
    broken = Preprocess(16, mean=(float("nan"), 0.5, 0.5), std=(0.5, 0.5, 0.5))
    run = Run.create(tmp_path / "run")
    with pytest.raises(RegardError, match=r"step 1: the loss is nan.*made/\d{4}, .* and 8 more"):
        train_run(run, IMAGES, SPLIT, replace(loaded, preprocess=broken), replace(RECIPE, batch_size=16))
    assert not run.finished


@pytest.mark.parametrize("limit", [3_000, 100_000])
def test_a_full_disk_at_the_end_is_one_line_and_the_run_continues(tmp_path, limit):
    import resource

    run = Run.create(tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RegardError, match=r"cannot be written .*--resume"):
            train_run(run, IMAGES, SPLIT, fresh(), RECIPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert not run.finished
    assert not (run.folder / "model.safetensors").exists()
    assert train_run(Run.resume(run.folder), IMAGES, SPLIT, fresh(), RECIPE, resume=True).finished
    assert not [name for name in os.listdir(run.folder) if name.startswith(".")]
    assert json.loads((run.folder / "result.json").read_text())["steps"] == 12
