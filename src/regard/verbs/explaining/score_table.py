"""What `regard explain --score` found: its table in words, as files, and what is flagged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.verbs.tables import atomic_file, table_writer

if TYPE_CHECKING:
    from regard.evaluation.paired import Difference
    from regard.reporting.pictures.faithfulness import FaithfulnessPicture
    from regard.reporting.pictures.picture import Language

Outcome = Literal["better than random and centre", "no better than random", "no better than a centre map", "undecided"]
BETTER: Outcome = "better than random and centre"
READ = (
    "deletion (low is good) and insertion (high is good): mean log-odds of the class while the image is removed, or "
    "revealed, the most important cells first; score: insertion less deletion, the mean of both fills, above that of "
    "two maps that know nothing of the model"
)
CHECKS = (
    "rank correlation of a method's maps with those of the same model with its weights shuffled, and with those of the "
    "least likely class; above {alike:g} they count as the same"
)
FLAGGED = (
    "Flagged is what these images do not show to be better, at the 5% level after correction for the number of methods "
    "(more images may do so), or what hardly depends on the weights."
)
WITHIN = "These numbers compare methods for this model on these images; they do not compare models."


@dataclass(frozen=True)
class Judged:
    """A method against the random map and the centre map, image by image; None where there is one image only.

    p-values are corrected for the number of methods (Holm), for each of the two by itself; intervals are not.
    """

    random: Difference | None
    centre: Difference | None
    outcome: Outcome


@dataclass(frozen=True)
class MapScore:
    """One map's row: mean log-odds under its curves by fill, and, of a method, what was found about it.

    shuffled: rank correlation with its maps that is left when all weights are shuffled, passes: whether that is little
    enough, None for a model without weights. other_class: rank correlation with its maps for the least likely class,
    changes: whether that is little enough; None where a method does not know of classes (of_class), or there is one.
    """

    name: str
    deletion: Mapping[str, float]
    insertion: Mapping[str, float]
    judged: Judged | None = None
    shuffled: float | None = None
    passes: bool | None = None
    of_class: bool = True
    other_class: float | None = None
    changes: bool | None = None

    @property
    def flagged(self) -> bool:
        """Not shown to be better than both baselines, or much the same map without what the model has learned."""
        return self.judged is not None and (self.judged.outcome != BETTER or self.passes is False)


@dataclass(frozen=True)
class ScoreTable:
    """What `--score` found. rows: the methods, then the random and the centre map.

    of: images that there were; cells: down and across; left: method -> rank correlation that is left after each of
    `stages`; areas: map -> for each of ids, mean log-odds of deletion and insertion by fill.
    """

    model: str
    images: int
    of: int
    steps: int
    cells: tuple[int, int]
    precision: str
    rows: tuple[MapScore, ...]
    stages: tuple[str, ...] = field(repr=False)
    left: Mapping[str, list[float]] = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    areas: Mapping[str, list[Any]] = field(repr=False)
    picture: FaithfulnessPicture = field(repr=False)

    def lines(self) -> Iterator[str]:
        """How it was measured, the scores, the two checks, and what is flagged."""
        from regard.explanation.sanity import ALIKE
        from regard.reporting.words import plural

        count = f"{self.images:,} of {self.of:,} images" if self.of > self.images else plural(self.images, "image")
        down, across = self.cells
        yield f"{self.model}: maps scored on {count}, {down}x{across} cells in {self.steps} steps, {self.precision}"
        yield READ
        methods = [row for row in self.rows if row.judged is not None]
        yield ""
        yield from aligned([*self._header(), *map(_figures, self.rows)])
        yield ""
        yield CHECKS.format(alike=ALIKE)
        yield ""
        yield from aligned([["", "weights shuffled", "another class"], *map(_checks, methods)])
        yield ""
        flags = [f"{row.name} ({', '.join(_reasons(row))})" for row in methods if row.flagged]
        yield f"FLAGGED: {'; '.join(flags)}." if flags else "No method is flagged."
        yield FLAGGED
        yield WITHIN

    def _header(self) -> list[list[str]]:
        fills = list(self.rows[0].deletion)
        blank = [""] * (len(fills) - 1)
        return [
            ["", "deletion", *blank, "insertion", *blank, "score above", "score above", ""],
            ["", *fills, *fills, "random (95% interval)", "centre (95% interval)", ""],
        ]


def _figures(row: MapScore) -> list[str]:
    from regard.reporting.words import decimal_2

    areas = [decimal_2(value) for value in (*row.deletion.values(), *row.insertion.values())]
    if row.judged is None:
        return [row.name, *areas, "", "", ""]
    return [row.name, *areas, _difference(row.judged.random), _difference(row.judged.centre), row.judged.outcome]


def _difference(found: Difference | None) -> str:
    from regard.reporting.words import MISSING, decimal_2, interval

    if found is None:
        return MISSING
    sign = "+" if found.mean > 0 else ""
    return f"{sign}{decimal_2(found.mean)} ({interval(found.low, found.high, decimal_2)})"


def _checks(row: MapScore) -> list[str]:
    from regard.reporting.words import MISSING, decimal_2

    passes = {None: "", True: " passes", False: " FAILS"}[row.passes]
    changes = {None: "", True: " changes", False: " hardly changes"}[row.changes]
    other = f"{decimal_2(row.other_class)}{changes}" if row.of_class else "class-blind by definition"
    return [row.name, f"{decimal_2(row.shuffled)}{passes}" if row.passes is not None else MISSING, other]


def _reasons(row: MapScore) -> Iterator[str]:
    if row.judged is not None and row.judged.outcome != BETTER:
        yield row.judged.outcome
    if row.passes is False:
        yield "much the same map with shuffled weights"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns under each other, words to the left, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def write(table: ScoreTable, out: Path, lang: Language) -> None:
    """score.csv, score.json and the figure, each whole or not at all."""
    columns: dict[str, type] = {"method": str}
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {"method": row.name}
        for which, areas in (("deletion", row.deletion), ("insertion", row.insertion)):
            cells |= {f"{which}_{fill}": value for fill, value in areas.items()}
        for name in ("random", "centre"):
            found = getattr(row.judged, name) if row.judged else None
            parts = found._asdict() if found else dict.fromkeys(("mean", "low", "high", "p_value"))
            cells |= {f"above_{name}{'' if part == 'mean' else f'_{part}'}": value for part, value in parts.items()}
        cells |= {
            "outcome": row.judged.outcome if row.judged else None,
            "flagged": row.flagged if row.judged else None,
            "shuffled_weights": row.shuffled,
            "shuffled_weights_passes": row.passes,
            "other_class": row.other_class,
            "other_class_changes": row.changes,
        }
        rows.append(cells)
    kinds = {"outcome": str, "flagged": bool, "shuffled_weights_passes": bool, "other_class_changes": bool}
    columns |= {name: kinds.get(name, float) for name in rows[0] if name != "method"}
    with table_writer(out / "score.csv", columns) as write_row:
        for cells in rows:
            write_row(cells)
    plain = {name: value for name, value in vars(table).items() if name not in ("picture", "rows")}
    plain["rows"] = [{**asdict(row), "judged": _plain(row.judged)} for row in table.rows]
    with atomic_file(out / "score.json") as beside:
        beside.write_text(json.dumps(plain, indent=1, allow_nan=False), encoding="utf-8")
    for name, text in (("faithfulness.svg", table.picture.svg(lang)), ("faithfulness.csv", table.picture.csv())):
        with atomic_file(out / name) as beside:
            beside.write_text(text, encoding="utf-8")


def _plain(judged: Judged | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    against = {"random": judged.random, "centre": judged.centre}
    return {**{name: found and found._asdict() for name, found in against.items()}, "outcome": judged.outcome}
