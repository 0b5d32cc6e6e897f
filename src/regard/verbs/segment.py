"""`regard segment`: masks of what is asked for in photos, by points, boxes, texts, or everything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.command import command_line
from regard.verbs.events import OnEvent, silent
from regard.verbs.folders import no_empty_folder
from regard.verbs.segmenting.answers import Answer
from regard.verbs.segmenting.folder import Folder, claim, computing_with
from regard.verbs.segmenting.job import InMemory, Job
from regard.verbs.segmenting.models import load_models
from regard.verbs.segmenting.outputs import Format, Outputs
from regard.verbs.segmenting.page import SegmentPages
from regard.verbs.segmenting.photos import Photos
from regard.verbs.segmenting.request import THRESHOLDS, Request

if TYPE_CHECKING:
    from regard.inference.image_text import ImageText
    from regard.inference.loaded import LoadedModel
    from regard.segmentation.segmenter import Segmenter

SHOWN = 100  # masks in a terminal


@dataclass(frozen=True)
class Segmented:
    """What `segment` did.

    photos: with masks; failed: those without, for a reason; continued: photos that an earlier call had answered;
    seconds: of one of the rest, without loading the model. Where no folder holds them, answers: of each photo; rows:
    its masks in SA-1B's words, with the image.
    """

    model: str
    photos: int
    masks: int
    failed: int
    continued: int
    seconds: float
    format: str
    out: Path | None
    html: Path | None
    rows: tuple[dict[str, Any], ...] = ()
    answers: tuple[Answer, ...] = field(default=(), repr=False)

    def lines(self) -> Iterator[str]:
        """The masks, where no folder holds them; how many there are, and where."""
        from regard.reporting.words import duration, plural

        yield from map(_line, self.rows[:SHOWN])
        if len(self.rows) > SHOWN:
            yield f"... and {len(self.rows) - SHOWN:,} more; --out DIR writes all of them"
        where = f" in {self.out} ({self.format})" if self.out else ""
        failed = f", {self.failed:,} left out" if self.failed else ""
        yield f"{plural(self.masks, 'mask')} of {plural(self.photos, 'photo')}{where}{failed}, by {self.model}"
        asked = self.photos + self.failed - self.continued
        before = f"; {self.continued:,} were answered before" if self.continued else ""
        yield f"{duration(self.seconds)} a photo{before}" if asked > 0 else f"nothing was left to do{before}"
        if self.html:
            yield f"page: {self.html} (opens without a network)"


def segment(
    images: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    points: Sequence[float] | Sequence[tuple[float, float]] = (),
    labels: Sequence[int] = (),
    box: Sequence[float] = (),
    text: str = "",
    everything: bool = False,
    prompts: str | Path | None = None,
    from_explanation: str | Path | LoadedModel | None = None,
    target: str = "top1",
    method: str = "",
    follow: bool = False,
    three: bool = False,
    model: str | Path | Segmenter = "sam_vit_b",
    weights: str | Path | None = None,
    format: Format = "png",
    html: str | Path | None = None,
    labels_from: Sequence[str] = (),
    label_with: str | Path | LoadedModel | None = None,
    clip: str | Path | ImageText | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    cache: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    points_per_side: int | None = None,
    pred_iou_thresh: float | None = None,
    stability_score_thresh: float | None = None,
    stability_score_offset: float | None = None,
    box_nms_thresh: float | None = None,
    crop_n_layers: int | None = None,
    crop_nms_thresh: float | None = None,
    crop_overlap_ratio: float | None = None,
    crop_n_points_downscale_factor: int | None = None,
    min_mask_region_area: int | None = None,
    on_event: OnEvent = silent,
) -> Segmented:
    """Cut objects out of photos: by points, a box, a text, or all of them.

    Places are x,y in pixels of the photo, from its top left. Of a single point, which may mean the whole or a part, the
    mask that the model trusts most is taken; more points, or a box, leave no doubt. What it will take is said when the
    first photo has been embedded. Photos that cannot be read are named and left out.

    The folder has masks/NAME.png (pixels are the numbers of the masks), overlays/NAME.jpg and index.csv; with --format
    rle masks/NAME.json in SA-1B's layout, coco annotations.json, yolo images/, labels/ and data.yaml. Stopped in any
    way, --resume continues it, and it ends with the bytes of an undisturbed run.

    Args:
        images: image files, folders that are searched for image files, and patterns in quotes
        out: folder to make; without it the masks are listed
        points: x,y x,y of one object
        labels: for each point 1 (on the object) or 0 (beside it); 1 where not given
        box: x0,y0,x1,y1 around an object
        text: what to look for, as in "a dog": masks of a coarse grid of points, chosen by CLIP
        everything: all objects, by a grid of points
        prompts: JSON file of prompts for each photo: {"a.jpg": [{"points": [[x, y]], "labels": [1]}, {"box": [x0, y0,
            x1, y1], "name": "dog"}, {"text": "a dog"}], ...}
        from_explanation: a run, or another classifier: the point is where what it says of a photo comes from; an object
            given with --box or --text tells whether it is right for the right reason
        target: class that is explained: top1 is the classifier's own answer, else a name
        method: that explains, as in `regard explain`; without it, the first that the classifier has and that takes a
            pass or two
        follow: the photos are the frames of one film, in the order of their names: what is asked in the first is
            followed through the others
        three: all three masks of a single point, best first
        model: sam_vit_b, sam_vit_l, sam_vit_h, a file of their weights, or a run of train --task segment
        weights: weights file to use in place of a download
        format: of the masks in the folder
        html: page to write that works offline: masks to point at, hide, name and take along
        labels_from: names, as in dog,cat,boat, that CLIP gives to masks; what fits none is "unknown"
        label_with: a run, or another classifier, that names masks; what it is not sure of is "unknown"
        clip: a CLIP by its name, or a folder with its weights and tokenizer (clip_vit_base_patch32)
        precision: bf16 is faster where the machine has it, fp32 gives the same bits each time
        cache: folder that keeps the embeddings of photos for the next time
        resume: continue the folder
        overwrite: replace the folder
        points_per_side: everything: points along each side of the grid (32; 16 for a text)
        pred_iou_thresh: everything: masks are kept above this estimate of their IoU (0.88)
        stability_score_thresh: everything: masks are kept from this stability on (0.95)
        stability_score_offset: everything: logits by which the threshold is moved to measure it (1.0)
        box_nms_thresh: everything: of masks whose boxes overlap by more than this IoU one stays (0.7)
        crop_n_layers: everything: 1 looks at 2 x 2 crops too, 2 also at 4 x 4 (0)
        crop_nms_thresh: everything: the same between crops (0.7)
        crop_overlap_ratio: everything: overlap of crops, as a share of the shorter side (0.341)
        crop_n_points_downscale_factor: everything: points per side are divided by it in each layer (1)
        min_mask_region_area: everything: smaller holes are filled, smaller islands dropped, in pixels (0)
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    arguments = dict(locals())
    import torch

    options = {name: arguments[name] for name in THRESHOLDS if arguments[name] is not None}
    asked = (points, labels, box, text, everything, prompts, from_explanation, target, method, follow, three)
    request = Request(*asked, options)
    _check(out, html, format, resume, overwrite, labels_from, label_with)
    photos = Photos([images] if isinstance(images, str | Path) else images, frames=follow)
    of_photos = request.of_photos(photos, on_event)
    needs_clip = request.needs_clip(of_photos)
    if clip is not None and not (labels_from or needs_clip):
        raise RegardError("clip: is for --text and --labels-from, and nothing needs it; leave it out")
    folder = None if out is None else Path(out)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(no_empty_folder(folder))
            claim(folder, resume, overwrite)
        models = load_models(
            model, weights, precision, cache, clip, needs_clip, labels_from, label_with, from_explanation, target,
            method, on_event,
        )  # fmt: skip
        places = range(len(photos)) if of_photos is None or follow else list(of_photos)
        store: Folder | InMemory = InMemory()
        outputs = None
        if folder is not None:
            wanted = {
                "photos": len(photos), "photos_sha256": photos.digest, **models.identity(),
                **request.identity(of_photos), "precision": models.segmenter.precision, "names": list(models.known),
                "format": format, "html": None if html is None else str(html),
            }  # fmt: skip
            store = Folder.begin(folder, wanted, torch.get_num_threads(), resume, overwrite)
            outputs = Outputs(store, photos, format, models.known)
            stack.enter_context(computing_with(store.threads))
        way = request.way(models, of_photos, html is not None, store if isinstance(store, Folder) else None)
        page = None
        if html is not None:
            page = SegmentPages(Path(html), models.segmenter.name, request.words(), command_line(segment, arguments))
        job = Job(photos, places, models, way, store, on_event, outputs, cache is not None, page)
        done = job.run()
    kept = store.kept.values() if isinstance(store, InMemory) else ()
    answers = tuple(answer for answer in kept if isinstance(answer, Answer))
    return Segmented(
        model=models.segmenter.name,
        format=format,
        out=folder,
        html=None if html is None else Path(html),
        answers=answers,
        rows=tuple(_rows(answers)),
        **vars(done),
    )


def _check(
    out: str | Path | None,
    html: str | Path | None,
    format: Format,
    resume: bool,
    overwrite: bool,
    labels_from: Sequence[str],
    label_with: Any,
) -> None:
    if out is None:
        idle = {"format": format != "png", "resume": resume, "overwrite": overwrite}
        for name in (name for name, given in idle.items() if given):
            raise RegardError(f"{name}: is for a folder; give one with --out")
    if html is not None and Path(html).is_dir():
        raise RegardError(f"{html}: a folder; --html needs the name of a file to write")
    if resume and overwrite:
        raise RegardError("resume: not with overwrite; --resume continues the folder, --overwrite replaces it")
    if labels_from and label_with is not None:
        raise RegardError("labels_from: not with label_with; one of them gives the names")


def _rows(answers: Sequence[Answer]) -> Iterator[dict[str, Any]]:
    from regard.segmentation.formats.rle import annotation

    for answer in answers:
        for mask in answer.masks.masks:
            yield {"image": answer.masks.image, **annotation(mask)}


def _line(row: Mapping[str, Any]) -> str:
    """`photo.jpg  mask 1  dog 93.1%  x 10 to 90, y 20 to 80  2,310 pixels  IoU 0.91`."""
    from regard.reporting.words import percent, plural

    x, y, width, height = row["bbox"]
    score = f" {percent(row['category_score'])}" if "category_score" in row else ""
    name = f"{row['category']}{score}  " if "category" in row else ""
    where = f"x {x} to {x + width}, y {y} to {y + height}  {plural(row['area'], 'pixel')}"
    return f"{row['image']}  mask {row['id']}  {name}{where}  IoU {row['predicted_iou']:.2f}"
