"""`regard models`: what there is, the sheet of one, and whether all of it is as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from regard.errors import RegardError
from regard.verbs.battery import Verification, verify_models
from regard.verbs.events import OnEvent, silent
from regard.verbs.model_sheet import ModelSheet, gmacs_words, model_sheet

WILDCARDS = "*?["


@dataclass(frozen=True)
class ModelRow:
    """One line of the table; what is published belongs to the default checkpoint.

    parameters, gmacs: with as many classes as published, for one example at img_size (pixels per side, 0 where it sees
    no image); top1, top5: per cent on ImageNet-1k, None where none is published; licence, tag: "" where no weights are
    known.
    """

    name: str
    task: str
    parameters: int
    gmacs: float
    img_size: int
    top1: float | None
    top5: float | None
    licence: str
    tag: str


@dataclass(frozen=True)
class ModelTable:
    """The models whose names match, in the order of their names."""

    rows: tuple[ModelRow, ...]

    def lines(self) -> Iterator[str]:
        """Aligned columns under their names."""
        cells = [("name", "task", "parameters", "GMACs", "image", "top1", "top5", "licence", "tag")]
        for row in self.rows:
            tops = ["-" if top is None else f"{top:.1f}" for top in (row.top1, row.top5)]
            sizes = (f"{row.parameters:,}", gmacs_words(row.gmacs), str(row.img_size or "-"))
            cells.append((row.name, row.task, *sizes, tops[0], tops[1], row.licence or "-", row.tag or "-"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            left, numbers, right = line[:2], line[2:7], line[7:]
            words = [cell.ljust(width) for cell, width in zip(left, widths[:2], strict=True)]
            words += [cell.rjust(width) for cell, width in zip(numbers, widths[2:7], strict=True)]
            words += [cell.ljust(width) for cell, width in zip(right, widths[7:], strict=True)]
            yield "  ".join(words).rstrip()


def models(
    pattern: str = "*", *, verify: bool = False, on_event: OnEvent = silent
) -> ModelTable | ModelSheet | Verification:
    """List the models, or show the sheet of one.

    A table of all models, or of those whose names match. The exact name of a model, with options or a tag where it has
    them, gives its sheet: paper, published weights, preprocessing, shapes on the way through it, costs.

    Args:
        pattern: part of a name, a name with the wildcards * ? [], or a whole name
        verify: check names, shapes, counts and behaviour of the models that match; exit code 1 where one fails
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.models import list_models
    from regard.weights import find_checkpoint

    name, _, tag = pattern.partition(".")
    if name.partition("+")[0] in list_models():
        if tag:
            find_checkpoint(pattern)
        return verify_models([name], on_event) if verify else model_sheet(name)
    names = matching(pattern)
    return verify_models(names, on_event) if verify else ModelTable(tuple(map(_row, names)))


def matching(pattern: str) -> list[str]:
    """Names of models by shell pattern, or by a part of them where it has no wildcard, in alphabetical order.

    Raises RegardError with the nearest names where there is none.
    """
    from regard.models import list_models

    found = list_models(pattern if any(sign in pattern for sign in WILDCARDS) else f"*{pattern}*")
    if not found:
        nearest = get_close_matches(pattern.strip(WILDCARDS + "]"), list_models(), n=3, cutoff=0.3)
        hint = f"nearest: {', '.join(nearest)}" if nearest else "`regard models` names them all"
        raise RegardError(f"{pattern}: no model of this name; {hint}")
    return found


def _row(name: str) -> ModelRow:
    from regard.models import model_spec
    from regard.models.costs import recorded_cost
    from regard.weights import checkpoints_of

    spec = model_spec(name)
    parameters, gmacs = recorded_cost(spec)
    checkpoint = next(iter(checkpoints_of(name)), None)
    return ModelRow(
        name=name,
        task=spec.task,
        parameters=parameters,
        gmacs=gmacs,
        img_size=spec.img_size,
        top1=checkpoint.top1 if checkpoint else None,
        top5=checkpoint.top5 if checkpoint else None,
        licence=checkpoint.licence if checkpoint else "",
        tag=checkpoint.tag.partition(".")[2] if checkpoint else "",
    )
