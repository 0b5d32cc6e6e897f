"""What `train` and `compare` do before anything is trained: open, check, leave out by name, split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from regard.errors import RegardError
from regard.results import CheckReport, ProblemChoice
from regard.verbs.check import check_opened
from regard.verbs.events import OnEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from regard.data.sources import ImageSet
    from regard.data.splits import Split
    from regard.inference.loaded import LoadedModel
    from regard.training.recipe import Head, Method, Recipe

OnBadImage = Literal["skip", "error"]
SHOWN = 10  # file names in a line
# Data sets in which left and right carry meaning.
NOT_MIRRORED = ("digits", "MNIST", "EMNIST", "KMNIST", "QMNIST", "SVHN", "USPS")


@dataclass(frozen=True)
class Prepared:
    """Images that can be read, what was found about them, and how a seed splits them."""

    images: ImageSet
    checked: CheckReport
    keep_leaks: bool

    def split(self, seed: int) -> Split:
        """Train, validation and test rows; leaked test images are left out unless they are kept on purpose."""
        from regard.data.splits import split_images

        split = split_images(self.images, seed, self.checked.groups)
        leaked = frozenset(self.checked.leaked)
        if not leaked or self.keep_leaks:
            return split
        test = np.array([row for row in split.test if self.images.ids[row] not in leaked], dtype=np.int64)
        left = len(split.test) - len(test)
        group = " or images of their group" if self.images.groups else ""
        if not len(test):
            raise RegardError(
                f"{self.images.name}: every test image has a near-duplicate{group} in train or val; "
                "mend the split, or use --keep-leaks"
            )
        note = f"{left} test images with a near-duplicate{group} in train or val are left out of scoring; "
        note += "see `regard check`"
        return replace(split, test=test, notes=(*split.notes, note)) if left else split

    def folds(self, folds: int, repeat: int = 0) -> tuple[Split, ...]:
        """`folds` splits in which every image is once a test image; near-duplicates and groups stay together."""
        from regard.data.splits import fold_images

        return fold_images(self.images, folds, repeat, self.checked.groups)


def prepare(
    data: str | Path,
    *,
    max_bad: float,
    on_bad_image: OnBadImage,
    keep_leaks: bool,
    on_event: OnEvent,
    target: Sequence[str] = (),
    problem: ProblemChoice = "auto",
    group: str | None = None,
    slices: Sequence[str] = (),
) -> Prepared:
    """Open and check a data set once; unreadable files are left out by name, or an error.

    What was decided about the labels is said. target, problem, group, slices: as in `open_images`.
    """
    from regard.data.sources import open_images

    images = open_images(data, target=target, problem=problem, group=group, slices=slices)
    for note in images.notes:
        on_event({"event": "note", "text": note})
    checked = check_opened(images, max_bad=max_bad, on_event=on_event)
    for finding in checked.findings:
        if finding.severity != "note":
            on_event({"event": "note", "text": f"check: {finding.message}"})
    bad = frozenset(checked.unreadable)
    if bad and (on_bad_image == "error" or len(bad) > max_bad * len(images)):
        first = sorted(bad)[0]
        remedy = "" if on_bad_image == "error" else f", or raise --max-bad above {max_bad:g}"
        raise RegardError(
            f"{images.name}: {len(bad)} of {len(images)} files cannot be read (first: {first}); "
            f"`regard check` names them; remove them{remedy}"
        )
    if bad:
        named = ", ".join(sorted(bad)[:SHOWN]) + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")
        on_event({"event": "note", "text": f"left out, unreadable: {named}"})
        images = images.select(np.array([row for row, id_ in enumerate(images.ids) if id_ not in bad]))
    return Prepared(images, checked, keep_leaks)


def load_aloud(
    model: Any,
    on_event: OnEvent,
    weights: str | Path | None = None,
    classes: tuple[str, ...] | None = None,
    img_size: int | None = None,
) -> LoadedModel:
    """The model of a verb; what is downloaded, and what loading changed, is said."""
    from regard.inference.loaded import LoadedModel, load_model

    def say(text: str) -> None:
        on_event({"event": "note", "text": text})

    if isinstance(model, LoadedModel):
        return model
    loaded = load_model(model, weights=weights, classes=classes, img_size=img_size, announce=say)
    for message in loaded.messages:
        say(message)
    return loaded


def load_for(
    model: Any,
    method: str,
    classes: tuple[str, ...],
    on_event: OnEvent,
    *,
    weights: str | Path | None = None,
    img_size: int | None = None,
    force: bool = False,
) -> LoadedModel:
    """The model that a run begins with: untrained for scratch, with published (or the user's) weights otherwise."""
    from regard.inference.loaded import fresh_model

    if method == "scratch" and isinstance(model, str):
        return fresh_model(model, classes, img_size, force=force)
    return load_aloud(model, on_event, weights, classes, img_size)


def untrained(
    model: str | LoadedModel, classes: tuple[str, ...], img_size: int | None = None, force: bool = False
) -> LoadedModel:
    """A model for its sheet and its speed; nothing is downloaded."""
    from regard.inference.loaded import fresh_model, load_model

    if not isinstance(model, str):
        return model
    if Path(model).is_dir() or len(Path(model).parts) > 1:
        return load_model(model, img_size=img_size)
    return fresh_model(model, classes, img_size, force=force)


def recipe_options(arguments: Mapping[str, Any], images: ImageSet) -> dict[str, Any]:
    """The fields of a recipe among a verb's arguments, as far as they were given; method and head are none of them."""
    from dataclasses import fields

    from regard.training.recipe import Recipe

    names = {one.name for one in fields(Recipe)} - {"method", "head", "flip"}
    given = {name: value for name, value in arguments.items() if name in names and value is not None}
    flip = arguments.get("flip")
    return {**given, "flip": mirrored(images) if flip is None else flip == "yes"}


def recipe_of(
    loaded: LoadedModel, method: Method, head: Head, images: ImageSet, train: np.ndarray,
    given: Mapping[str, Any], on_event: OnEvent,
) -> Recipe:  # fmt: skip
    """The recipe of a model for these training rows, with what was `given` of it; what is unlikely meant is said."""
    from regard.training.recipe import recipe_for, warnings
    from regard.training.tasks import advice, suited

    size, count = loaded.preprocess.size, len(train)
    recipe = recipe_for(loaded.spec, method, count, size, given.get("images_seen"), head, images.problem)
    recipe, _ = suited(recipe, images.problem, images.boxes)
    recipe = recipe.with_overrides(given)
    if loaded.spec is not None:
        for line in warnings(recipe, loaded.spec, size, count):
            on_event({"event": "warning", "text": line})
    if line := advice(images, train, recipe):
        on_event({"event": "note", "text": line})
    return recipe


def mirrored(images: ImageSet) -> bool:
    """False for the known data sets of written characters: a mirrored 3 is no 3."""
    return images.name.removeprefix("torchvision:") not in NOT_MIRRORED
