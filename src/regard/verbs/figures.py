"""`regard figures`: what goes on inside a model, each mechanism as one figure with its formula and its numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.figure_images import find, readable
from regard.verbs.figure_list import FIGURES, Entry, Job, Options
from regard.verbs.folders import no_empty_folder
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor, nn

    from regard.inference.loaded import LoadedModel
    from regard.reporting.pictures import Language, Picture

UNTRAINED = "none"
UNTRAINED_CLASSES = 10
WORTH_SAYING = 5.0  # seconds of work from which the time is said first
PAGE = "index.html"
FILES = {PAGE, *(f"{name}.{kind}" for name in FIGURES for kind in ("svg", "csv"))}


@dataclass(frozen=True)
class Figures:
    """What `figures` has drawn. pictures: by name, each shows itself in a notebook; skipped: name -> why not."""

    model: str
    images: int
    drawn: tuple[str, ...]
    skipped: dict[str, str]
    out: Path | None
    pictures: dict[str, Picture] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """What was drawn, what was not and why, and where it lies."""
        from regard.reporting.words import plural

        on = f" on {plural(self.images, 'image')}" if self.images else ""
        yield f"{plural(len(self.drawn), 'figure')} of {self.model}{on}: {', '.join(self.drawn)}"
        reasons: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            yield f"not drawn: {', '.join(names)}: {reason}"
        yield f"page: {self.out / PAGE}" if self.out else "nothing was written; --out DIR writes SVG, CSV and a page"


def figures(
    model: str | Path | LoadedModel | nn.Module,
    images: Sequence[str | Path | Image.Image | np.ndarray | Tensor] = (),
    *,
    only: Sequence[str] = (),
    out: str | Path | None = None,
    lang: Literal["en", "fr", "ro"] = "en",
    limit: int = 64,
    against: str | Path | LoadedModel | nn.Module | None = None,
    layers: Sequence[str] = (),
    against_layers: Sequence[str] = (),
    feature: Literal["tokens", "class", "mean"] = "tokens",
    layer: int = -1,
    head: int = 0,
    patch: tuple[int, int] | None = None,
    neighbours: int = 5,
    weights: str | Path | None = None,
    batch_size: int = 16,
    overwrite: bool = False,
    on_event: OnEvent = silent,
) -> Figures:
    """Draw what goes on inside a model.

    Every figure that applies to the model and the images is drawn; of the others it is said why not. Each is written
    as OUT/NAME.svg and its numbers as OUT/NAME.csv; OUT/index.html shows them all, with formulas and how to read them.
    Without images, those that need none are drawn.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        images: image files, folders, class folders, a table (path, label), or digits
        only: names of figures to draw instead of all that apply
        out: folder to make for the figures
        lang: language of titles, formulas and explanations
        limit: images to use at most, evenly spread over those given
        against: another model, for CKA, fields of view and signals by depth: a run folder, a name, or timm:NAME
        layers: names of layers, or patterns such as blocks.*.attn, for CKA, fields of view and signals; by default what
            leaves each block
        against_layers: the same of the other model
        feature: what CKA compares of a layer: all tokens (or pixels of its map), the class token, or their mean
        layer: attention layer whose Q, K and V are drawn, counted from 0; -1 is the last
        head: its head
        patch: row and column of the patch whose attention is drawn in place of the class token's
        neighbours: neighbours of an image that are looked at, by pixels and by what the head reads
        weights: weights file to use in place of a download; none takes both models untrained
        batch_size: images in one pass, and in a batch of CKA (4 or more)
        overwrite: replace the figures that OUT holds
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    entries = _chosen([only] if isinstance(only, str) else only)
    if batch_size < 1:
        raise RegardError(f"batch_size={batch_size}: expected at least 1")
    folder = _folder(Path(out), overwrite) if out is not None else None
    asked = find(images, limit)
    options = Options(
        _names(layers), _names(against_layers), feature, layer, head, patch, neighbours, batch_size
    )  # fmt: skip
    loaded = _load(model, weights, on_event)
    other = None if against is None else _load(against, weights if weights == UNTRAINED else None, on_event)
    shown = readable(asked, loaded, on_event) if len(asked) else asked
    job = Job(loaded, other, _before(model, loaded), shown, options, _names(only), on_event)
    pictures, skipped = _draw(entries, job)
    if folder is not None:
        with no_empty_folder(folder):
            _write(folder, pictures, skipped, job, lang)
    return Figures(loaded.name, len(shown), tuple(pictures), skipped, folder, pictures)


def _draw(entries: Sequence[Entry], job: Job) -> tuple[dict[str, Picture], dict[str, str]]:
    """The pictures by name, and why the others are not drawn. A figure that was named has to be possible."""
    refused = {entry.name: reason for entry in entries if (reason := entry.refusal(job)) is not None}
    for name in job.named:
        if name in refused:
            raise RegardError(f"{name}: {refused[name]}; {_possible(name, job)}")
    wanted = [entry for entry in entries if entry.name not in refused]
    _announce(wanted, job)
    pictures: dict[str, Picture] = {}
    for entry in wanted:
        try:
            pictures[entry.name] = entry.make(job)
        except RegardError as error:
            if entry.name in job.named or _is_of_options(entry, job):
                raise
            refused[entry.name] = str(error).removeprefix(f"{entry.name}: ")
    if not pictures:
        raise RegardError(f"{job.model.name}: no figure can be drawn without images; name some files or a folder")
    order = [entry.name for entry in entries]
    return pictures, {name: refused[name] for name in order if name in refused}


def _is_of_options(entry: Entry, job: Job) -> bool:
    """Whether the figure failed by what the caller chose for it, which is a mistake to be named."""
    chosen = {
        "qkv_channels": (job.options.layer, job.options.head) != (-1, 0),
        "class_attention": job.options.patch is not None,
        "cka": bool(job.options.layers or job.options.against_layers) or job.options.feature != "tokens",
    }
    chosen |= dict.fromkeys(
        ("field_of_view", "signal_by_depth"), bool(job.options.layers or job.options.against_layers)
    )
    return chosen.get(entry.name, False)


def _possible(name: str, job: Job) -> str:
    """What to do about a figure that was named and cannot be drawn."""
    if FIGURES[name].refusal(job) in (None, "it needs images"):
        return "name image files or a folder after the model"
    others = [entry.name for entry in FIGURES.values() if entry.refusal(job) is None]
    return f"of what is given {', '.join(others)} can be drawn"


def _announce(entries: Sequence[Entry], job: Job) -> None:
    """Says how long it will take, measured on the first images, where that is long."""
    costly = [entry for entry in entries if entry.fewest and len(job.shown)]
    if not costly:
        return
    import torch

    from regard.analysis.passes import evaluating
    from regard.inference.precision import device_of
    from regard.reporting.words import duration, plural

    batch = next(job.shown.batches(job.model, job.options.batch_size)).to(device_of(job.model.model))
    with evaluating(job.model.model), torch.no_grad():
        job.model.model(batch[:1])  # the first pass also prepares
        start = time.perf_counter()
        job.model.model(batch)
        a_pass = (time.perf_counter() - start) / len(batch)
    images = {entry.name: min(entry.most or len(job.shown), len(job.shown)) for entry in costly}
    seconds = a_pass * sum(entry.passes(job) * images[entry.name] for entry in costly)
    if seconds >= WORTH_SAYING:
        text = f"{plural(len(entries), 'figure')} on {plural(len(job.shown), 'image')}: about {duration(seconds)}"
        job.on_event({"event": "note", "text": text})


def _chosen(only: Sequence[str]) -> list[Entry]:
    """The entries named, in the order of the list; all where none is."""
    for name in only:
        if name not in FIGURES:
            near = get_close_matches(name, FIGURES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIGURES)}"
            raise RegardError(f"only: no figure {name!r}; {hint}")
    return [entry for entry in FIGURES.values() if not only or entry.name in only]


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _load(model: Any, weights: str | Path | None, on_event: OnEvent) -> LoadedModel:
    """The model, untrained where the weights are "none". A compiled one is refused before anything is done."""
    from torch import nn

    from regard.taps import refuse_frozen

    if isinstance(model, nn.Module):
        refuse_frozen(model)
    if weights == UNTRAINED:
        return _untrained(model)
    loaded = load_aloud(model, on_event, weights)
    refuse_frozen(loaded.model)
    loaded.model.eval()
    return loaded


def _untrained(model: Any) -> LoadedModel:
    """A fresh model of a name, the same one each time; one that segments, too."""
    import torch

    from regard.inference.loaded import FROM_SCRATCH, LoadedModel, default_preprocess, fresh_model
    from regard.models.registry import create_model, model_spec

    if not isinstance(model, str) or Path(model).is_dir():
        raise RegardError("weights: none is for the name of a model, which is then made untrained; give such a name")
    classes = tuple(f"class {number}" for number in range(UNTRAINED_CLASSES))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model.startswith("timm:") or (spec := model_spec(model.partition(".")[0])).task != "segment":
            loaded = fresh_model(model, classes)
        else:
            made = create_model(spec.name, UNTRAINED_CLASSES)
            loaded = LoadedModel(made, default_preprocess(spec.img_size), classes, spec.name, FROM_SCRATCH, spec=spec)
    loaded.model.eval()
    return loaded


def _before(model: Any, loaded: LoadedModel) -> nn.Module | None:
    """The model of a run with the weights that its training began with, where the run has kept them."""
    if not isinstance(model, str | Path) or not Path(model).is_dir():
        return None
    import copy

    from regard.runs.run import Run
    from regard.weights import load_state, read_state

    path = Run.open(model).snapshot_path(0)
    if not path.is_file():
        return None
    before = copy.deepcopy(loaded.model)
    load_state(before, read_state(path), path)
    return before.eval()


def _folder(folder: Path, overwrite: bool) -> Path:
    """The folder, which holds nothing yet, or figures that may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise RegardError(f"{folder}: is a file; expected a folder for the figures: choose another --out")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if held and not overwrite:
        raise RegardError(f"{folder}: already holds {held[0]!r}; choose another --out, or --overwrite figures there")
    if strange := [name for name in held if name not in FILES]:
        raise RegardError(f"{folder}: holds {strange[0]!r}, which is no figure, so it stays; choose another --out")
    return folder


def _write(folder: Path, pictures: Mapping[str, Picture], skipped: Mapping[str, str], job: Job, lang: Language) -> None:
    """NAME.svg and NAME.csv of each, then the page; whole files only, and none of an earlier call."""
    from regard.reporting.gallery import Gallery, render_gallery
    from regard.runs.atomic import write_atomic

    against = (job.against.name,) if job.against else ()
    gallery = Gallery((job.model.name, *against), len(job.shown), pictures, skipped)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            write_atomic(folder / f"{name}.svg", picture.svg(lang))
            write_atomic(folder / f"{name}.csv", picture.csv())
        write_atomic(folder / PAGE, render_gallery(gallery, lang))
        for path in folder.iterdir():
            if path.name in FILES and path.stem not in (*pictures, "index"):
                path.unlink()
    except OSError as error:
        raise RegardError(
            f"{folder}: cannot be written ({error.strerror}); make room or choose another --out"
        ) from None
