"""What is asked of a photo: points, a box, a text; from flags, or from a file with prompts for each photo."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.errors import RegardError

if TYPE_CHECKING:
    from regard.verbs.segmenting.photos import Photos

KEYS = ("points", "labels", "box", "text", "name")
EXAMPLE = '{"cat.jpg": [{"points": [[120, 80]], "labels": [1]}, {"box": [10, 20, 200, 180], "name": "cat"}]}'


@dataclass(frozen=True)
class Asked:
    """One prompt, in pixels of the photo.

    points: (x, y) each, labels: 1 (on the object) or 0 (beside it) for each; box: x0, y0, x1, y1; or text instead.
    name: of the mask, where it is known.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, ...] | None = None
    text: str = ""
    name: str = ""

    @property
    def shape(self) -> tuple[int, bool]:
        """Prompts of equal shape can be decoded together."""
        return len(self.points), self.box is not None

    @property
    def ambiguous(self) -> bool:
        """One click may mean the whole or a part."""
        return self.shape == (1, False)

    def arguments(self) -> dict[str, Any]:
        """For `as_prompts` and `Segmenter.predict`."""
        places = {"point_coords": np.array(self.points), "point_labels": np.array(self.labels)} if self.points else {}
        return places | ({} if self.box is None else {"box": np.array(self.box)})

    def check(self, height: int, width: int) -> None:
        """Raises RegardError for places outside of a photo of this size, and boxes that are upside down."""
        from regard.segmentation.prompts import as_prompts

        if self.text:
            return
        try:
            as_prompts(height, width, (4, 4), **self.arguments())
        except RegardError as error:
            raise RegardError(_in_our_words(str(error))) from None


def asked(entry: Mapping[str, Any]) -> Asked:
    """One prompt from its entries. Raises RegardError, a line that begins with the entry."""
    from regard.reporting.words import plural

    for key in entry:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            raise RegardError(f"{key!r}: no such entry; {f'did you mean {near[0]!r}?' if near else ', '.join(KEYS)}")
    texts = {key: entry.get(key, "") for key in ("text", "name")}
    for key, text in texts.items():
        if not isinstance(text, str) or (key in entry and not text.strip()):
            raise RegardError(f"{key}: {_short(text)}; expected words, as in 'a dog'")
    points = _numbers("points", entry.get("points", ()))
    if points.size % 2 or points.ndim > 2 or (points.ndim == 2 and points.size and points.shape[1] != 2):
        raise RegardError(f"points: {_short(entry['points'])}; expected x, y for each, as in [[120, 80], [60, 40]]")
    points = points.reshape(-1, 2)
    labels = _numbers("labels", entry.get("labels", np.ones(len(points)) if "labels" not in entry else ()))
    if labels.ndim != 1 or len(labels) != len(points):
        of = plural(len(points), "point") if len(points) else "points, of which there are none"
        raise RegardError(f"labels: {labels.size} for {of}; give 1 (on the object) or 0 (beside it) for each point")
    if not np.isin(labels, (0, 1)).all():
        wrong = labels[~np.isin(labels, (0, 1))][0]
        raise RegardError(f"labels: {wrong:g}; expected 1 (on the object) or 0 (beside it)")
    box = _numbers("box", entry["box"]) if entry.get("box") is not None else None
    if box is not None and box.shape != (4,):
        raise RegardError(f"box: {box.size} numbers; expected four, x0, y0, x1, y1")
    if not len(points) and box is None and not texts["text"]:
        raise RegardError("nothing is asked; give points, a box or a text")
    if texts["text"] and (len(points) or box is not None):
        raise RegardError("text: with points or a box; give a prompt for each")
    return Asked(
        tuple((x, y) for x, y in points.tolist()),
        tuple(int(label) for label in labels),
        None if box is None else tuple(box.tolist()),
        " ".join(texts["text"].split()),
        " ".join(texts["name"].split()),
    )


def read_prompts(path: Path, photos: Photos) -> dict[int, tuple[Asked, ...]]:
    """By the place of a photo, what a file asks of it. The file is checked whole, places against the photos' sizes.

    Raises RegardError, one line with the file's line, the photo and its prompt. A photo that cannot be read is left for
    later.
    """
    from regard.data.decoding import ImageError, open_image

    try:
        text = path.read_text("utf-8-sig")
        json.loads(text)
    except json.JSONDecodeError as error:
        raise RegardError(f"{path}:{error.lineno}: not JSON ({error.msg}); expected {EXAMPLE}") from None
    except (OSError, UnicodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise RegardError(f"{path}: cannot be read ({reason}); expected {EXAMPLE}") from None
    places = _places(photos)
    found: dict[int, tuple[Asked, ...]] = {}
    for line, name, prompts in _entries(text, path):
        place = _place_of(name, places, f"{path}:{line}")
        if place in found:
            raise RegardError(f"{path}:{line}: {name}: is there twice; put its prompts into one list")
        if not prompts:
            raise RegardError(f"{path}:{line}: {name}: no prompts; leave the photo out, or give it some")
        try:
            opened = open_image(photos.path(place))
        except ImageError:
            opened = None
        checked = []
        for number, (line, entry) in enumerate(prompts, start=1):
            try:
                if not isinstance(entry, dict):
                    raise RegardError(f"{_short(entry)}; expected {{...}} with {', '.join(KEYS)}")
                one = asked(entry)
                if opened is not None:
                    one.check(opened.height, opened.width)
            except RegardError as error:
                raise RegardError(f"{path}:{line}: {name}, prompt {number}: {error}") from None
            checked.append(one)
        found[place] = tuple(checked)
    if not found:
        raise RegardError(f"{path}: no photo is named; expected {EXAMPLE}")
    return found


def _entries(text: str, path: Path) -> Iterator[tuple[int, str, list[tuple[int, Any]]]]:
    """(line, photo, [(line, prompt), ...]) of JSON that is known to be whole."""
    decoder, space = json.JSONDecoder(), json.decoder.WHITESPACE  # type: ignore[attr-defined]

    def after(place: int) -> int:
        return space.match(text, place).end()

    counted, line = 0, 1

    def line_of(place: int) -> int:
        nonlocal counted, line
        line += text.count("\n", counted, place)
        counted = place
        return line

    place = after(0)
    if text[place] != "{":
        raise RegardError(f"{path}:{line_of(place)}: expected photos with their prompts, as in {EXAMPLE}")
    place = after(place + 1)
    while text[place] != "}":
        start = line_of(place)
        name, place = decoder.raw_decode(text, place)
        place = after(after(place) + 1)  # the colon
        if text[place] != "[":
            value, _ = decoder.raw_decode(text, place)
            raise RegardError(f"{path}:{start}: {name}: {_short(value)}; expected a list of prompts, as in {EXAMPLE}")
        place = after(place + 1)
        prompts = []
        while text[place] != "]":
            at = line_of(place)
            prompt, place = decoder.raw_decode(text, place)
            prompts.append((at, prompt))
            place = after(place)
            place = after(place + 1) if text[place] == "," else place
        yield start, name, prompts
        place = after(place + 1)
        place = after(place + 1) if text[place] == "," else place


def _places(photos: Photos) -> dict[str, list[int]]:
    """The photos that a name may mean: as given, below the folder they share, and the file's own name."""
    found: dict[str, list[int]] = {}
    for place, file in enumerate(photos.files):
        for name in {photos.id(place), file, os.path.basename(file)}:
            found.setdefault(name, []).append(place)
    return found


def _place_of(name: str, places: dict[str, list[int]], where: str) -> int:
    found = places.get(os.path.normpath(name).replace(os.sep, "/"), places.get(name, []))
    if not found:
        near = get_close_matches(name, places, n=1)
        raise RegardError(f"{where}: {name}: no such photo was given{f'; nearest: {near[0]}' if near else ''}")
    if len(found) > 1:
        raise RegardError(f"{where}: {name}: {len(found)} photos are called so; name the folder too")
    return found[0]


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" and array.size:
        raise RegardError(f"{name}: {_short(values)}; expected numbers")
    return array.astype(np.float64)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = " ".join(text.split()) or "empty"
    return text if len(text) <= 40 else f"{text[:40]}..."


def _in_our_words(line: str) -> str:
    return line.replace("point_coords", "points").replace("point_labels", "labels")
