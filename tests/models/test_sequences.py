"""What every model of the task "seq2seq" must do; a new one gets these tests by being registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.models import create_model, list_models, model_spec
from regard.models.sequences import Vocabulary, select
from regard.taps import Tap, record

WORDS = 17
NAMES = [name for name in list_models() if model_spec(name).task == "seq2seq"]
SMALL = [name for name in NAMES if name.endswith("_tiny")] + ["transformer_tiny+variant=marian"]


@pytest.fixture(params=SMALL)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return create_model(request.param, WORDS).eval()


def sentences(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Sources of 7, 4 and 1 words, targets of 5."""
    torch.manual_seed(1)
    source, target = torch.randint(3, WORDS - 1, (3, 7)), torch.randint(3, WORDS - 1, (3, 5))
    source[1, 4:] = model.pad  # pyright: ignore[reportArgumentType]
    source[2, 1:] = model.pad  # pyright: ignore[reportArgumentType]
    return source, target


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max())


@torch.no_grad()
def test_scores_have_a_row_per_word(model: nn.Module) -> None:
    scores = model(*sentences(model))
    assert scores.shape == (3, 5, WORDS) and scores.isfinite().all()
    assert torch.equal(model(*sentences(model)), scores)


@torch.no_grad()
def test_word_by_word_is_the_same_as_all_at_once(model: nn.Module) -> None:
    source, target = sentences(model)
    scores, state = model(source, target), model.start(model.encode(source))
    for place in range(5):
        row, state = model.step(state, target[:, place])
        assert close(row, scores[:, place])


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model: nn.Module) -> None:
    source, target = sentences(model)
    scores = model(source, target)
    for row, length in enumerate((7, 4, 1)):
        assert close(model(source[row : row + 1, :length], target[row : row + 1]), scores[row : row + 1])


@torch.no_grad()
def test_a_word_does_not_know_those_behind_it_and_knows_all_before_it_and_the_source(model: nn.Module) -> None:
    source, target = sentences(model)
    scores = model(source, target)
    for place in range(5):
        changed = target.clone()
        changed[:, place] = 3 + (changed[:, place] - 2) % (WORDS - 4)
        difference = (model(source, changed) - scores).abs().amax((0, 2))
        assert (difference[:place] < 1e-6).all() and (difference[place:] > 1e-4).all()
    changed = source.clone()
    changed[:, 0] = 3 + (changed[:, 0] - 2) % (WORDS - 4)
    assert ((model(changed, target) - scores).abs().amax(2) > 1e-4).all()


@torch.no_grad()
def test_rows_of_a_state_go_on_as_they_would(model: nn.Module) -> None:
    source, target = sentences(model)
    _, state = model.step(model.start(model.encode(source)), target[:, 0])
    rows = torch.tensor([2, 0, 0])
    chosen, _ = model.step(select(state, rows), target[rows, 1])
    expected, _ = model.step(state, target[:, 1])
    assert close(chosen, expected[rows])


def test_backward_reaches_every_parameter(model: nn.Module) -> None:
    source, target = sentences(model)
    model.train()(source, target).logsumexp(2).sum().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


@torch.no_grad()
def test_listening_to_every_tap_changes_nothing(model: nn.Module) -> None:
    source, target = sentences(model)
    taps = {name for name, module in model.named_modules() if isinstance(module, Tap)}
    plain = model(source, target)
    with record(model, "**") as seen:
        listened = model(source, target)
    assert close(listened, plain) and torch.equal(model(source, target), plain)
    assert taps and taps <= seen.keys()


def test_what_is_said_of_images_is_refused() -> None:
    for name in NAMES:
        with pytest.raises(RegardError, match="img_size=224: the model reads words"):
            create_model(name, WORDS, img_size=224)
    with pytest.raises(RegardError, match=r"drop_path_rate=0\.1: the model has no stochastic depth"):
        create_model("gru_tiny", WORDS, drop_path_rate=0.1)
    with pytest.raises(RegardError, match="num_classes=0: expected the words of the vocabulary"):
        create_model("transformer_tiny", 0)


def test_a_vocabulary_numbers_words_from_three_on() -> None:
    words = Vocabulary(["a", "b", "c"])
    assert len(words) == 6
    assert words.encode([["b"], ["a", "c", "c"], []]).tolist() == [[4, 2, 0, 0], [3, 5, 5, 2], [2, 0, 0, 0]]
    assert words.decode([5, 3]) == ["c", "a"]
    with pytest.raises(RegardError, match=r"'d': is no word of the vocabulary \(a, b, c"):
        words.encode([["a", "d"]])
    with pytest.raises(RegardError, match="b: is in the vocabulary twice"):
        Vocabulary(["a", "b", "b"])
