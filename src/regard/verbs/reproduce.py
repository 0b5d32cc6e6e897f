"""`regard reproduce`: a run once more from its folder, and whether it comes out the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud, load_for

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel
    from regard.results import RunResult
    from regard.runs.run import Run
    from regard.training.distillation import Teacher
    from regard.training.recipe import Recipe

SHOWN = 5


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` found.

    metric, before, after: the headline metric on the test images; rule: how the outcome was decided; equal_weights:
    model.safetensors is the same file (or neither has one); differences: what differs, one line each (the first
    evaluation, versions and machine, photos whose bytes have changed); out: the new run.
    """

    outcome: Literal["same", "within noise", "different"]
    metric: str
    before: float
    after: float
    rule: str
    equal_weights: bool
    differences: tuple[str, ...]
    run: Path
    out: Path


def reproduce(
    run: str | Path, *, data: str | Path | None = None, out: str | Path | None = None, on_event: OnEvent = silent
) -> Reproduction:
    """Do a run once more from its folder, and say whether it comes out the same.

    The images, the split, the model, the recipe and every choice that was measured are those of the run; nothing is
    taken from caches. "same": the same answers, bit for bit. "within noise": the test figure differs by less than
    seeds or photos would move it (the rule is printed). "different": by more; exit code 1. What differs is named: the
    first evaluation, versions and machine, photos that have changed.

    Args:
        run: the finished run folder
        data: where the images are now, if no longer where the run says
        out: run folder to make; RUN-reproduced beside it by default
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.comparison.classical import METHOD, Reference
    from regard.data.contents import contents, read_contents
    from regard.data.sources import open_images
    from regard.data.splits import read_split
    from regard.runs.run import Run
    from regard.training.run import train_run

    old = Run.open(run)
    before, config = old.result(), old.config
    source = config.get("source", {})
    data = data or source.get("data")
    if not data:
        raise RegardError(f"{old.folder}: does not say where its images were; name them with --data")
    images = open_images(
        data,
        classes=old.classes,
        target=tuple(config.get("target", ())),
        problem=config.get("problem", "auto"),
        group=config.get("group"),
        slices=tuple(config.get("slices", ())),
    )
    split = read_split(old.split_path, images)
    known = read_contents(old.contents_path)
    rows = [*split.train.tolist(), *split.val.tolist(), *split.test.tolist()]
    now = contents(images, rows) if known else {}
    other = [id_ for id_, digest in known.items() if now.get(id_) != digest]
    place = Path(out) if out else Path(run).resolve().with_name(f"{Path(run).resolve().name}-reproduced")
    if before.method == METHOD:  # the row without a network
        reference = Reference(images, config["class_weights"], on_event)
        new = Run.create(place)
        reference.run(new, split, before.seed, before.fraction, before.fold)
        return _found(old, new, other, len(known))
    loaded, recipe = _model_of(old, source, images.classes, on_event), _recipe_of(old)
    new = Run.create(place)
    # In a temporary folder, features are computed and not found.
    with tempfile.TemporaryDirectory() as cache, _threads(config.get("threads")):
        train_run(
            new,
            images,
            split,
            loaded,
            recipe,
            on_event=on_event,
            fraction=before.fraction,
            fold=before.fold,
            opened={name: config.get(name) for name in ("target", "group", "slices") if config.get(name)},
            cache_dir=cache,
            teacher=_teacher_of(old, on_event),
        )
    return _found(old, new, other, len(known))


def _found(old: Run, new: Run, other: list[str], known: int) -> Reproduction:
    """The comparison of the two; other: ids of photos that have changed, of `known` whose contents are on record."""
    from regard.comparison.reproduction import changed, first_difference, judge

    before, after = old.result(), new.result()
    found = judge(before, after, siblings(old, before))
    differences = []
    if line := first_difference(before.curve, after.curve):
        differences.append(f"evaluations differ {line}" if line.startswith("from") else line)
    if other:
        named = ", ".join(other[:SHOWN]) + (f" and {len(other) - SHOWN} more" if len(other) > SHOWN else "")
        differences.append(f"{len(other)} of {known} photos are not what they were: {named}")
    differences += [f"environment: {line}" for line in changed(old.environment, new.environment)]
    weights = [run.weights_path.read_bytes() if run.weights_path.is_file() else None for run in (old, new)]
    return Reproduction(
        outcome=found.outcome,
        metric=found.metric,
        before=found.before,
        after=found.after,
        rule=found.rule,
        equal_weights=weights[0] == weights[1],
        differences=tuple(differences),
        run=old.folder,
        out=new.folder,
    )


def _recipe_of(run: Run) -> Recipe:
    """The recipe as it was resolved, with the precision that was measured where features were extracted."""
    from regard.training.recipe import Recipe

    recipe = Recipe.from_config(run.config["recipe"])
    measured = run.facts.get("precision")
    return replace(recipe, precision=measured) if recipe.precision == "auto" and measured else recipe


def _model_of(run: Run, source: dict[str, Any], classes: tuple[str, ...], on_event: OnEvent) -> LoadedModel:
    """The model that the run began with."""
    from regard.data.transforms import Preprocess

    config = run.config
    name = source.get("model") or config["model"]
    if "source" in config and not source.get("model"):
        raise RegardError(
            f"{run.folder}: was trained from a module of yours ({name}), which its folder does not hold; "
            "train that module again and compare the two with `regard evaluate`"
        )
    loaded = load_for(
        name, config["method"], classes, on_event,
        weights=source.get("weights"), img_size=config["img_size"], force=True,
    )  # fmt: skip
    loaded.preprocess = Preprocess.from_config(run.preprocess)
    return loaded


def _teacher_of(run: Run, on_event: OnEvent) -> Teacher | None:
    """Whom the run learned from, as it was; None where nobody taught. RegardError where it is another one now."""
    from regard.training.distillation import TAU, Teacher

    config = run.config.get("distillation")
    if config is None:
        return None
    source = config["source"]
    if not source.get("model"):
        raise RegardError(
            f"{run.folder}: its teacher was a module of yours ({config['teacher']}), which its folder does not hold"
        )
    loaded = load_aloud(source["model"], on_event, source.get("weights"))
    teacher = Teacher(loaded, config["kind"], config["alpha"], config.get("tau", TAU))
    if teacher.fingerprint != config["fingerprint"]:
        raise RegardError(f"{source['model']}: is not the teacher that it was for {run.folder}; restore it")
    return teacher


def siblings(run: Run, result: RunResult) -> list[RunResult]:
    """Finished runs beside this one that differ from it in their seed only, as in the folder of a comparison."""
    from regard.runs.run import Run

    found: dict[int, RunResult] = {}
    for folder in sorted(run.folder.resolve().parent.iterdir()):
        other = Run(folder)
        if not (folder / "config.yaml").is_file() or not other.finished:
            continue
        seed = other.facts["seed"]
        if seed != result.seed and _condition(other.config) == _condition(run.config):
            found.setdefault(seed, other.result())
    return list(found.values())


def _condition(config: dict[str, Any]) -> dict[str, Any]:
    """What has to be alike: all but the seed and what it redraws."""
    kept = ("model", "method", "data", "problem", "fraction", "num_classes", "preprocess")
    alike: dict[str, Any] = {name: config.get(name) for name in kept}
    alike["recipe"] = {**config.get("recipe", {}), "seed": None}
    # The head of a teacher is fitted anew for every seed, so only its name is alike.
    alike["distillation"] = {**config.get("distillation", {}), "fingerprint": None, "source": None}
    return alike


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as the run had: sums in another order round differently."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
