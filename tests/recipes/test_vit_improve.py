"""Each improvement is added to those before it, and the table holds what the run folders hold."""

from __future__ import annotations

import importlib.util
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regard
from regard.comparison import estimate
from regard.evaluation.statistics import verdict
from regard.training import run as run_module
from regard.training.cost import inference_speed

RECIPE = Path(__file__).parents[2] / "recipes" / "vit_improve.py"
MODEL = "vit_nano_patch4_32"
STEPS = ("plain", "weight decay", "stochastic depth", "dropout", "RandAugment", "MixUp", "distillation")


def load_recipe():
    spec = importlib.util.spec_from_file_location("vit_improve", RECIPE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Noise, a little brighter in one class; an image takes 3 s to train on by any measure."""
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *given: dict.fromkeys(given[-1], 3.0))
    monkeypatch.setattr(run_module, "inference_speed", partial(inference_speed, seconds=0.01))
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for name, low in (("dark", 0), ("bright", 16)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 240, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_steps_add_up_and_the_table_holds_the_runs(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = load_recipe(), tmp_path / "improve"
    text = recipe.main(photos, out, model=MODEL, images_seen=16, seeds=2).read_text("utf-8")
    printed = capsys.readouterr().out
    # A seed: 8 runs of 16 images and 4 evaluations of 5 at 0.4 of a step; the teacher answers in a third of one.
    assert text in printed and "expected: 16 runs, 20 min" in printed
    runs = {
        step: [regard.Run.open(out / "runs" / f"{step.replace(' ', '-')}-seed{seed}") for seed in range(2)]
        for step in (*STEPS, "teacher")
    }
    assert {run.result().model for step in STEPS for run in runs[step]} == {MODEL}
    assert runs["teacher"][0].result().model == "resnet20_32"
    fields = [runs[step][0].config["recipe"] for step in STEPS]
    changed = [{name for name in after if after[name] != before[name]} for before, after in pairwise(fields)]
    assert changed == [
        {"weight_decay"},
        {"drop_path"},
        {"dropout"},
        {"randaugment"},
        {"mixup", "mixing_probability"},
        set(),
    ]
    off = ("weight_decay", "drop_path", "dropout", "mixup", "cutmix", "erasing", "label_smoothing")
    assert [fields[0][name] for name in off] == [0.0] * len(off) and fields[0]["randaugment"] is None
    for seed in range(2):
        assert "distillation" not in runs["MixUp"][seed].config
        source = runs["distillation"][seed].config["distillation"]["source"]
        assert f"teacher-seed{seed}" in str(source)

    rows = {
        cells[0]: cells for cells in (line.strip("| ").split(" | ") for line in text.splitlines()) if len(cells) > 1
    }
    answers = {step: np.stack([run.result().test.correct for run in runs[step]]) for step in runs}
    for step, correct in answers.items():
        assert rows[step][2].startswith(f"{100 * correct.mean():.1f}%")
    for number, step in enumerate(STEPS[1:], 1):
        for column, other in ((3, STEPS[number - 1]), (4, "plain")):
            found = verdict(step, other, answers[step], answers[other])
            interval = f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f}), "
            assert rows[step][column].startswith(interval)

    marks = {run.folder: (run.folder / "result.json").stat().st_mtime_ns for step in runs for run in runs[step]}
    again = recipe.main(photos, out, model=MODEL, images_seen=16, seeds=2, resume=True)
    assert again.read_text("utf-8") == text
    assert marks == {folder: (folder / "result.json").stat().st_mtime_ns for folder in marks}
    with pytest.raises(regard.RegardError, match="images_seen was 16, is 32"):
        recipe.main(photos, out, model=MODEL, images_seen=32, seeds=2, resume=True)
    with pytest.raises(SystemExit, match="go on with --resume"):
        recipe.main(photos, out, model=MODEL, images_seen=16, seeds=2)


def test_outcomes_corrected_by_holm_are_named_from_the_later_step() -> None:
    recipe, rng = load_recipe(), np.random.default_rng(0)
    worse = verdict("b", "a", rng.random((3, 400)) < 0.3, rng.random((3, 400)) < 0.9)
    assert recipe.difference(worse).endswith(", worse")
    assert recipe.difference(verdict("b", "a", np.ones((3, 400)), np.ones((3, 400)))).endswith(", equivalent")
    one = verdict("b", "a", rng.random((1, 400)) < 0.9, rng.random((1, 400)) < 0.3)
    assert recipe.difference(one).endswith("one seed: no verdict")
