"""`regard predict`: what a model says about photos, one row each, whatever state they are in."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.answers import Answerer, Layout, Photo, Unknown
from regard.verbs.events import OnEvent, silent
from regard.verbs.parts import ROWS, Parts
from regard.verbs.prepare import load_aloud
from regard.verbs.rehearsal import rehearse
from regard.verbs.tables import FORMATS, table_writer
from regard.verbs.workers import Workers

if TYPE_CHECKING:
    from torch import nn

    from regard.data.photos import PhotoList
    from regard.inference.backends import Backend, Maker, Wish
    from regard.inference.loaded import LoadedModel

SHOWN = 1000  # rows in a terminal


@dataclass(frozen=True)
class PhotoAnswers:
    """What `predict` did: counts, the file or folder written, or the rows themselves where none was asked for.

    unsure, unknown: None where the model has no such threshold, as one that was not trained by us; continued: photos
    that an earlier call had answered; images_per_second: of the others, without loading the model; backend: what
    computed the answers.
    """

    model: str
    photos: int
    unsure: int | None
    unknown: int | None
    errors: int
    continued: int
    images_per_second: float
    backend: str
    out: Path | None
    rows: tuple[Photo, ...]
    classes: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """The rows for a terminal, or the name of the file, and the counts."""
        for photo in self.rows[:SHOWN]:
            yield photo.line(self.classes)
        if len(self.rows) > SHOWN:
            yield f"... and {len(self.rows) - SHOWN:,} more; --out FILE writes all of them"
        where = f" in {self.out}" if self.out else ""
        counts = [(self.unsure, "unsure"), (self.unknown, "unknown"), (self.errors, "unreadable")]
        told = ", ".join(f"{count:,} {word}" for count, word in counts if count is not None)
        yield f"{self.photos:,} photos{where}: {told}"
        before = f"; {self.continued:,} photos were answered before" if self.continued else ""
        if self.photos > self.continued:
            yield f"{self.images_per_second:.1f} images/s with {self.backend}{before}"
        else:
            yield f"nothing was left to do{before}"


def predict(
    model: str | Path | LoadedModel | nn.Module,
    photos: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    top: int = 3,
    weights: str | Path | None = None,
    batch_size: int = 32,
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    backend: Literal["auto", "torch", "openvino"] = "auto",
    max_drop: float = 0.0,
    calibrate: str | Path | None = None,
    workers: int = 1,
    on_event: OnEvent = silent,
) -> PhotoAnswers:
    """Classify photos, one row each, whatever state they are in.

    Rows come in the order of the photos, with the size and the time of change of the file that was read. A
    photo that cannot be read keeps its row, with an error code. Where photos have several labels, or numbers,
    there is a column for each. Cells of a CSV that a spreadsheet would run as a formula begin with an
    apostrophe.

    A file appears when it is whole. A folder is filled with Parquet files of 1,024 rows and takes any number of
    photos in constant memory: stopped in any way, the same command continues it, and it ends with the bytes of
    an undisturbed run. The same command given twice shares the work.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME
        photos: image files, and folders that are searched for image files
        out: table to write (.csv, .jsonl or .parquet), or a folder (no suffix, or with a slash at its end);
            without it the rows are returned
        top: most probable classes to give
        weights: weights file to use in place of a download
        batch_size: photos in one pass
        precision: auto takes bfloat16 where a short measurement finds it faster, fp32 gives the same bits each time
        backend: auto takes OpenVINO (pip install 'regard[fast]') where a measurement finds it faster
        max_drop: score per photo (top1: 0.01 is one point) that 8-bit integers may lose on validation photos;
            0: they are not considered
        calibrate: labelled photos to make and try the 8-bit model on, where those of the run are not at hand
        workers: processes that share the work, for a folder
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    import torch

    from regard.data.photos import find_photos
    from regard.inference.backends import Maker, Wish

    wish = Wish(backend, precision, max_drop)
    _check(model, out, top, batch_size, workers)
    listed = find_photos([photos] if isinstance(photos, str | Path) else photos)
    loaded = load_aloud(model, on_event, weights)
    loaded.model.eval()
    unknown = _unknown_of(model)
    maker = Maker(loaded, batch_size, torch.get_num_threads(), features=unknown is not None)
    job = Job(model, loaded, listed, unknown, min(top, len(loaded.classes)), maker, wish, calibrate, on_event)
    if out is None or _is_file(out):
        return _to_file(job, Path(out) if out else None)
    named = [photos] if isinstance(photos, str | Path) else photos
    same = {"model": str(model), "photos": [str(one) for one in named], "out": f"{out}/", "top": top}
    same |= {"weights": str(weights) if weights else None, "batch_size": batch_size, **asdict(wish)}
    return _to_folder(job, Path(out), Workers(workers - 1, same))


@dataclass(frozen=True)
class Job:
    """A call of `predict`, resolved."""

    model: Any
    loaded: LoadedModel
    photos: PhotoList
    unknown: Unknown | None
    top: int
    maker: Maker
    wish: Wish
    calibrate: str | Path | None
    on_event: OnEvent

    def backend(self) -> Backend:
        """Chosen as the user wishes."""
        from regard.inference.backends import choose_backend

        def say(text: str) -> None:
            self.on_event({"event": "note", "text": text})

        rehearsal = None
        if self.wish.max_drop > 0 and self.wish.backend != "torch" and self.unknown is None:
            try:
                rehearsal = rehearse(self.model, self.loaded, self.calibrate, self.maker.batch_size)
            except RegardError as error:
                if self.calibrate is not None:
                    raise
                say(f"int8 is not considered: {error}")
        return choose_backend(self.maker, len(self.photos), self.wish, rehearsal, say)

    @property
    def layout(self) -> Layout:
        """Columns of the table."""
        return Layout(self.loaded.problem, self.loaded.classes, self.top, self.unknown is not None)

    def answerer(self, backend: Backend) -> Answerer:
        """Answers by a backend."""
        return Answerer(self.loaded, backend, self.unknown, self.top, self.maker.batch_size)

    def progress(self, done: int) -> None:
        """Tell how many photos are answered."""
        self.on_event({"event": "progress", "title": "predicting", "done": done, "total": len(self.photos)})

    def answers(self, backend: str, counts: Counter[str], continued: int, seconds: float, **rest: Any) -> PhotoAnswers:
        """The result."""
        return PhotoAnswers(
            model=self.loaded.name,
            photos=len(self.photos),
            unsure=counts["unsure"] if self.loaded.unsure_below > 0 else None,
            unknown=counts["unknown"] if self.unknown is not None else None,
            errors=counts["error"],
            continued=continued,
            images_per_second=(len(self.photos) - continued) / max(seconds, 1e-9),
            backend=backend,
            classes=self.loaded.classes,
            **rest,
        )


def _to_file(job: Job, out: Path | None) -> PhotoAnswers:
    """All rows into one file, or into memory."""
    backend = job.backend()
    answerer, layout = job.answerer(backend), job.layout
    kept: list[Photo] = []
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with table_writer(out, layout.columns()) if out else nullcontext() as write:
        for done, photo in enumerate(answerer.photos(job.photos, 0, len(job.photos)), start=1):
            counts += Counter(unsure=bool(photo.unsure), unknown=bool(photo.unknown), error=bool(photo.error))
            if write:
                write(layout.cells(photo))
            else:
                kept.append(photo)
            if done % answerer.batch_size == 0 or done == len(job.photos):
                job.progress(done)
    return job.answers(backend.name, counts, 0, time.perf_counter() - start, out=out, rows=tuple(kept))


def _to_folder(job: Job, out: Path, workers: Workers) -> PhotoAnswers:
    """Rows into the parts of a folder, beside other processes that do the same."""
    import torch

    threads = torch.get_num_threads()
    with Parts(out, len(job.photos)) as parts:
        backend: Backend | None = None

        def choose() -> dict[str, Any]:
            nonlocal backend
            backend = job.backend()
            return {"backend": backend.name, "converted": backend.converted, "threads": job.maker.threads}

        chosen = parts.settle(_identity(job), choose)
        continued = parts.done()
        try:
            # Sums are split by threads: another number of them, and the last bits may differ.
            torch.set_num_threads(chosen["threads"])
            start = time.perf_counter()
            if continued < len(job.photos):
                with workers:
                    maker = replace(job.maker, threads=chosen["threads"])
                    backend = backend or maker.again(chosen["backend"], chosen["converted"])
                    _write_parts(job, parts, job.answerer(backend))
                for problem in workers.problems:
                    job.on_event(
                        {"event": "warning", "text": f"a worker stopped, its work was done by others: {problem}"}
                    )
            seconds = time.perf_counter() - start
        finally:
            torch.set_num_threads(threads)
        counts = parts.count()
    return job.answers(chosen["backend"], counts, continued, seconds, out=out, rows=())


def _write_parts(job: Job, parts: Parts, answerer: Answerer) -> None:
    """Write the parts that nobody else writes."""
    layout = job.layout
    for number in parts.to_write():
        before, rows = parts.done(), parts.rows(number)
        with table_writer(parts.path(number), layout.columns()) as write:
            for done, photo in enumerate(answerer.photos(job.photos, rows.start, rows.stop), start=1):
                write(layout.cells(photo))
                if done % answerer.batch_size == 0 and before + done < len(job.photos):
                    job.progress(before + done)
    job.progress(len(job.photos))


def _identity(job: Job) -> dict[str, Any]:
    """What the bytes of the rows depend on, besides the backend."""
    import torch

    from regard.inference.features import backbone_hash

    loaded = job.loaded
    model = {
        "weights": backbone_hash(loaded.model),
        "preprocess": loaded.preprocess.to_config(),
        "problem": loaded.problem,
        "classes": loaded.classes,
        "temperature": loaded.temperature,
        "unsure_below": loaded.unsure_below,
        "thresholds": loaded.thresholds,
        "unknown": None if job.unknown is None else job.unknown.threshold,
    }
    return {
        "model": loaded.name,
        "model_sha256": hashlib.sha256(json.dumps(model, sort_keys=True).encode()).hexdigest(),
        "photos": len(job.photos),
        "photos_sha256": job.photos.digest,
        "columns": list(job.layout.columns()),
        "batch_size": job.maker.batch_size,
        "rows_per_part": ROWS,
        "torch": torch.__version__,
        **asdict(job.wish),
    }


def _check(model: Any, out: str | Path | None, top: int, batch_size: int, workers: int) -> None:
    for name, value in (("top", top), ("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise RegardError(f"{name}={value}: expected at least 1")
    if workers > 1 and (out is None or _is_file(out)):
        raise RegardError(f"workers={workers}: they share the parts of a folder; give one with --out FOLDER/")
    if workers > 1 and not isinstance(model, str | Path):
        raise RegardError(f"workers={workers}: each loads the model by its name; give a name or a run folder")


def _is_file(out: str | Path) -> bool:
    """Whether `out` means a file, and not a folder of parts."""
    if str(out).endswith("/"):
        return False
    suffix = Path(out).suffix
    return suffix in FORMATS or (suffix != "" and not Path(out).is_dir())


def _unknown_of(model: Any) -> Unknown | None:
    """A run's threshold of unknown photos, if it has one."""
    if not isinstance(model, str | Path) or not (Path(model) / "config.yaml").is_file():
        return None
    from regard.inference.unknown import UnknownScore

    return UnknownScore.load(model)
