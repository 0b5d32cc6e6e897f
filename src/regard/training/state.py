"""The full state of a training run, in two generations, written so that any death leaves one that resumes
exactly.

    last/tensors.safetensors   model/..., optimiser/..., ema/..., best/...
    last/state.json            counters, and the optimiser's plain values
    last/manifest.json         SHA-256 of the two, written last
    last.previous/             the generation before

Nothing is pickled. No random state is kept: order, augmentation and dropout are functions of (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard.errors import RegardError
from regard.runs.atomic import remove_leftovers, sha256_of, write_folder_atomic
from regard.training.ema import Ema

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass
class Progress:
    """Counters of a run at a step boundary."""

    step: int = 0  # optimiser steps taken
    evaluated: int = -1  # step of the last evaluation
    best_value: float | None = None
    best_step: int = 0
    stale: int = 0  # evaluations since the metric last rose
    loss_sum: float = 0.0  # since the last evaluation
    loss_count: int = 0
    seconds: float = 0.0  # spent so far, interruptions excluded
    parts: int = 0  # in which a batch passes through the model, of all processes together; doubled out of memory


@dataclass(frozen=True)
class States:
    """Where a run keeps its two generations."""

    folder: Path

    @property
    def last(self) -> Path:
        return self.folder / "last"

    @property
    def previous(self) -> Path:
        return self.folder / "last.previous"

    def save(
        self,
        progress: Progress,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        ema: Ema | None,
        best: Mapping[str, Tensor] | None,
    ) -> None:
        """Write a new generation; RegardError where the disk refuses, and the older ones stay as they are."""
        tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
        if ema is not None:
            tensors |= {f"ema/{name}": value for name, value in ema.average.state_dict().items()}
        if best is not None:
            tensors |= {f"best/{name}": value for name, value in best.items()}
        plain: dict[str, dict[str, Any]] = {}
        for number, values in optimiser.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{number}/{name}"] = value
                else:
                    plain.setdefault(str(number), {})[name] = value
        document = {"version": 1, "progress": vars(progress), "optimiser": plain}

        def fill(folder: Path) -> None:
            save_file({name: _plain(value) for name, value in tensors.items()}, folder / TENSORS)
            (folder / STATE).write_text(json.dumps(document), encoding="utf-8")
            hashes = {name: sha256_of(folder / name) for name in (TENSORS, STATE)}
            (folder / MANIFEST).write_text(json.dumps(hashes, indent=1), encoding="utf-8")

        try:
            write_folder_atomic(self.last, fill, self.previous)
        except (OSError, SafetensorError) as error:
            raise RegardError(
                f"{self.last}: the state of step {progress.step} cannot be written ({_reason(error)}); "
                "the state before it is kept: make room, then use --resume"
            ) from None

    def restore(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, ema: Ema | None
    ) -> tuple[Progress, dict[str, Tensor] | None, tuple[str, ...]]:
        """Put the newest whole state into the objects; returns counters, best weights, and a line per damaged
        state.

        Leftovers of a killed writer are removed. Without any state the counters are those of a fresh start;
        where all that exist are damaged, RegardError.
        """
        remove_leftovers(self.folder)
        damages: list[str] = []
        for generation in (self.last, self.previous):
            if not generation.is_dir():
                continue
            try:
                document, tensors = _read(generation)
            except ValueError as error:
                damages.append(str(error))
                continue
            _install(document, tensors, model, optimiser, ema, generation)
            progress = Progress(**document["progress"])
            best = _part(tensors, "best/") or None
            notes = [f"{damage}; continuing from {generation.name} (step {progress.step})" for damage in damages]
            return progress, best, tuple(notes)
        if damages:
            raise RegardError(f"{'; '.join(damages)}; no whole state is left: start anew with --overwrite")
        return Progress(), None, ()


def _read(generation: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Document and tensors of one generation; ValueError naming the file that is not what was written."""
    try:
        hashes = json.loads((generation / MANIFEST).read_text(encoding="utf-8"))
        names = sorted(hashes)
    except (OSError, ValueError, TypeError):
        raise ValueError(f"{generation / MANIFEST}: missing or damaged") from None
    if names != sorted((TENSORS, STATE)):
        raise ValueError(f"{generation / MANIFEST}: damaged")
    for name in (STATE, TENSORS):
        path = generation / name
        if not path.is_file() or sha256_of(path) != hashes[name]:
            raise ValueError(f"{path}: missing or damaged (its SHA-256 is not the manifest's)")
    return json.loads((generation / STATE).read_text(encoding="utf-8")), load_file(generation / TENSORS)


def _install(
    document: dict[str, Any],
    tensors: dict[str, Tensor],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: Ema | None,
    generation: Path,
) -> None:
    states: dict[int, dict[str, Any]] = {int(n): dict(values) for n, values in document["optimiser"].items()}
    for key, value in _part(tensors, "optimiser/").items():
        number, name = key.split("/", 1)
        states.setdefault(int(number), {})[name] = value
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    try:
        model.load_state_dict(_part(tensors, "model/"))
        if ema is not None:
            ema.average.load_state_dict(_part(tensors, "ema/"))
        for number, values in states.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameters[number].shape:
                    # The fused kernels walk memory, so a moment must lie as its parameter does
                    # (channels_last).
                    values[name] = torch.empty_like(parameters[number]).copy_(value)
        optimiser.load_state_dict({"state": states, "param_groups": optimiser.state_dict()["param_groups"]})
    except (RuntimeError, IndexError) as error:
        raise RegardError(
            f"{generation}: belongs to another model or recipe ({str(error).splitlines()[0]}); "
            "resume with the arguments it began with"
        ) from None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous CPU tensor of its own: what safetensors can write."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0]
