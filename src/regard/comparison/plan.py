"""What a comparison will run: conditions, equal budget, nothing else decided later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from regard.errors import RegardError
from regard.results import ProblemChoice
from regard.runs.atomic import write_atomic
from regard.training.recipe import Method

FILE = "comparison.yaml"


@dataclass(frozen=True)
class Condition:
    """One run of a comparison: a model, how it is fitted, a seed, and the share of the training images it sees.

    method "classical": the reference row, without a network. fold: which of the folds is the test, None without folds;
    the seed then numbers the repeat.
    """

    model: str
    method: Method | Literal["classical"]
    seed: int
    fraction: float
    fold: int | None = None

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{folder_name(self.model)}-{self.method}-{self.fraction:g}-seed{self.seed}{fold}"

    @property
    def candidate(self) -> str:
        """What the verdict compares: `model (method)`."""
        return f"{self.model} ({self.method})"


@dataclass(frozen=True)
class Plan:
    """The arguments of a comparison; a comparison that continues must be given the same ones."""

    data: str
    models: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: int
    fractions: tuple[float, ...]
    img_size: int | None
    images_seen: int | None  # per run, equal for all; None: decided from the data and written beside
    minutes: float | None
    margin: float
    keep_leaks: bool
    deterministic: bool
    force: bool
    overrides: dict[str, Any]  # recipe fields given by the user, equal for all models
    reference: str = "hog_svm"  # the row without a network, trained beside every model
    target: tuple[str, ...] = ()
    problem: ProblemChoice = "auto"
    group: str | None = None
    slices: tuple[str, ...] = ()
    folds: int = 0  # 0: one test split; else every image is a test image once, and seeds number the repeats
    trials: int = 0  # learning rates that every model tries before its runs

    def __post_init__(self) -> None:
        if len(set(self.models)) != len(self.models) or not self.models:
            raise RegardError(f"--models {','.join(self.models)}: name each model once")
        if len(self.models) * len(self.methods) < 2:
            raise RegardError(
                f"--models {','.join(self.models)}: a comparison needs two models (or one model and two --methods)"
            )
        if self.seeds < 1:
            raise RegardError(f"--seeds {self.seeds}: at least 1 (3 or more for a verdict)")
        if self.folds < 0 or self.folds == 1:
            raise RegardError(f"--folds {self.folds}: two or more, or 0 for one test split")
        if self.trials < 0:
            raise RegardError(f"--trials {self.trials}: 0 or more")
        if self.folds and self.trials:
            raise RegardError(
                f"--trials {self.trials} with --folds {self.folds}: a rate that is chosen on one fold would have seen "
                "test images of the others; leave one of the two out"
            )
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise RegardError(f"--fractions {fraction:g}: a share of the training images, above 0 and at most 1")

    def conditions(self) -> tuple[Condition, ...]:
        """Every run, full fraction first within a seed: an interrupted comparison holds whole seeds (or repeats)."""
        rows: list[tuple[str, Method | Literal["classical"]]] = [
            (model, method) for method in self.methods for model in self.models
        ]
        rows.append((self.reference, "classical"))
        return tuple(
            Condition(model, method, seed, fraction, fold)
            for seed in range(self.seeds)
            for fraction in sorted(set(self.fractions), reverse=True)
            for fold in (range(self.folds) if self.folds else (None,))
            for model, method in rows
        )

    def save(self, folder: Path, precision: str) -> None:
        """Write `comparison.yaml`: the arguments, and the precision that was measured once for all runs."""
        keep_arguments(folder / FILE, {**asdict(self), "measured_precision": precision})

    @staticmethod
    def measured_precision(folder: Path) -> str:
        """The precision that the comparison in `folder` began with."""
        found = read_arguments(folder / FILE)
        if "measured_precision" not in found:
            raise RegardError(f"{folder / FILE}: says no measured_precision; start anew with --overwrite")
        return found["measured_precision"]

    def check_same(self, folder: Path) -> None:
        """A comparison that continues has the arguments it began with; raise RegardError naming those that changed."""
        refuse_changed(folder / FILE, asdict(self))


def folder_name(model: str) -> str:
    """A model's name as part of a folder's."""
    return model.replace("/", "_").replace(":", "_")


def as_plain(value: Any) -> Any:
    """Tuples as lists, all through: what YAML and JSON give back."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(item) for item in value]
    return value


def keep_arguments(path: Path, arguments: Mapping[str, Any]) -> None:
    """Write down what a piece of work was begun with, whole or not at all."""
    write_atomic(path, yaml.safe_dump(as_plain(dict(arguments)), sort_keys=False).encode())


def refuse_changed(path: Path, arguments: Mapping[str, Any]) -> None:
    """RegardError that names those arguments that are not what `keep_arguments` wrote."""
    before, now = read_arguments(path), as_plain(dict(arguments))
    if changed := [name for name in now if before.get(name) != now[name]]:
        differences = ", ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)
        raise RegardError(
            f"{path.parent}: --resume needs the arguments it began with ({differences}); use another --out"
        )


def read_arguments(path: Path) -> dict[str, Any]:
    """What `keep_arguments` wrote; RegardError where it cannot be read."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RegardError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); start anew with --overwrite"
        ) from None
    if not isinstance(found, dict) or "data" not in found:
        raise RegardError(f"{path}: holds no arguments; start anew with --overwrite")
    return found
