"""The folder that `segment` fills, photo by photo, and may leave at any moment.

OUT/segment.json      what was asked, of what, by what; written first. "done" in it is written last
OUT/.parts/000012.json   what was said of a photo, until all of them are there and the files are made of them
OUT/errors.csv        the photos without masks, where there are some: image, error, message
OUT/explained.csv     what was measured of explanations, where they were asked

png    OUT/masks/NAME.png, OUT/overlays/NAME.jpg, OUT/index.csv
rle    OUT/masks/NAME.json
coco   OUT/annotations.json
yolo   OUT/images/NAME.jpg (links), OUT/labels/NAME.txt, OUT/data.yaml
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.errors import RegardError
from regard.runs.atomic import remove_leftovers, write_atomic
from regard.verbs.folders import make_folder
from regard.verbs.parts import refuse_changes
from regard.verbs.segmenting.answers import Answer, Failure, pack, unpack

if TYPE_CHECKING:
    from regard.segmentation.formats.record import ImageMasks

MANIFEST = "segment.json"
PARTS = ".parts"
FILES = ("errors.csv", "explained.csv", "index.csv", "annotations.json", "data.yaml")
FAILED = b'{"failure"'
FOLDERS = ("masks", "overlays", "images", "labels", PARTS)


class Folder:
    """The folder, begun or found again."""

    def __init__(self, path: Path, wanted: Mapping[str, Any], threads: int) -> None:
        self.path, self.threads, self._wanted = path, threads, dict(wanted)

    @classmethod
    def begin(cls, path: Path, wanted: Mapping[str, Any], threads: int, resume: bool, overwrite: bool) -> Folder:
        """A new folder; an existing one is refused, unless it is to be continued or replaced.

        wanted: what the masks depend on; threads: of the computation, or those with which the folder was begun, because
        the last bits of sums depend on them. Raises RegardError where it was begun otherwise.
        """
        manifest = _read(path / MANIFEST)
        if manifest is not None and resume:
            refuse_changes(path, manifest.get("asked", {}), _plain(wanted))
            for inner, _, _ in os.walk(path):
                remove_leftovers(inner)
            return cls(path, wanted, manifest.get("threads", threads))
        if manifest is not None and overwrite:
            cls(path, {}, threads).clear()
        make_folder(path, "segmentation", (MANIFEST,), (), resume, overwrite)
        folder = cls(path, wanted, threads)
        folder._write({})
        return folder

    @property
    def done(self) -> dict[str, int] | None:
        """What `finish` was told; None before."""
        return (_read(self.path / MANIFEST) or {}).get("done")

    @property
    def states(self) -> Path:
        """Where photos leave what the next one needs, until all are there."""
        return self.path / PARTS

    def lacks(self, place: int, again: bool) -> bool:
        """Whether the photo is still to be asked; again: also where it failed, because it may have been mended."""
        try:
            with self._part(place).open("rb") as file:
                return again and file.read(len(FAILED)) == FAILED
        except FileNotFoundError:
            return True

    def answer(self, place: int) -> Answer | Failure | None:
        """What was said of the photo at a place; None where nothing was. Raises RegardError for a damaged part."""
        path = self._part(place)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        try:
            return unpack(text)
        except RegardError as error:
            raise RegardError(f"{path}: {error}; delete it and continue with --resume") from None

    def masks(self, place: int) -> ImageMasks | None:
        """The masks of the photo at a place; None where there are none yet, or it failed."""
        answer = self.answer(place)
        return answer.masks if isinstance(answer, Answer) else None

    def keep(self, place: int, answer: Answer | Failure) -> None:
        """Write down what is said of a photo."""
        self.put(f"{PARTS}/{place:06d}.json", pack(answer))

    def answers(self, photos: int) -> Iterator[tuple[int, Answer | Failure]]:
        """All that was said, in the order of the photos."""
        for place in range(photos):
            answer = self.answer(place)
            if answer is not None:
                yield place, answer

    def put(self, name: str, data: bytes | str) -> Path:
        """Write a file whole or not at all. Raises RegardError where the disk refuses."""
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise refused(path, error) from None
        return path

    def finish(self, done: Mapping[str, int]) -> None:
        """Write down that all is there."""
        self._write({"done": dict(done)})
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def clear(self) -> None:
        """Remove what `segment` writes; the manifest first loses its "done", and goes last."""
        self._write({})
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        remove_leftovers(self.path)
        (self.path / MANIFEST).unlink()

    def _part(self, place: int) -> Path:
        return self.path / PARTS / f"{place:06d}.json"

    def _write(self, more: Mapping[str, Any]) -> None:
        content = {"asked": self._wanted, "threads": self.threads, **more}
        self.put(MANIFEST, json.dumps(content, indent=1) + "\n")


def claim(path: Path, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that may not be written to, before anything is loaded."""
    for left in path.glob(f".{MANIFEST}.tmp-*"):  # of a run that was killed at once
        left.unlink(missing_ok=True)
    if not ((path / MANIFEST).is_file() and (resume or overwrite)):
        make_folder(path, "segmentation", (MANIFEST,), (), resume, overwrite)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """So many threads of PyTorch's, and those from before when the block ends."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refused(path: Path, error: OSError) -> RegardError:
    """The disk refuses a file."""
    return RegardError(f"{path}: cannot be written ({error.strerror or error}); make room or choose another --out")


def _read(path: Path) -> dict[str, Any] | None:
    """The manifest; None where there is none. Raises RegardError for a damaged one."""
    if not os.path.lexists(path):
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise RegardError(f"{path}: damaged; remove the folder or choose another --out")
    return content


def _plain(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return json.loads(json.dumps(dict(wanted)))
