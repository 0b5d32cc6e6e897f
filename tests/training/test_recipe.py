from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest

from regard.errors import RegardError
from regard.training.recipe import Recipe, recipe_for, warnings


@dataclass(frozen=True)
class Spec:
    patch_size: int | None = None
    sgd_lr: float = 0.0


VIT, CNN, UNNORMALISED = Spec(16), Spec(sgd_lr=0.1), Spec(sgd_lr=0.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("epochs", 0),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("accumulation", 3),
        ("warmup", 1.5),
        ("layer_decay", 0.0),
        ("drop_path", 1.0),
        ("mixing_probability", 1.1),
        ("randaugment", (0, 5)),
        ("randaugment", (2, 11)),
        ("randaugment", (2,)),
        ("optimiser", "adam"),
        ("method", "transfer"),
        ("crop", "center"),
        ("precision", "fp16"),
        ("patience", 0),
        ("seed", -1),
        ("ema", True),
    ],
)
def test_a_bad_value_is_named_by_its_flag(field, value):
    with pytest.raises(RegardError, match="--" + field.replace("_", "-")):
        Recipe(**{field: value})


def test_one_budget_only():
    with pytest.raises(RegardError, match="--epochs, --minutes, --images-seen"):
        Recipe(epochs=3, minutes=2)
    recipe = Recipe(epochs=3, steps=7).with_overrides({"images_seen": 500})
    assert (recipe.epochs, recipe.steps, recipe.images_seen) == (None, None, 500)
    with pytest.raises(RegardError, match="not with --deterministic"):
        Recipe(minutes=2, deterministic=True)


def test_unknown_fields_fail_with_the_nearest():
    with pytest.raises(RegardError, match="did you mean 'weight_decay'"):
        Recipe.from_config({"weight_deacy": 0.1})
    with pytest.raises(RegardError, match="unknown field 'colour'"):
        Recipe().with_overrides({"colour": 1})


@pytest.mark.parametrize("spec", [VIT, CNN, UNNORMALISED])
@pytest.mark.parametrize("method", ["scratch", "finetune", "head"])
@pytest.mark.parametrize("n_train", [1, 50, 1_000, 50_000, 2_000_000])
@pytest.mark.parametrize("img_size", [16, 32, 128, 224])
def test_defaults_are_valid_quiet_and_survive_yaml(spec, method, n_train, img_size):
    import yaml

    recipe = recipe_for(spec, method, n_train, img_size)
    assert recipe.method == method
    assert Recipe.from_config(yaml.safe_load(yaml.safe_dump(recipe.to_config()))) == recipe
    quiet = Spec(img_size // 4 if spec.patch_size else None)
    assert not [line for line in warnings(recipe, quiet, img_size) if not line.startswith("--batch-size")]
    budget = recipe_for(spec, method, n_train, img_size, images_seen=20_000)
    assert (budget.images_seen, budget.epochs) == (20_000, None)


def test_families_and_sizes_differ_as_they_should():
    vit, cnn = recipe_for(VIT, "scratch", 1000, 224), recipe_for(CNN, "scratch", 1000, 224)
    assert (vit.optimiser, cnn.optimiser) == ("adamw", "sgd")
    assert recipe_for(VIT, "finetune", 1000, 224).lr < vit.lr
    assert recipe_for(CNN, "finetune", 1000, 224).lr < cnn.lr
    for method in ("scratch", "finetune"):  # a network without batch normalisation bears a tenth
        assert recipe_for(UNNORMALISED, method, 1000, 224).lr == pytest.approx(
            recipe_for(CNN, method, 1000, 224).lr / 10, rel=0.1
        )
    assert recipe_for(VIT, "finetune", 1000, 224).layer_decay < 1
    assert recipe_for(VIT, "scratch", 1000, 32).crop == "pad"
    assert recipe_for(VIT, "scratch", 1000, 224).crop == "resized"
    few, many = (
        recipe_for(VIT, "scratch", 300, 224, 100_000),
        recipe_for(VIT, "scratch", 50_000, 224, 100_000),
    )
    assert few.mixup > many.mixup == 0
    assert few.randaugment is not None
    assert many.randaugment is None
    assert few.batch_size == many.batch_size  # equal steps for every fraction of a comparison


def test_minutes_are_steps_and_the_evaluations_that_fit():
    recipe = Recipe(minutes=2.0, evaluations=10)
    assert (recipe.timed(0.1, 2.0).steps, recipe.timed(0.1, 2.0).evaluations) == (1000, 10)
    few = recipe.timed(0.1, 10.0)  # ten would take 100 of the 120 seconds: two take a sixth
    assert (few.steps, few.evaluations) == (1000, 2)
    assert (recipe.timed(0.1, 50.0).steps, recipe.timed(0.1, 50.0).evaluations) == (700, 1)
    assert recipe.timed(1000.0, 0.0).steps == 1


def test_what_was_measured_is_not_compared_with_what_is_given():
    given = Recipe(minutes=2.0, evaluations=10)
    begun = replace(given.timed(0.1, 10.0), precision="bf16")
    assert given.measured_as(begun) == begun
    assert replace(given, lr=1.0).measured_as(begun) != begun
    counted = Recipe(epochs=2.0, evaluations=10)
    assert counted.measured_as(replace(counted, evaluations=5)).evaluations == 10


def test_length():
    assert Recipe(epochs=2, batch_size=32).length(100) == 7
    assert Recipe(images_seen=1, batch_size=32).length(100) == 1
    assert Recipe(minutes=1).length(100) is None
    assert Recipe(minutes=1, steps=9).length(100) == 9


@pytest.mark.parametrize(
    ("recipe", "size", "words"),
    [
        (Recipe(lr=0.1), 224, "high for adamw"),
        (Recipe(lr=3.0, optimiser="sgd"), 224, "high for sgd"),
        (Recipe(lr=1e-8), 224, "is low"),
        (Recipe(lr=3e-3, method="finetune"), 224, "fine-tuning"),
        (Recipe(), 225, "no multiple of the patch size 16"),
        (Recipe(), 32, "makes 4 patches"),
        (Recipe(patience=20), 224, "never acts"),
        (Recipe(batch_size=512), 224, "exceeds the 100"),
    ],
)
def test_silly_choices_are_warned_of(recipe, size, words):
    lines = warnings(recipe, VIT, size, n_train=100 if "exceeds" in words else None)
    assert len(lines) == 1
    assert words in lines[0]


def test_every_field_is_documented():
    import inspect

    source = inspect.getsource(Recipe)
    for field in fields(Recipe):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n")[1]
        assert after.strip().startswith('"""'), field.name
