"""What the fifth deck's improvements are worth to a plain ViT, added one by one.

    python recipes/vit_improve.py DATA --out runs/improve [--model vit_micro_patch4_32] [--images-seen N] [--seeds 3]

The plain recipe is AdamW with warm-up and cosine, images shifted and (where that keeps their meaning) mirrored, and
nothing else. To it come, each kept for the next: weight decay, stochastic depth, dropout, RandAugment, MixUp, and a
teacher: resnet20_32, trained before on the same images by its own recipe, whose most probable class has half of the
loss. Learning rate, batch, steps and precision stay the same. Every run of a seed has the same split.

Tested, stated in advance: each step against the step before, and each against the plain recipe, on seeds and photos
(`regard.evaluation.statistics.verdict`), both rows of pairs corrected by Holm. Nothing is left out: what loses is in
the table.

Regularisation is for images that are seen often. --fraction takes a share of the training images, so that as many steps
see each of them more often.

Prints the minutes expected, then the table, which is also written to OUT/improve.md; the runs lie in OUT/runs.
Interrupted, it goes on with --resume: finished runs are not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard.comparison.estimate import in_minutes, measure
from regard.comparison.plan import keep_arguments, read_arguments, refuse_changed
from regard.data.splits import Split, take_fraction
from regard.evaluation.statistics import holm, mean_score, verdict
from regard.inference.loaded import fresh_model
from regard.results import RunResult, Verdict
from regard.training.distillation import Teacher
from regard.training.recipe import recipe_for
from regard.training.run import train_run
from regard.verbs.prepare import Prepared, mirrored, prepare

TEACHER = "resnet20_32"
PLAIN: dict[str, Any] = {
    "weight_decay": 0.0,
    "drop_path": 0.0,
    "dropout": 0.0,
    "randaugment": None,
    "mixup": 0.0,
    "cutmix": 0.0,
    "erasing": 0.0,
    "label_smoothing": 0.0,
}
STEPS: dict[str, dict[str, Any]] = {  # what each adds to the recipe
    "plain": {},
    "weight decay": {"weight_decay": 0.05},
    "stochastic depth": {"drop_path": 0.1},
    "dropout": {"dropout": 0.1},
    "RandAugment": {"randaugment": (1, 5.0)},
    "MixUp": {"mixup": 0.2, "mixing_probability": 0.5},
    "distillation": {},
}
TAUGHT = "distillation"
EVALUATIONS = 4  # on the validation images: each looks at all of them, however few images are trained on
FILE = "improve.yaml"


def say(event: dict[str, Any]) -> None:
    """Notes and warnings on the terminal."""
    if event["event"] in ("note", "warning"):
        print(event["text"], flush=True)


def recipes(prepared: Prepared, split: Split, model: str, images_seen: int) -> dict[str, regard.Recipe]:
    """The recipe of each step and of the teacher, without a seed and a precision."""
    classes, flip = prepared.images.classes, mirrored(prepared.images)
    sheets = {name: fresh_model(name, classes) for name in (model, TEACHER)}
    own, teacher = (
        recipe_for(sheet.spec, "scratch", len(split.train), sheet.preprocess.size, images_seen)
        for sheet in sheets.values()
    )
    found = {"teacher": replace(teacher, flip=flip, evaluations=EVALUATIONS)}
    current = own.with_overrides({**PLAIN, "flip": flip, "evaluations": EVALUATIONS})
    for step, added in STEPS.items():
        current = current.with_overrides(added)
        found[step] = current
    return found


def measured(wanted: Mapping[str, regard.Recipe], prepared: Prepared, split: Split, model: str, seeds: int) -> str:
    """The precision for all runs; says how long they will take, by a few steps of student and teacher."""
    chosen = {(model, "scratch"): wanted["plain"], (TEACHER, "scratch"): wanted["teacher"]}
    sheets = {name: fresh_model(name, prepared.images.classes) for name, _ in chosen}
    speeds = measure(chosen, sheets)  # type: ignore[arg-type]
    seconds = 0.0
    for step, recipe in wanted.items():
        one = speeds.seconds[TEACHER if step == "teacher" else model, "scratch"][speeds.fastest]
        seen = recipe.images_seen or 0
        seconds += one * (seen + 0.4 * recipe.evaluations * len(split.val))
        if step == TAUGHT:  # the teacher's answers: a forward pass, a third of a training step
            seconds += speeds.seconds[TEACHER, "scratch"][speeds.fastest] * seen / 3
    runs = seeds * len(wanted)
    print(f"expected: {runs} runs, {in_minutes(seeds * seconds / 60)}, {speeds.fastest}", flush=True)
    return speeds.fastest


def train_all(
    prepared: Prepared, split: Callable[[int], Split], model: str, wanted: Mapping[str, regard.Recipe], seeds: int,
    out: Path,
) -> dict[str, list[RunResult]]:  # fmt: skip
    """The runs of each step, by seed; those that are not finished are trained, whole seeds first."""
    images = prepared.images
    found: dict[str, list[RunResult]] = {step: [] for step in wanted}
    for seed in range(seeds):
        for step, recipe in wanted.items():
            place = out / "runs" / f"{step.replace(' ', '-')}-seed{seed}"
            run = regard.Run.resume(place)
            if not run.finished:
                print(f"{step}, seed {seed}", flush=True)
                name = TEACHER if step == "teacher" else model
                master = Path(found["teacher"][seed].folder) if step == TAUGHT else None
                train_run(
                    run,
                    images,
                    split(seed),
                    fresh_model(name, images.classes),
                    replace(recipe, seed=seed),
                    say,
                    resume=True,
                    teacher=Teacher(regard.load_model(str(master))) if master else None,
                )
            found[step].append(run.result())
    return found


def verdicts(found: Mapping[str, Sequence[RunResult]], margin: float) -> tuple[list[Verdict], list[Verdict]]:
    """(each step against the one before, each against the plain one), both rows corrected by Holm."""
    scores = {step: np.stack([run.test.correct for run in found[step]]) for step in STEPS}
    steps = list(STEPS)
    before = [verdict(new, old, scores[new], scores[old], margin) for old, new in pairwise(steps)]
    plain = [verdict(new, steps[0], scores[new], scores[steps[0]], margin) for new in steps[1:]]
    return holm(before), holm(plain)


def difference(found: Verdict) -> str:
    """`+1.2 (-0.3 to +2.7), undecided`, in points."""
    points = f"{100 * found.difference:+.1f}"
    if min(found.seeds) < 2:
        return f"{points}, one seed: no verdict"
    worse = found.outcome == "better" and found.difference < 0
    return f"{points} ({100 * found.low:+.1f} to {100 * found.high:+.1f}), {'worse' if worse else found.outcome}"


def written(
    found: Mapping[str, Sequence[RunResult]], wanted: Mapping[str, regard.Recipe], model: str, margin: float
) -> Iterator[str]:
    """The table in Markdown, line by line."""
    before, plain = verdicts(found, margin)
    first = found["plain"][0]
    yield (
        f"# {model}: {first.images_seen:,} images seen of {first.train_images:,}, seeds: {len(found['plain'])}, "
        f"{len(first.test):,} test photos"
    )
    yield ""
    yield "| step | added | top1 | against the step before | against plain | training s |"
    yield "|---|---|---|---|---|---|"
    for number, (step, added) in enumerate(STEPS.items()):
        words = ", ".join(f"{name} {value}" for name, value in added.items())
        deltas = (difference(before[number - 1]), difference(plain[number - 1])) if number else ("-", "-")
        words = f"{TEACHER} teaches" if step == TAUGHT else words or f"lr {wanted[step].lr:g}"
        yield f"| {step} | {words} | {top1(found[step])} | {deltas[0]} | {deltas[1]} | {seconds(found[step])} |"
    yield f"| teacher | {TEACHER} | {top1(found['teacher'])} | - | - | {seconds(found['teacher'])} |"
    yield ""
    yield (
        "Points of top1 with 95% intervals over seeds and photos; outcomes corrected by Holm in each column; "
        f"equivalent: less than {100 * margin:g} apart. The teacher is a reference and not tested."
    )
    yield ""


def top1(runs: Sequence[RunResult]) -> str:
    """The mean over seeds with its interval."""
    figure = mean_score(np.stack([run.test.correct for run in runs]))
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.1f}%"
    return f"{100 * figure.value:.1f}% ({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def seconds(runs: Sequence[RunResult]) -> str:
    """The mean training time over seeds."""
    return f"{np.mean([run.cost.train_seconds or 0.0 for run in runs]):,.0f}"


def main(
    data: Path,
    out: Path,
    model: str = "vit_micro_patch4_32",
    images_seen: int = 40_000,
    seeds: int = 3,
    fraction: float = 1.0,
    margin: float = 0.01,
    resume: bool = False,
) -> Path:
    """Train what is missing, print the table; returns the file that holds it."""
    if out.exists() and any(out.iterdir()) and not (resume and (out / FILE).is_file()):
        raise SystemExit(f"{out}: holds something already; go on with --resume, or choose another --out")
    prepared = prepare(data, max_bad=0.01, on_bad_image="skip", keep_leaks=False, on_event=say)

    @cache
    def split(seed: int) -> Split:
        whole = prepared.split(seed)
        return replace(whole, train=take_fraction(prepared.images, whole.train, fraction, seed))

    wanted = recipes(prepared, split(0), model, images_seen)
    arguments = {"data": str(data), "model": model, "images_seen": images_seen, "seeds": seeds, "fraction": fraction}
    if (out / FILE).is_file():
        refuse_changed(out / FILE, arguments)
        precision = read_arguments(out / FILE)["precision"]
    else:
        precision = measured(wanted, prepared, split(0), model, seeds)
        out.mkdir(parents=True, exist_ok=True)
        keep_arguments(out / FILE, {**arguments, "precision": precision})
    wanted = {step: replace(recipe, precision=precision) for step, recipe in wanted.items()}
    found = train_all(prepared, split, model, wanted, seeds, out)
    text = "\n".join(written(found, wanted, model, margin))
    print(f"\n{text}")
    path = out / "improve.md"
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="vit_micro_patch4_32")
    parser.add_argument("--images-seen", type=int, default=40_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each step; a verdict needs 3")
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training images")
    parser.add_argument("--margin", type=float, default=0.01, help="difference that does not matter, a share of 1")
    parser.add_argument("--resume", action="store_true", help="go on with what is in OUT")
    given = parser.parse_args()
    main(
        given.data,
        given.out,
        given.model,
        given.images_seen,
        given.seeds,
        given.fraction,
        given.margin,
        given.resume,
    )
