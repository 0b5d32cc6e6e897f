"""Learning from a teacher: the losses by formula, what the teacher sees, which answers are kept, and resuming."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_run import IMAGES, RECIPE, SPLIT, fresh
from torch import Tensor, nn

from regard.data.loader import Batches
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.loaded import LoadedModel
from regard.models import Heads, count_gmacs
from regard.runs.run import Run
from regard.training.distillation import (
    TaughtBatch,
    TaughtBatches,
    Teacher,
    hard_loss,
    recurring_views,
    soft_loss,
    teach,
    teacher_view,
)
from regard.training.loop import Plan
from regard.training.recipe import Recipe
from regard.training.run import train_run
from regard.training.tasks import task_for
from regard.training.trainee import prepare, training_batches
from regard.training.trials import choose_lr

CENTRE = replace(RECIPE, crop="centre", flip=False, drop_path=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("regard.training.run.inference_speed", lambda model, size: (100.0, 10.0))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """A CNN of another size and normalisation, its classes in another order; untrained answers do as well."""
    torch.manual_seed(1)
    loaded = fresh("resnet20_32", 16)
    for module in loaded.model.modules():
        if isinstance(module, nn.BatchNorm2d):  # so that its answers depend on the image
            module.running_var.fill_(0.5)
    loaded.preprocess = replace(loaded.preprocess, size=20, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    loaded.classes = ("red", "blue", "green")
    return Teacher(loaded)


def logits(seed: int, rows: int = 7, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, classes))


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


# losses


@pytest.mark.parametrize("tau", [1.0, 3.0, 20.0])
def test_the_soft_loss_is_the_divergence_from_teacher_to_student(tau: float) -> None:
    student, teacher = logits(0), logits(1)
    q, p = softmax(teacher / tau), softmax(student / tau)
    by_hand = tau**2 * (q * (np.log(q) - np.log(p))).sum() / len(q)
    found = soft_loss(torch.from_numpy(student), torch.from_numpy(teacher), tau)
    assert found.item() == pytest.approx(by_hand, rel=1e-12)
    by_torch = nn.functional.kl_div(
        torch.log_softmax(torch.from_numpy(student) / tau, 1),
        torch.softmax(torch.from_numpy(teacher) / tau, 1),
        reduction="batchmean",
    )
    assert found.item() == pytest.approx(tau**2 * by_torch.item(), rel=1e-12)
    # DeiT's code sums over images and classes and divides by both.
    deit = (np.exp(np.log(q)) * (np.log(q) - np.log(p))).sum() * tau**2 / q.size
    assert found.item() == pytest.approx(deit * q.shape[1], rel=1e-12)


def test_the_hard_loss_is_the_surprise_about_the_teachers_class() -> None:
    student, teacher = logits(0), logits(1)
    p = softmax(student)
    by_hand = -np.mean([np.log(p[row, teacher[row].argmax()]) for row in range(len(p))])
    assert hard_loss(torch.from_numpy(student), torch.from_numpy(teacher)).item() == pytest.approx(by_hand, rel=1e-12)


class Made(nn.Module):
    """Gives the logits that it holds: heads in training where it has several."""

    HEAD, OTHER_HEADS = "head", ("aux", "head_dist")

    def __init__(self, given: tuple[Tensor, ...], distillation: str | None) -> None:
        super().__init__()
        self.given = nn.ParameterList(given)
        self.DISTILLATION_HEAD = distillation

    def forward(self, images: Tensor) -> Tensor | Heads:
        main, *others = self.given
        return Heads(main, tuple(others)) if others else main


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("heads", [1, 3])
def test_each_head_learns_its_share(teacher: Teacher, kind, heads: int) -> None:
    """One head learns both terms; with a distillation head the main one learns labels, and auxiliary ones both."""
    alpha, tau, weight = 0.3, 2.0, 0.4
    taught = Teacher(teacher.loaded, kind, alpha, tau)
    given = [torch.from_numpy(logits(seed, 8, 3)).float() for seed in range(heads)]
    model = Made(tuple(given), "head_dist" if heads > 1 else None)
    loaded = replace(fresh(), model=model, head="head", spec=None)
    trainee = replace(prepare(fresh(), CENTRE, task_for(IMAGES, SPLIT.train, CENTRE)), module=model)
    trainee = replace(trainee, others_weight=weight)
    batches = training_batches(IMAGES, SPLIT.train, fresh(), RECIPE)  # crops vary: nothing is kept
    student, stream = teach(taught, trainee, loaded, IMAGES, batches, RECIPE, Path("unused"), lambda event: None)
    assert stream is batches and student.kept == 0
    batch = next(stream.from_step(0))
    p = [softmax(one.double().numpy()) for one in given]
    labels = batch.targets.double().numpy()
    said = taught.answers(batch.images, loaded.preprocess, loaded.classes).double().numpy()
    by_labels = [-(labels * np.log(one)).sum(axis=1).mean() for one in p]
    if kind == "hard":
        by_teacher = [-np.log(one[np.arange(8), said.argmax(axis=1)]).mean() for one in p]
    else:
        q, soft = softmax(said / tau), [softmax(one.double().numpy() / tau) for one in given]
        by_teacher = [tau**2 * (q * np.log(q / one)).sum(axis=1).mean() for one in soft]
    last = 0 if heads == 1 else 2
    expected = (1 - alpha) * by_labels[0] + alpha * by_teacher[last]
    if heads > 1:
        expected += weight * ((1 - alpha) * by_labels[1] + alpha * by_teacher[1])
    assert student.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)
    parts = [student.loss(Made(tuple(one[places] for one in given), model.DISTILLATION_HEAD), batch[places]).item()
             for places in (np.arange(4), np.arange(4, 8))]  # fmt: skip
    assert np.mean(parts) == pytest.approx(expected, rel=1e-5)  # a batch may pass in parts


# what the teacher sees


def test_the_teacher_sees_the_same_picture_in_its_own_normalisation_and_size() -> None:
    student = Preprocess(16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    teacher = Preprocess(16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    pixels = torch.from_numpy(np.stack(IMAGES.sources[:4])).permute(0, 3, 1, 2)
    seen = teacher_view(student.normalise(pixels), student, teacher)
    torch.testing.assert_close(seen, teacher.normalise(pixels), rtol=0, atol=1e-5)
    larger = teacher_view(student.normalise(pixels), student, replace(teacher, size=40))
    wanted = nn.functional.interpolate(teacher.normalise(pixels), (40, 40), mode="bicubic", antialias=True)
    torch.testing.assert_close(larger, wanted, rtol=0, atol=1e-5)
    same = student.normalise(pixels)
    assert teacher_view(same, student, student) is same


def test_answers_come_in_the_students_order_without_a_gradient(teacher: Teacher) -> None:
    images = torch.rand(3, 3, 16, 16)
    student = fresh()
    found = teacher.answers(images, student.preprocess, student.classes)
    own = teacher.loaded.model(teacher_view(images, student.preprocess, teacher.loaded.preprocess))
    assert torch.equal(found, own[:, [1, 2, 0]].detach()) and not found.requires_grad  # blue, green, red


# which answers are kept


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({}, (False,)),
        ({"flip": True}, (False, True)),
        ({"crop": "pad"}, ()),
        ({"crop": "resized"}, ()),
        ({"randaugment": (1, 5.0)}, ()),
        ({"erasing": 0.5}, ()),
        ({"mixup": 0.2}, ()),
        ({"cutmix": 1.0}, ()),
        ({"label_smoothing": 0.0}, (False,)),
    ],
)
def test_only_pictures_that_come_again(changes: dict, views: tuple[bool, ...]) -> None:
    batches = training_batches(IMAGES, SPLIT.train, fresh(), replace(CENTRE, **changes))
    assert recurring_views(batches) == views


@pytest.mark.parametrize("flip", [False, True])
def test_kept_answers_are_those_of_each_picture(teacher: Teacher, tmp_path: Path, flip: bool) -> None:
    recipe, student, told = replace(CENTRE, flip=flip, images_seen=400), fresh(), []
    trainee = prepare(student, recipe, task_for(IMAGES, SPLIT.train, recipe))

    def learn() -> tuple:
        batches = training_batches(IMAGES, SPLIT.train, student, recipe)
        return teach(teacher, trainee, student, IMAGES, batches, recipe, tmp_path, told.append)

    taught, batches = learn()
    assert isinstance(batches, TaughtBatches) and taught.kept == 54 * (2 if flip else 1)
    stream = batches.from_step(0)
    for _ in range(14):  # two epochs
        batch = next(stream)
        assert isinstance(batch, TaughtBatch)
        wanted = teacher.answers(batch.images, student.preprocess, student.classes)
        torch.testing.assert_close(batch.answers, wanted, rtol=0, atol=1e-4)
        part = batch[np.array([5, 2])]
        assert isinstance(part, TaughtBatch) and torch.equal(part.answers, batch.answers[[5, 2]])
    (path,) = tmp_path.glob("teacher-*.safetensors")
    assert any("which recur" in event.get("text", "") for event in told)
    events, made = len(told), path.stat().st_mtime_ns
    _, again = learn()
    assert torch.equal(again.answers, batches.answers) and len(told) == events  # found, not computed
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))  # damaged
    _, again = learn()
    assert torch.equal(again.answers, batches.answers) and path.stat().st_mtime_ns != made


def test_answering_at_every_step_where_that_costs_less(teacher: Teacher, tmp_path: Path) -> None:
    student, recipe = fresh(), replace(CENTRE, images_seen=48)  # fewer than the training images
    trainee = prepare(student, recipe, task_for(IMAGES, SPLIT.train, recipe))
    batches = training_batches(IMAGES, SPLIT.train, student, recipe)
    taught, stream = teach(teacher, trainee, student, IMAGES, batches, recipe, tmp_path, lambda event: None)
    assert isinstance(stream, Batches) and not isinstance(stream, TaughtBatches)
    assert taught.kept == 0 and not list(tmp_path.iterdir())
    assert taught.further_flops(1000) == pytest.approx(1000 * taught.further_flops(1))
    assert taught.further_flops(1) > 0


# runs


def learned(folder: Path, teacher: Teacher, recipe: Recipe, resume: bool = False, listen=None, **how) -> Run:
    run = Run.resume(folder) if resume else Run.create(folder)
    return train_run(
        run, IMAGES, SPLIT, fresh(), recipe, listen, resume, teacher=teacher, cache_dir=folder.parent / "cache", **how
    )


class Killed(Exception):
    """Ends a training between two steps."""


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, mixup=0.5, cutmix=1.0, randaugment=(1, 5.0), ema=0.9),
        replace(CENTRE, flip=True, images_seen=128),
    ],
    ids=["answered at every step", "kept answers"],
)
def test_a_killed_run_resumes_to_the_same_bits(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    whole = learned(tmp_path / "whole", teacher, recipe)

    def kill(event: dict) -> None:
        if event["event"] == "step" and event["step"] == 7:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:  # states after every step
        patch.setattr("regard.training.recipe.Plan", partial(Plan, save_every=0.0))
        with pytest.raises(Killed):
            learned(tmp_path / "broken", teacher, recipe, listen=kill)
    broken = learned(tmp_path / "broken", teacher, recipe, resume=True)
    assert broken.weights_path.read_bytes() == whole.weights_path.read_bytes()
    rows = [[{**row, "seconds": 0} for row in run.metrics()] for run in (whole, broken)]
    assert rows[0] == rows[1]
    np.testing.assert_array_equal(whole.result().test.logits, broken.result().test.logits)


def test_the_run_says_who_taught_and_what_it_cost(teacher: Teacher, tmp_path: Path) -> None:
    soft = replace(teacher, kind="soft", alpha=0.2, tau=4.0)
    run = learned(tmp_path / "run", soft, RECIPE)
    alone = train_run(Run.create(tmp_path / "alone"), IMAGES, SPLIT, fresh(), RECIPE)
    told = run.config["distillation"]
    assert (told["kind"], told["alpha"], told["tau"], told["teacher"]) == ("soft", 0.2, 4.0, "resnet20_32")
    assert "distillation" not in alone.config
    costs = [one.result().cost.train_flops or 0.0 for one in (run, alone)]
    assert costs[0] - costs[1] == pytest.approx(96 * 2e9 * count_gmacs(teacher.loaded.model, 20))
    weights = [one.weights_path.read_bytes() for one in (run, alone)]
    assert weights[0] != weights[1]


def test_resuming_with_another_teacher_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    def kill(event: dict) -> None:
        if event["event"] == "step":
            raise Killed

    with pytest.raises(Killed):
        learned(tmp_path / "run", teacher, RECIPE, listen=kill)
    for other in (replace(teacher, alpha=0.4), Teacher(fresh("resnet20_32", 16)), None):
        with pytest.raises(RegardError, match="the teacher, or how it teaches, was another"):
            learned(tmp_path / "run", other, RECIPE, resume=True)  # pyright: ignore[reportArgumentType]


def test_learning_rates_are_tried_with_the_teacher(teacher: Teacher, tmp_path: Path) -> None:
    seen: list[int] = []
    spy = replace(teacher)
    object.__setattr__(
        spy, "loss", lambda student, answers: seen.append(len(student)) or teacher.loss(student, answers)
    )
    choose_lr(IMAGES, SPLIT, fresh, RECIPE, 1, tmp_path, lambda event: None, spy)
    assert sum(seen) == 32  # a third of 96 images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "warm"}, "--kind warm: expected hard or soft"),
        ({"alpha": 0.0}, "--alpha 0: expected a share above 0"),
        ({"alpha": 1.5}, "--alpha 1.5"),
        ({"tau": 0.0}, "--tau 0: expected a temperature"),
    ],
)
def test_what_cannot_be_meant_is_refused(teacher: Teacher, changes: dict, message: str) -> None:
    with pytest.raises(RegardError, match=message):
        replace(teacher, **changes)


def test_a_teacher_of_other_classes_or_for_a_frozen_model_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    other = LoadedModel(**{**vars(teacher.loaded), "classes": ("cat", "dog", "cow")})
    with pytest.raises(RegardError, match="not those of the student; fit its head"):
        learned(tmp_path / "a", Teacher(other), RECIPE)
    with pytest.raises(RegardError, match="--method head: a teacher cannot teach a frozen model"):
        learned(tmp_path / "b", teacher, replace(RECIPE, method="head"))
