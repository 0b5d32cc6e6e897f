"""A model of another task is refused in one line, which names the task and what takes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import regard
from regard.errors import RegardError
from regard.inference.loaded import IN_PYTHON
from regard.models import list_models, model_spec

OTHERS = {model_spec(name).task: name for name in list_models() if model_spec(name).task != "classify"}
CLIP = "clip_vit_base_patch32"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 12 images of 16 pixels."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("red", "blue"):
        (root / name).mkdir()
        for number in range(12):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


def test_every_task_is_told_where_its_models_go() -> None:
    assert OTHERS.keys() <= IN_PYTHON.keys() and {"segment", "image-text", "seq2seq"} <= OTHERS.keys()


@pytest.mark.parametrize("task", OTHERS)
def test_a_model_that_does_not_classify_is_refused(task: str) -> None:
    for make in (regard.load_model, lambda name: regard.inference.fresh_model(name, ("a", "b"))):
        with pytest.raises(RegardError) as refused:
            make(OTHERS[task])
        line = str(refused.value)
        assert line.startswith(f"{OTHERS[task]}: its task is {task!r}, and here images are classified")
        assert line.endswith(IN_PYTHON[task]) and "\n" not in line  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "call",
    [
        lambda photos, out: regard.train(photos, model=CLIP, method="scratch", out=out),
        lambda photos, out: regard.train(photos, model=CLIP, method="head", out=out),
        lambda photos, out: regard.compare(photos, models=("resnet20_32", CLIP), methods=("scratch",), out=out),
        lambda photos, out: regard.evaluate(CLIP, photos),
        lambda photos, out: regard.predict(CLIP, [photos]),
        lambda photos, out: regard.embed(CLIP, [photos]),
    ],
    ids=["train", "train-head", "compare", "evaluate", "predict", "embed"],
)
def test_every_verb_refuses_it_before_anything_is_written(
    call: Callable[[Path, Path], object], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(RegardError, match=rf"{CLIP}: its task is 'image-text', and here images are classified"):
        call(photos, tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
