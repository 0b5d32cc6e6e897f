from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from regard.inference.generation import greedy

EXAMPLE = Path(__file__).parents[2] / "examples" / "captions.py"


@pytest.fixture(scope="module")
def captions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("captions", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["captions"] = module
    spec.loader.exec_module(module)
    return module


def test_canvases_show_the_digits_of_their_caption_from_left_to_right(captions: ModuleType) -> None:
    images = np.stack([np.full((8, 8), (label + 1) / 16) for label in range(10)])  # each digit is its own grey
    canvases, said = captions.draw(images, np.arange(10), 200, np.random.default_rng(0))
    assert canvases.shape == (200, 3, 32, 32) and canvases.min() == -1 and canvases.max() <= 1
    assert {len(caption) for caption in said} == {1, 2, 3, 4}
    for canvas, caption in zip(canvases[:, 0], said, strict=True):
        columns = ((canvas.amax(0) + 1) * 8).round().int().tolist()  # 0 where empty, label + 1 where a digit is
        assert sum(column > 0 for column in columns) == 8 * len(caption)
        shown = [captions.NAMES[column - 1] for column, _ in itertools.groupby(filter(None, columns))]
        assert shown == [name for name, _ in itertools.groupby(caption)]  # twins may touch


def test_digits_of_the_test_are_not_trained_on(captions: ModuleType) -> None:
    train, test = captions.digits()
    assert len(train[0]) == 1400 and len(test[0]) == 397 and test[0].max() == 1
    assert not {image.tobytes() for image in train[0]} & {image.tobytes() for image in test[0]}


@torch.no_grad()
def test_the_captioner_writes_word_by_word_what_it_scores_at_once(captions: ModuleType) -> None:
    torch.manual_seed(0)
    model = captions.Captioner(13).eval()
    images, target = torch.randn(2, 3, 32, 32), torch.tensor([[1, 5, 6], [1, 7, 3]])
    scores, state = model(images, target), model.start(model.encode(images))
    for place in range(3):
        row, state = model.step(state, target[:, place])
        torch.testing.assert_close(row, scores[:, place], atol=1e-5, rtol=1e-5)
    assert len(greedy(model, images, most=5)) == 2


def test_it_runs_and_prints(captions: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 <= captions.main(steps=3, batch_size=4, tested=20) <= 1
    out = capsys.readouterr().out
    assert "captions exactly right: " in out and "with a beam of 4: " in out


@pytest.mark.long
def test_most_captions_are_exactly_right(captions: ModuleType) -> None:
    assert captions.main() > 0.75
