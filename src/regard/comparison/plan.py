"""What a comparison will run: conditions, equal budget, nothing else decided later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from regard.errors import RegardError
from regard.runs.atomic import write_atomic

Method = Literal["head", "finetune", "scratch"]


@dataclass(frozen=True)
class Condition:
    """One run of a comparison: a model, how it is fitted, a seed, and the share of the training images it sees."""

    model: str
    method: Method
    seed: int
    fraction: float

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        model = self.model.replace("/", "_").replace(":", "_")
        return f"{model}-{self.method}-{self.fraction:g}-seed{self.seed}"

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

    def __post_init__(self) -> None:
        if len(set(self.models)) != len(self.models) or not self.models:
            raise RegardError(f"--models {','.join(self.models)}: name each model once")
        if len(self.models) * len(self.methods) < 2:
            raise RegardError(
                f"--models {','.join(self.models)}: a comparison needs two models (or one model and two --methods)"
            )
        if self.seeds < 1:
            raise RegardError(f"--seeds {self.seeds}: at least 1 (3 or more for a verdict)")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise RegardError(f"--fractions {fraction:g}: a share of the training images, above 0 and at most 1")

    def conditions(self) -> tuple[Condition, ...]:
        """Every run, full fraction first within a seed: an interrupted comparison holds whole seeds."""
        return tuple(
            Condition(model, method, seed, fraction)
            for seed in range(self.seeds)
            for fraction in sorted(set(self.fractions), reverse=True)
            for method in self.methods
            for model in self.models
        )

    def save(self, folder: Path, precision: str) -> None:
        """Write `comparison.yaml`: the arguments, and the precision that was measured once for all runs."""
        text = yaml.safe_dump({**as_plain(asdict(self)), "measured_precision": precision}, sort_keys=False)
        write_atomic(folder / "comparison.yaml", text.encode())

    @staticmethod
    def measured_precision(folder: Path) -> str:
        """The precision that the comparison in `folder` began with."""
        return _read(folder)["measured_precision"]

    def check_same(self, folder: Path) -> None:
        """A comparison that continues has the arguments it began with; raise RegardError naming those that changed."""
        before = _read(folder)
        now = as_plain(asdict(self))
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            differences = ", ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in changed)
            raise RegardError(
                f"{folder}: --resume needs the arguments it began with ({differences}); use another --out"
            )


def as_plain(value: Any) -> Any:
    """Tuples as lists, all through: what YAML and JSON give back."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_plain(item) for item in value]
    return value


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "comparison.yaml"
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RegardError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); start anew with --overwrite"
        ) from None
    if not isinstance(found, dict) or "measured_precision" not in found:
        raise RegardError(f"{path}: holds no comparison; start anew with --overwrite")
    return found
