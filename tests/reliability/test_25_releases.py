"""Row 25: the frozen checkpoint of every release loads, answers the same and goes on (`freeze.py` makes them)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import freeze
import numpy as np
import pytest
from figures import record

import regard
from regard.data.splits import read_split
from regard.inference.loaded import load_model
from regard.models import registry
from regard.runs.run import Run
from regard.training.run import train_run

FROZEN = sorted(folder for folder in freeze.RELEASES.iterdir() if folder.is_dir())


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_SPECS", dict(registry._SPECS))
        freeze.register()
        yield


@pytest.mark.parametrize("release", FROZEN, ids=lambda folder: folder.name)
def test_a_finished_run_loads_and_answers_the_same(release: Path) -> None:
    loaded = load_model(release / "finished")
    assert loaded.messages == []
    images = freeze.digits()
    expected = np.array(json.loads((release / "answers.json").read_text()))
    answers = loaded.predict([images.sources[row] for row in range(freeze.ANSWERED)])
    assert answers.logits == pytest.approx(expected, abs=1e-5)
    result = Run.open(release / "finished").result()
    assert len(result.test) == 10 and result.problem == "single_label"
    stored = dict(zip(result.test.ids, result.test.logits, strict=True))
    again = load_model(release / "finished").predict([images.sources[images.ids.index(id_)] for id_ in stored])
    assert again.logits == pytest.approx(np.stack(list(stored.values())), abs=1e-5)


@pytest.mark.parametrize("release", FROZEN, ids=lambda folder: folder.name)
def test_an_interrupted_run_goes_on_to_the_same_end(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release / "interrupted", tmp_path / "run")
    images, run = freeze.digits(), Run.resume(tmp_path / "run")
    split = read_split(run.split_path, images)
    said: list[str] = []

    def note(event: dict) -> None:
        said.append(str(event.get("text", "")))

    train_run(run, images, split, freeze.fresh(images), freeze.RECIPE, resume=True, on_event=note)
    frozen, resumed = Run.open(release / "finished").result(), run.result()
    assert [row["step"] for row in resumed.curve] == [row["step"] for row in frozen.curve]
    for row, expected in zip(resumed.curve, frozen.curve, strict=True):
        assert (row["loss"], row["val/nll"]) == pytest.approx((expected["loss"], expected["val/nll"]), abs=1e-5)
    assert resumed.test.logits == pytest.approx(frozen.test.logits, abs=1e-4)


@pytest.mark.parametrize("release", FROZEN, ids=lambda folder: folder.name)
def test_a_finished_run_can_be_done_again(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release / "finished", tmp_path / "run")
    frozen = Run.open(tmp_path / "run")
    found = regard.reproduce(tmp_path / "run", data="digits")
    assert found.outcome in ("same", "within noise"), found
    assert Run.open(found.out).result().test.logits == pytest.approx(frozen.result().test.logits, abs=1e-4)
    count = len(FROZEN)
    record(25, "frozen checkpoints of releases: load, answer, resume, done again", count, f"{count} of {count}")
