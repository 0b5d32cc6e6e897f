"""`regard explain --score`: which explanations can be trusted, for this model on these images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.explaining.score_table import BETTER, Judged, MapScore, Outcome, ScoreTable, write

if TYPE_CHECKING:
    from torch import Tensor

    from regard.evaluation.paired import Difference
    from regard.explanation.faithfulness import Faithfulness
    from regard.explanation.method import Method, Passes
    from regard.explanation.sanity import Cascade
    from regard.inference.loaded import LoadedModel
    from regard.reporting.pictures.faithfulness import FaithfulnessPicture
    from regard.reporting.pictures.picture import Language

MOST = 50  # images
FEWEST = 6  # images, below which nothing is decided
ENOUGH = (
    20  # images, that show a difference of 0.66 standard deviations with 80% power: from here on none shown is none
)
SANITY_IMAGES = 8
ALPHA = 0.05
BACKWARD = 2  # forward passes in the time of a backward one


def score_methods(
    loaded: LoadedModel,
    methods: Sequence[Method],
    sources: Sequence[Any],
    classes: Sequence[int] | np.ndarray,
    *,
    ids: Sequence[str] | None = None,
    out: str | Path | None = None,
    most: int = MOST,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    lang: Language = "en",
    seed: int = 0,
    on_event: OnEvent = silent,
) -> ScoreTable:
    """Measure how faithful each method's maps are, against a random and a centre map, and check its sanity.

    Args:
        loaded: a classifier
        methods: those to score; each must be defined for the model
        sources: readable images (paths, PIL images, arrays)
        classes: (N,) the class of each image that is explained
        ids: names of the images; else their paths
        out: a folder for score.csv, score.json, faithfulness.svg and faithfulness.csv
        most: images that are used, spread evenly over the given ones
        precision: of the passes on changed images; auto takes bfloat16 where a short measurement finds it faster
        lang: language of the figure
        seed: of the random orders and of the shuffled weights
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    import torch

    from regard.explanation.faithfulness import STEPS, cell_grid, faithfulness, passes
    from regard.explanation.sanity import GROUPS
    from regard.inference.loaded import named_images
    from regard.inference.precision import choose_precision
    from regard.reporting.words import duration, plural

    if not methods:
        raise RegardError("score: no method given; name one or more, for example gradcam")
    check_scorable(loaded)
    if not len(sources):
        raise RegardError("score: no image given; name a file or a folder of images")
    chosen = spread(len(sources), most)
    names = tuple(ids) if ids is not None else named_images(list(sources))[0]
    images = torch.stack([loaded.preprocess(sources[place]) for place in chosen])
    wanted = torch.as_tensor(np.asarray(classes)[chosen].astype(np.int64))
    count = len(images)
    work = passes(len(methods), count)
    checked = spread(count, SANITY_IMAGES)
    explained = len(checked) * (GROUPS + 3)  # for the checks: with the weights as they are, each stage, two classes
    per_image = cost_of(methods, loaded, images[:1])
    on_event({"event": "note", "text": plan_words(len(methods), count, len(sources), work, per_image, explained)})
    kind = choose_precision(loaded.model, loaded.preprocess.size, work, precision)
    clock = 0.0

    def note(done: int) -> None:
        nonlocal clock
        if done == 1:
            clock = perf_counter()  # what is set up once, with the first image, is not counted
        if done == 2 and count > 2:
            maps = per_image.forward + BACKWARD * per_image.backward
            share = maps / (maps + work / count)
            seconds = (perf_counter() - clock) * (count - 2 + explained * share)
            on_event({"event": "note", "text": f"about {duration(seconds)} (measured on the second image)"})
        on_event({"event": "progress", "title": "scoring", "done": done, "total": count})

    independent = loaded.problem == "multi_label" or len(loaded.classes) == 1
    found = faithfulness(
        loaded.model, methods, images, wanted, precision=kind, independent=independent, seed=seed, on_image=note
    )
    on_event(
        {"event": "note", "text": f"checking {plural(len(methods), 'method')} with shuffled weights and another class"}
    )
    shuffled, alike = checks_of(loaded, methods, images[checked], wanted[checked], seed)
    table = ScoreTable(
        model=loaded.name,
        images=count,
        of=len(sources),
        steps=STEPS,
        cells=cell_grid(images.shape[-2:]),
        precision=kind,
        rows=rows_of(found, methods, shuffled, alike),
        stages=shuffled.reached if shuffled else (),
        left=left_of(shuffled, methods),
        ids=tuple(names[place] for place in chosen),
        classes=tuple(loaded.classes[int(number)] for number in wanted),
        areas=dict(zip(found.names, found.areas().tolist(), strict=True)),
        picture=picture_of(loaded.name, found),
    )
    if out is not None:
        write(table, Path(out), lang)
    return table


def check_scorable(loaded: LoadedModel) -> None:
    """Raises RegardError for a model that does not answer with classes or labels."""
    if loaded.problem == "regression":
        raise RegardError(
            f"score: {loaded.name} answers with numbers, and deletion and insertion are defined for classes; leave "
            "--score out"
        )


def spread(count: int, most: int) -> np.ndarray:
    """Places of at most `most` of `count` things, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def checks_of(
    loaded: LoadedModel, methods: Sequence[Method], images: Tensor, classes: Tensor, seed: int
) -> tuple[Cascade | None, dict[str, float]]:
    """The randomised-weights check, and, by method that knows of classes, how like the maps of two of them are."""
    import torch

    from regard.explanation.sanity import across_classes, cascade
    from regard.inference.precision import device_of

    device = device_of(loaded.model)
    images, classes = images.to(device), classes.to(device)
    shuffled = cascade(loaded.model, methods, images, classes, seed=seed)
    knowing = [method for method in methods if method.of_class and len(loaded.classes) > 1]
    with torch.no_grad():
        least = loaded.model(images).scatter(1, classes[:, None], torch.inf).argmin(1)
    alike = across_classes(loaded.model, knowing, images, classes, least).mean(axis=1)
    return shuffled, {method.name: float(value) for method, value in zip(knowing, alike, strict=True)}


# What is found ------------------------------------------------------------------------------------------------


def judge(scores: np.ndarray) -> list[Judged]:
    """(M + 2, N) scores of M methods, then of the random and the centre map, on N images -> a judgement per method.

    A difference is shown where its two-sided t test over images, corrected for M methods, has p < 0.05. "undecided":
    fewer than FEWEST images, nothing shown either way by fewer than ENOUGH, or what the correction alone takes away.
    """
    from regard.evaluation.paired import paired_difference
    from regard.evaluation.statistics import holm_correct

    *methods, random, centre = scores
    images = scores.shape[1]
    if images < 2:
        return [Judged(None, None, "undecided")] * len(methods)
    families = []
    for baseline in (random, centre):
        alone = [paired_difference(method, baseline) for method in methods]
        corrected = holm_correct([one.p_value for one in alone])
        families.append([(one, one._replace(p_value=p)) for one, p in zip(alone, corrected, strict=True)])
    judged = []
    for against_random, against_centre in zip(*families, strict=True):
        outcome: Outcome = BETTER
        worse: tuple[Outcome, Outcome] = ("no better than random", "no better than a centre map")
        for (alone, corrected), otherwise in zip((against_random, against_centre), worse, strict=True):
            if not _shown(corrected):
                unclear = _shown(alone) or (images < ENOUGH and corrected.p_value >= ALPHA)
                outcome = "undecided" if unclear else otherwise
                break
        if images < FEWEST:
            outcome = "undecided"
        judged.append(Judged(against_random[1], against_centre[1], outcome))
    return judged


def _shown(difference: Difference) -> bool:
    return difference.mean > 0 and difference.p_value < ALPHA


def rows_of(
    found: Faithfulness, methods: Sequence[Method], shuffled: Cascade | None, alike: Mapping[str, float]
) -> tuple[MapScore, ...]:
    """The rows of the table. alike: rank correlation with another class, of the methods that know of classes."""
    from regard.explanation.faithfulness import DELETION, FILLS, INSERTION
    from regard.explanation.sanity import ALIKE

    areas = found.areas().mean(axis=1)  # (M + 2, 2, F)
    judged = [*judge(found.scores()), None, None]
    left = [None] * len(methods) if shuffled is None else shuffled.left()[:, -1].tolist()
    rows = []
    for number, name in enumerate(found.names):
        deletion, insertion = (
            dict(zip(FILLS, areas[number, which].tolist(), strict=True)) for which in (DELETION, INSERTION)
        )
        if number >= len(methods):
            rows.append(MapScore(name, deletion, insertion))
            continue
        rest, other = left[number], alike.get(name)
        rows.append(
            MapScore(
                name,
                deletion,
                insertion,
                judged[number],
                shuffled=rest,
                passes=None if rest is None else rest <= ALIKE,
                of_class=methods[number].of_class,
                other_class=other,
                changes=None if other is None else other <= ALIKE,
            )
        )
    return tuple(rows)


def left_of(shuffled: Cascade | None, methods: Sequence[Method]) -> dict[str, list[float]]:
    """Method -> rank correlation that is left after each stage."""
    if shuffled is None:
        return {}
    return {method.name: row for method, row in zip(methods, shuffled.left().tolist(), strict=True)}


def picture_of(model: str, found: Faithfulness) -> FaithfulnessPicture:
    """The figure: mean curves, each with the interval of its difference to the random map's, and the scores."""
    from regard.evaluation.paired import paired_difference
    from regard.explanation.faithfulness import BASELINES, FILLS
    from regard.reporting.pictures.faithfulness import FaithfulnessPicture

    images = found.curves.shape[1]
    random = found.curves[-len(BASELINES)]
    bands = np.zeros((len(found.names), *found.curves.shape[2:]))
    scores = found.scores()
    gains = np.zeros((len(found.names), 3))
    for number, curves in enumerate(found.curves):
        if images < 2:
            gains[number] = (scores[number] - scores[-len(BASELINES)]).mean()
            continue
        for place in np.ndindex(bands.shape[1:]):
            gap = paired_difference(curves[:, *place], random[:, *place])
            bands[number][place] = gap.high - gap.mean
        gains[number] = paired_difference(scores[number], scores[-len(BASELINES)])[:3]
    return FaithfulnessPicture(model, images, found.names, FILLS, found.shares, found.curves.mean(axis=1), bands, gains)


# What it takes ------------------------------------------------------------------------------------------------


def cost_of(methods: Sequence[Method], loaded: LoadedModel, image: Tensor) -> Passes:
    """Passes that the maps of all methods take, of one image."""
    from regard.explanation.method import Passes

    costs = [method.passes(loaded.model, image) for method in methods]
    return Passes(sum(cost.forward for cost in costs), sum(cost.backward for cost in costs))


def plan_words(methods: int, images: int, of: int, curves: int, per_image: Passes, explained: int) -> str:
    """What will be run, in passes of one image; explained: images of the checks, each with maps by all methods."""
    from regard.reporting.words import plural

    used = f"{images:,} of {of:,} images, spread evenly" if of > images else plural(images, "image")
    maps, checks = (
        f"{count * per_image.forward:,.0f} forward and {count * per_image.backward:,.0f} backward"
        for count in (images, explained)
    )
    return (
        f"score: {plural(methods, 'method')}, a random and a centre map on {used}: {curves:,} forward passes for the "
        f"curves; {maps} for the maps; {checks} for the checks"
    )
