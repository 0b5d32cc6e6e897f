"""Names for masks, as `segment` is asked for them: `--labels-from "dog,cat"` and `--label-with RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from regard.data.decoding import ImageSource
    from regard.inference.loaded import LoadedModel
    from regard.inference.unknown import UnknownScore
    from regard.masks import Mask
    from regard.runs import Run
    from regard.segmentation.naming_by_model import Threshold

PHOTOS = 100  # validation photos of which crops are made: a minute of a ViT-B on two cores
ALLOWED = 0.05  # share of names that may be wrong, where the run itself is no worse


def names_of(text: str) -> tuple[str, ...]:
    """The names in "dog, cat, boat". Raises RegardError for none, an empty one, and one given twice."""
    names = tuple(" ".join(name.split()) for name in text.split(","))
    if not all(names):
        raise RegardError(f"labels-from {text!r}: an empty name; expected names between commas, as in 'dog,cat,boat'")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise RegardError(f"labels-from: {twice[0]!r} is given twice; give each name once")
    return names


@dataclass(frozen=True)
class ModelNamer:
    """Names masks by a trained model.

    threshold: the probability from which on its class is a name; unknown: its score of what it does not know.
    """

    loaded: LoadedModel
    threshold: float
    unknown: UnknownScore | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may give."""
        return self.loaded.classes

    def name(self, image: ImageSource, masks: Sequence[Mask]) -> tuple[Mask, ...]:
        """The masks, in their order, with their names; see `name_by_model`."""
        from regard.segmentation.naming_by_model import name_by_model

        return name_by_model(self.loaded, image, masks, self.threshold, self.unknown)


def model_namer(model: Any, on_event: OnEvent = silent) -> ModelNamer:
    """The model of `--label-with`, its threshold fitted on crops of its validation photos where those can be found.

    model: the folder of a run, or what `load_model` takes. What the threshold is and whence is said. Raises RegardError
    for a model that does not give one class.
    """
    from regard.segmentation.naming_by_model import refuse_others

    loaded = load_aloud(model, on_event)
    refuse_others(loaded)
    found = _fitted(model, loaded, on_event)
    if isinstance(found, str):
        text = f"names from a probability of {loaded.unsure_below:.4g} on, which was found on whole photos: {found}"
        on_event({"event": "note", "text": f"{loaded.name}: {text}"})
        return ModelNamer(loaded, loaded.unsure_below)
    on_event({"event": "note", "text": f"{loaded.name}: {_told(found, loaded)}"})
    return ModelNamer(loaded, found.value, found.unknown)


def _fitted(model: Any, loaded: LoadedModel, on_event: OnEvent) -> Threshold | str:
    """The threshold, or why there is none."""
    from regard.inference.unknown import UnknownScore
    from regard.runs import Run
    from regard.segmentation.naming_by_model import fit_threshold
    from regard.verbs.run_images import images_of_run

    if not isinstance(model, str | Path) or not (Path(model) / "config.yaml").is_file():
        return "it is no run, so it has no validation photos to make crops of"
    run = Run.open(model)
    try:
        images, split = images_of_run(run)
    except RegardError as error:
        return f"its validation photos cannot be had ({error})"
    rows = split.val[np.linspace(0, len(split.val) - 1, min(PHOTOS, len(split.val))).round().astype(int)]
    on_event({"event": "note", "text": f"{loaded.name}: looking at crops of {len(rows):,} of its validation photos"})
    photos, unknown = [images.sources[int(row)] for row in rows], UnknownScore.load(run.folder)
    found = fit_threshold(loaded, photos, images.labels[rows], _allowed(run), unknown)
    return found or "none of its validation photos can be read"


def _allowed(run: Run) -> float:
    """The error among the validation photos of which the run is sure, but at least `ALLOWED`."""
    from regard.evaluation.calibration import accepted_error

    result = run.result()
    error = accepted_error(result.val, result.temperature, result.unsure_below).error.value
    return max(ALLOWED, error) if np.isfinite(error) else ALLOWED


def _told(found: Threshold, loaded: LoadedModel) -> str:
    from regard.reporting.words import percent

    if found.value > 1:
        return (
            f"gives no names: on {found.crops:,} crops of its validation photos it is wrong too often however sure it "
            "is; train it on crops of objects"
        )
    strange = (
        "what scores as unknown gets none"
        if found.unknown
        else f"what is none of its {len(loaded.classes):,} classes may bear a name all the same, unless the run is "
        "trained with --unknown"
    )
    return (
        f"names from a probability of {found.value:.4g} on (of whole photos {loaded.unsure_below:.4g}): of "
        f"{found.crops:,} crops of its validation photos {percent(found.named)} are named, "
        f"{percent(found.wrong)} of them wrongly; {strange}"
    )
