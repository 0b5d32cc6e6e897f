"""What a call of `segment` asks for: looked at as a whole before anything is loaded, then made into a way of asking."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError
from regard.verbs.events import OnEvent
from regard.verbs.segmenting.asked import Asked, asked, read_prompts
from regard.verbs.segmenting.followed import Followed
from regard.verbs.segmenting.ways import All, FromExplanation, Prompted, Way

if TYPE_CHECKING:
    from regard.segmentation.everything import Options
    from regard.verbs.segmenting.folder import Folder
    from regard.verbs.segmenting.models import Models
    from regard.verbs.segmenting.photos import Photos

THRESHOLDS = (
    "points_per_side", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh",
    "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor", "min_mask_region_area",
)  # fmt: skip
WAYS = "--points, --box, --text, --everything, --prompts or --from-explanation"


@dataclass(frozen=True)
class Request:
    """How photos are to be asked; the arguments are `segment`'s. options: the thresholds that were given, by name."""

    points: Sequence[float] | Sequence[tuple[float, float]]
    labels: Sequence[int]
    box: Sequence[float]
    text: str
    everything: bool
    prompts: str | Path | None
    from_explanation: Any
    target: str
    method: str
    follow: bool
    three: bool
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        places, text = bool(len(self.points) or len(self.box)), bool(self.text)
        explained = self.from_explanation is not None
        chosen = {
            "--points and --box": places and not explained,
            "--text": text and not explained,
            "--everything": self.everything,
            "--prompts": self.prompts is not None,
            "--from-explanation": explained,
        }
        given = [name for name, is_given in chosen.items() if is_given]
        if len(self.labels) and not len(self.points):
            raise RegardError("labels: given without points; give the points that they are of")
        if not given:
            raise RegardError(f"nothing is asked of the photos; give {WAYS}")
        if len(given) > 1:
            raise RegardError(f"{' and '.join(given)}: each is a way of its own; give one of them")
        if explained and (len(self.points) or (len(self.box) and text)):
            raise RegardError("from_explanation: the point is the explanation's; an object is given by --box or --text")
        if self.target != "top1" and not explained:
            raise RegardError(f"target {self.target}: is for --from-explanation")
        if self.method and not explained:
            raise RegardError(f"method {self.method}: is for --from-explanation")
        if self.three and not (self.prompts is not None or given == ["--points and --box"]):
            raise RegardError("three: is for --points and --prompts, where a single point may mean the whole or a part")
        if self.three and self.prompts is None and not self.asked().ambiguous:
            raise RegardError(
                "three: more than one point, or a box, leaves no doubt, so there is one mask; leave it out"
            )
        if self.options and not (self.everything or text):
            raise RegardError(f"{next(iter(self.options))}: is for --everything and --text")
        if self.follow and (self.everything or explained):
            raise RegardError(
                f"follow: not with {given[0]}; say what to follow by --points, --box, --text or --prompts"
            )
        if self.prompts is None and not self.everything and (places or text):
            self.asked()

    def asked(self) -> Asked:
        """The prompt of the flags. Raises RegardError."""
        points = np.asarray(self.points, object).ravel()
        entry: dict[str, Any] = {}
        if len(points):
            if len(points) % 2:
                raise RegardError(f"points: {len(points)} numbers; expected x,y for each point")
            entry["points"] = points.astype(np.float64).reshape(-1, 2)
        entry |= {"labels": self.labels} if len(self.labels) else {}
        entry |= {"box": self.box} if len(self.box) else {}
        entry |= {"text": self.text} if self.text else {}
        return asked(entry)

    def of_photos(self, photos: Photos, on_event: OnEvent) -> dict[int, tuple[Asked, ...]] | None:
        """By the place of a photo, what is asked of it, where a file says so; None where all are asked the same."""
        if self.prompts is None:
            return None
        found = read_prompts(Path(self.prompts), photos)
        if self.follow and set(found) != {0}:
            raise RegardError(
                f"{self.prompts}: follow: has prompts for {len(found):,} photos; give them for the first, "
                f"{photos.id(0)}, and no other"
            )
        passed = 0 if self.follow else len(photos) - len(found)
        if passed:
            text = (
                f"{self.prompts}: has prompts for {len(found):,} of {len(photos):,} photos; the others are passed over"
            )
            on_event({"event": "note", "text": text})
        return dict(sorted(found.items()))

    def needs_clip(self, prompts: Mapping[int, Sequence[Asked]] | None) -> bool:
        """Whether there is a text to look for."""
        return bool(self.text) or any(one.text for some in (prompts or {}).values() for one in some)

    def everything_options(self) -> Options:
        """Of everything mode, the given ones in place of its defaults, which are coarser for a text."""
        from regard.segmentation.everything import Options
        from regard.segmentation.text_prompts import COARSE

        options = dict(self.options)
        if not self.everything:
            options.setdefault("points_per_side", COARSE.points_per_side)
        return Options(**options)

    def way(
        self,
        models: Models,
        prompts: Mapping[int, Sequence[Asked]] | None,
        keep_clicks: bool,
        folder: Folder | None = None,
    ) -> Way:
        """How photos are asked. keep_clicks: in everything mode, for a page; folder: of those that can be continued."""
        from regard.segmentation.naming import TextScorer
        from regard.segmentation.text_prompts import TextRanker

        if self.everything:
            return All(models.segmenter, self.everything_options(), keep_clicks)
        ranker = None
        if models.clip is not None and self.needs_clip(prompts):
            ranker = TextRanker(models.clip, self.everything_options())
            texts = [self.text, *(one.text for some in (prompts or {}).values() for one in some)]
            for text in dict.fromkeys(filter(None, texts)):
                TextScorer(models.clip, [text])  # refuses those that are too long before any photo is asked
        if models.explainer is not None:
            given = self.asked() if len(self.box) or self.text else None
            return FromExplanation(models.segmenter, models.explainer, given, ranker)
        of_photo: Callable[[int], Sequence[Asked]]
        if prompts is None:
            same = (self.asked(),)
            of_photo, usual = (lambda place: same), same
        else:
            of_photo, usual = prompts.__getitem__, next(iter(prompts.values()))
        prompted = Prompted(models.segmenter, of_photo, usual, self.three, ranker)
        if not self.follow:
            return prompted
        if folder is None:
            return Followed(prompted, 0, models.namer)
        return Followed(prompted, 0, models.namer, folder.masks, folder.states)

    def identity(self, prompts: Mapping[int, Sequence[Asked]] | None) -> dict[str, Any]:
        """What the masks depend on, besides photos and models."""
        found: dict[str, Any] = {
            "asked": self.words(),
            "target": self.target,
            "method": self.method,
            "three": self.three,
        }
        found["follow"] = self.follow
        if prompts is not None:
            listed = json.dumps([[place, *map(asdict, some)] for place, some in prompts.items()])
            found["prompts_sha256"] = hashlib.sha256(listed.encode()).hexdigest()
        if self.everything or self.needs_clip(prompts):
            found |= asdict(self.everything_options())
        return found

    def words(self) -> str:
        """What is asked, for people."""
        if self.everything:
            return "everything"
        if self.prompts is not None:
            return f"prompts of {Path(self.prompts).name}"
        parts = []
        if self.from_explanation is not None:
            parts.append("where an explanation points")
        if len(self.points):
            one = self.asked()
            parts += [
                f"{'on' if label else 'not'} {x:g},{y:g}" for (x, y), label in zip(one.points, one.labels, strict=True)
            ]
        if len(self.box):
            parts.append(f"box {','.join(f'{value:g}' for value in self.box)}")
        if self.text:
            parts.append(f"text {self.text!r}")
        return "; ".join(parts)
