"""`regard compare`: which model to use on these images, how sure, and at what cost."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.results import CheckReport, ProblemChoice, Verdict
from regard.verbs.command import command_line
from regard.verbs.events import OnEvent, silent
from regard.verbs.folders import make_folder, no_empty_folder
from regard.verbs.prepare import OnBadImage, Prepared, load_for, mirrored, prepare, untrained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from regard.comparison.compare import Candidate, Key, Task
    from regard.comparison.estimate import Estimate
    from regard.comparison.plan import Plan
    from regard.data.splits import Split
    from regard.inference.loaded import LoadedModel
    from regard.reporting.records import ReportData
    from regard.results import RunResult
    from regard.training.recipe import Method, Recipe


@dataclass(frozen=True)
class Row:
    """One model and method at the full fraction: its mean over runs on test and validation images.

    metric: "top1", "map" or "mae", as the labels are; runs: seeds, or repeats times folds; reference: the row without
    a network, which no verdict speaks of.
    """

    name: str
    metric: str
    test: float
    validation: float
    runs: int
    reference: bool = False


@dataclass(frozen=True)
class Answer:
    """What a comparison found: the answer in one sentence, its figures, and where the report lies."""

    sentence: str
    rows: tuple[Row, ...]  # best on validation first, the reference last
    verdicts: tuple[Verdict, ...]
    report: Path


def compare(
    data: str | Path | None = None,
    *,
    models: tuple[str | LoadedModel, ...] = (),
    methods: tuple[Literal["head", "finetune", "scratch", "lora"], ...] = ("head",),
    seeds: int | None = None,
    folds: int = 0,
    fractions: tuple[float, ...] = (1.0,),
    out: str | Path,
    predictions: tuple[Path, ...] = (),
    target: tuple[str, ...] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: tuple[str, ...] = (),
    img_size: int | None = None,
    images_seen: int | None = None,
    minutes: float | None = None,
    batch_size: int | None = None,
    head: Literal["linear", "sgd", "knn", "svm"] | None = None,
    balance: Literal["none", "loss", "sampler"] | None = None,
    trials: int = 0,
    repeated_augmentation: int | None = None,
    flip: Literal["yes", "no"] | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    margin: float = 0.01,
    deterministic: bool = False,
    keep_leaks: bool = False,
    on_bad_image: OnBadImage = "skip",
    max_bad: float = 0.01,
    force: bool = False,
    dry_run: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent = silent,
) -> Answer | Estimate:
    """Answer which model to use on these images, how sure, and at what cost.

    Every model sees the same images, equally many of them, with the same number of learning-rate trials. The winner is
    chosen on validation images; the test images are touched once, and one test stated in advance says better,
    equivalent or too close to call. A row without a network (gradients and a linear SVM) stands beside the models. The
    report is one HTML file. A comparison that was interrupted continues with --resume.

    Args:
        data: class folders (with or without train/val/test), a CSV or Parquet table (path, label),
            torchvision:NAME, or digits
        models: names, as in `regard train`, separated by commas; from Python also models that are loaded
        methods: head, finetune, scratch, lora: an axis like models
        seeds: runs of each model and method, 3 unless said otherwise; a seed redraws initialisation, order,
            augmentation, validation cut and subset; with --folds, how often the folds are dealt, once unless said
            otherwise
        folds: for small folders: so many parts, each the test images of one run; 0 takes one test split
        fractions: shares of the training images, for the data curve
        out: folder to make
        predictions: tables (path, label, class or probabilities) of any tool to compare in place of training; of
            several labels or numbers a column for each, with the data set for the truth
        target: label columns of a table: one of classes, of several labels (a|b) or of numbers; several of 0 and 1 or
            of numbers; four of a box; none: the column label, else those of a box
        problem: what the labels are; auto decides by what they hold, and says so
        group: column of a table, or a regular expression on the path, that says which images belong together (one
            patient, camera or product): the first parenthesis, else the whole match
        slices: columns of a table by whose values the metrics are reported too
        img_size: side of the square that the models see, in pixels
        images_seen: training images drawn in a run, repeats counted
        minutes: time to train a run, in place of images seen
        batch_size: images per step
        head: for the head method, linear, knn (nearest neighbours) and svm are solved on cached features, sgd trains a
            linear one on augmented views
        balance: of unequal classes; loss weighs images inversely to the frequency of their class, sampler draws
            classes equally often
        trials: learning rates that every model tries before its runs, each for a third of the images seen, judged on
            validation
        repeated_augmentation: times that each drawn image comes in a row, augmented anew each time
        flip: mirror half of the training images
        precision: auto takes bfloat16 where a short measurement finds it faster
        margin: difference that does not matter: of top1 or label ranking precision as a share of 1, of numbers in
            standard deviations of the training labels
        deterministic: the same bits each time, no choices by measuring
        keep_leaks: score test images that have a near-duplicate in train or val too
        on_bad_image: skip leaves unreadable files out by name, error stops at the first
        max_bad: share of unreadable files above which training is refused
        force: allow models with fewer than 16 patches
        dry_run: print runs, minutes, memory, disk and downloads, and stop
        resume: continue the comparison in --out
        overwrite: replace the comparison in --out
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    command = command_line(compare, locals())
    folder = Path(out)
    with no_empty_folder(folder):
        continued = resume and (folder / "comparison.yaml").is_file()
        if not continued and not dry_run:
            make_folder(folder, "comparison", ("comparison.yaml", "report.html"), ("runs", "trials"), resume, overwrite)
        opened = {"target": tuple(target), "problem": problem, "group": group, "slices": tuple(slices)}
        if predictions:
            return _compare_given(data, opened, tuple(map(Path, predictions)), folder, margin, command)
        if data is None:
            raise RegardError(
                "compare: name a data set (regard compare DATA --models a,b) or --predictions a.csv b.csv"
            )

        from regard.comparison.classical import NAMES
        from regard.comparison.compare import recipes, run_all, shared_precision, tried
        from regard.comparison.estimate import estimate, measure
        from regard.comparison.plan import Plan

        prepared = prepare(
            data, max_bad=max_bad, on_bad_image=on_bad_image, keep_leaks=keep_leaks, on_event=on_event, **opened
        )
        given = {
            "batch_size": batch_size,
            "head": head,
            "balance": balance,
            "repeated_augmentation": repeated_augmentation,
            "precision": "fp32" if deterministic else precision,
            "flip": mirrored(prepared.images) if flip is None else flip == "yes",
        }
        plan = Plan(
            data=str(data),
            models=tuple(_name(model) for model in models),
            methods=tuple(methods),
            seeds=seeds if seeds is not None else 1 if folds else 3,
            fractions=tuple(fractions),
            img_size=img_size,
            images_seen=images_seen,
            minutes=minutes,
            margin=margin,
            keep_leaks=keep_leaks,
            deterministic=deterministic,
            force=force,
            overrides={name: value for name, value in given.items() if value is not None},
            reference=NAMES[prepared.images.problem],
            folds=folds,
            trials=trials,
            **opened,
        )
        given_models = {_name(model): model for model in models}
        task = _task(plan, prepared, given_models, on_event)
        split = task.split(0, 0 if folds else None)
        for note in split.notes:
            on_event({"event": "note", "text": note})
        sheets = {
            name: untrained(model, prepared.images.classes, img_size, force) for name, model in given_models.items()
        }
        chosen = recipes(plan, len(split.train), sheets, prepared.images.problem)
        if continued:
            plan.check_same(folder)
            chosen = shared_precision(chosen, plan.measured_precision(folder))
        else:
            speeds = measure(chosen, sheets)
            fastest = speeds.fastest if precision in (None, "auto") and not deterministic else given["precision"]
            chosen = shared_precision(chosen, fastest)
            expected = estimate(plan, task, chosen, speeds)
            if dry_run:
                return expected
            on_event({"event": "note", "text": f"expected: {expected}"})
        for name, method in chosen:
            if method != "scratch":  # a model without weights is refused now, and not after hours of the others
                task.load(name, method)
        if not continued:
            plan.save(folder, fastest)
        chosen = tried(plan, task, folder, chosen, on_event)
        results = run_all(plan, task, folder, chosen, on_event)
        own = frozenset(name for name, model in given_models.items() if not isinstance(model, str))
        return _answer(plan, prepared.checked, task, chosen, results, folder, command, own)


def _name(model: str | LoadedModel) -> str:
    return model if isinstance(model, str) else model.name


def _task(plan: Plan, prepared: Prepared, models: Mapping[str, str | LoadedModel], on_event: OnEvent) -> Task:
    from regard.comparison.compare import Task

    said: set[str] = set()

    def once(event: dict[str, Any]) -> None:
        """What loading says is the same for every seed and fraction: it is said once."""
        if event["text"] not in said:
            said.add(event["text"])
            on_event(event)

    def load(name: str, method: Method) -> LoadedModel:
        model = copy.deepcopy(models[name])  # a loaded model is trained in place: each run begins with its own
        return load_for(model, method, prepared.images.classes, once, img_size=plan.img_size, force=plan.force)

    @cache  # a deal of folds is the same for each of its runs
    def dealt(seed: int) -> tuple[Split, ...]:
        return prepared.folds(plan.folds, seed)

    def split(seed: int, fold: int | None) -> Split:
        return prepared.split(seed) if fold is None else dealt(seed)[fold]

    opened = {"target": list(plan.target), "group": plan.group, "slices": list(plan.slices)}
    return Task(prepared.images, split, load, opened)


def _answer(
    plan: Plan,
    checked: CheckReport,
    task: Task,
    chosen: Mapping[Key, Recipe],
    results: list[RunResult],
    folder: Path,
    command: str,
    own: frozenset[str],
) -> Answer:
    from regard.comparison.compare import candidates, references, verdicts
    from regard.comparison.details import Story, report_data
    from regard.comparison.suspects import disputed
    from regard.data.draws import together
    from regard.evaluation.problems import label_scale
    from regard.runs.run import Run

    images, split = task.images, task.split(0, 0 if plan.folds else None)
    scale = label_scale(images.labels[split.train]).tolist() if images.problem == "regression" else ()
    ordered = candidates(results, scale)
    found = verdicts(ordered, plan.margin, together(images, checked.groups))
    winner = ordered[0].runs[0]
    # A module of the user's cannot be built again from its run folder.
    doubtful = () if winner.model in own else disputed(images, task.split(winner.seed, winner.fold), winner)
    story = Story(
        title=images.name,
        command=command,
        check=checked,
        protocol=split.notes,
        budget=_budget(plan, chosen),
        environment={key: str(value) for key, value in Run.open(results[0].folder).environment.items()},
        suspects=doubtful,
    )
    listed = [*ordered, *references(results)]
    return answer_of(report_data(story, listed, results, found, images), listed, found, folder)


def _budget(plan: Plan, chosen: Mapping[Key, Recipe]) -> str:
    from regard.training.solvers import STRENGTHS

    lengths = []
    for recipe in chosen.values():
        if recipe.solved:
            tried = f", {len(STRENGTHS)} strengths for each head" if recipe.head == "linear" else ""
            lengths.append(f"features of every image in {recipe.views} views{tried}")
        elif recipe.minutes:
            lengths.append(f"{recipe.minutes:g} minutes of training")
        else:
            lengths.append(f"{recipe.images_seen:,} training images seen")
    precision = next(iter(chosen.values())).precision
    trials = f"{plan.trials} learning-rate trials for each model trained by steps" if plan.trials else "no tuning trial"
    return f"{'; '.join(dict.fromkeys(lengths))}; {trials}; {precision} for every run"


def _compare_given(
    data: str | Path | None,
    opened: dict[str, Any],
    paths: tuple[Path, ...],
    folder: Path,
    margin: float,
    command: str,
) -> Answer:
    from regard.comparison.compare import candidates, verdicts
    from regard.comparison.details import Story, report_data
    from regard.comparison.given import file_tests, given_results
    from regard.data.draws import together

    images = None
    if data is not None:
        from regard.data.sources import open_images

        images = open_images(data, **opened)
    results = given_results(paths, images)
    ordered = candidates(results)
    found = verdicts(ordered, margin, together(images) if images else ())
    story = Story(title=images.name if images else "given predictions", command=command)
    record = report_data(story, ordered, results, found, images, file_tests(results))
    return answer_of(record, ordered, found, folder)


def answer_of(record: ReportData, listed: Sequence[Candidate], found: Sequence[Verdict], folder: Path) -> Answer:
    """The answer of a report, which is written to `folder`."""
    from regard.evaluation.problems import HEADLINE
    from regard.reporting.report import write_report
    from regard.reporting.sentences import answer

    report = write_report(record, folder / "report.html")
    rows = tuple(
        Row(one.name, HEADLINE[one.problem], one.test, one.validation, len(one.runs), one.reference) for one in listed
    )
    return Answer(answer(record), rows, tuple(found), report)
