"""`regard export`: a model as ONNX files, each compared with the model on photos before it is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regard.errors import RegardError
from regard.verbs.events import OnEvent, silent
from regard.verbs.prepare import load_aloud

if TYPE_CHECKING:
    from regard.exporting.agreement import Agreement
    from regard.inference.loaded import LoadedModel
    from regard.segmentation.segmenter import Segmenter

CARD = "export.json"


@dataclass(frozen=True)
class Exported:
    """Files of a model below `out` with their bytes, and how far each agrees with it on `photos` photos."""

    model: str
    out: Path
    files: dict[str, int]
    agreements: tuple[Agreement, ...]
    photos: int

    def lines(self) -> Iterator[str]:
        """A line per file, and below it the largest difference in each engine."""
        for name, size in self.files.items():
            yield f"{self.out / name}  {size / 1e6:,.1f} MB"
            for one in self.agreements:
                if one.file == name:
                    yield f"  {one.engine:<12}  {one.output:<16}  {one.difference:.0e}"
        yield f"largest difference from {self.model} on {self.photos} photos, as a share of its largest answer"
        yield f"how an image is prepared: {self.out / CARD}"


def export(
    model: str | Path | LoadedModel | Segmenter,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    opset: int = 18,
    check_on: Sequence[Path] = (),
    overwrite: bool = False,
    on_event: OnEvent = silent,
) -> Exported:
    """Turn a model into ONNX files that run without regard.

    A classifier becomes model.onnx, a SAM encoder.onnx (once for each image) and decoder.onnx (for any number of
    prompts and points). Each file is run by ONNX Runtime and by OpenVINO and compared with the model; where one says
    something else, no file is left. Beside them lies export.json: how an image is prepared, classes, differences.

    Args:
        model: a run folder, a name, a name with a weights tag, or timm:NAME; for a SAM its weights, too
        out: folder for the files
        weights: weights file to use in place of a download
        opset: version of ONNX's operators, 18 to 23
        check_on: photos and folders of photos to compare on; by default two that scikit-learn carries
        overwrite: replace an earlier export in the folder
        on_event: called with what is going on (docs/architecture.md, Events)
    """
    from regard.data.sources import list_photos
    from regard.exporting.agreement import photos_to_check
    from regard.exporting.onnx_files import OPSETS, refuse_missing_packages
    from regard.runs.atomic import sha256_of, write_folder_atomic

    out = Path(out)
    task = _task(model)
    if opset not in OPSETS:
        raise RegardError(f"opset={opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    _check_out(out, overwrite)
    refuse_missing_packages()
    photos = photos_to_check(list_photos(check_on)[1] if check_on else ())
    loaded = _load(model, task, weights, on_event)
    on_event({"event": "note", "text": f"drawing and checking the graph of {loaded.name}; large ones take minutes"})
    found: list[Agreement] = []

    def fill(folder: Path) -> None:
        card, agreements = _write(loaded, folder, opset, photos)
        found.extend(agreements)
        card |= {"files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())}}
        card |= {"compared": [vars(one) for one in agreements]}
        (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")

    previous = out.with_name(f".{out.name}.previous")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
        write_folder_atomic(out, fill, previous)
    except OSError as error:
        raise RegardError(f"{out}: cannot be written ({error.strerror}); make room, or choose another --out") from None
    shutil.rmtree(previous, ignore_errors=True)
    files = {path.name: path.stat().st_size for path in sorted(out.iterdir()) if path.name != CARD}
    return Exported(loaded.name, out, files, tuple(found), len(photos))


def _task(model: Any) -> Literal["classify", "mask-generation"]:
    """What is exported. Raises RegardError for a model of any other task."""
    from regard.inference.loaded import IN_PYTHON
    from regard.models import list_models, model_spec
    from regard.runs import Run

    if not isinstance(model, str | Path):
        from regard.segmentation.segmenter import Segmenter

        return "mask-generation" if isinstance(model, Segmenter) else "classify"
    name, path = str(model), Path(model)
    if path.is_dir() and (path / "config.yaml").is_file():
        name = str(Run.open(path).config["model"])
    elif path.exists():
        return "mask-generation"  # weights alone: SAM is found by them
    architecture = name.partition(".")[0]
    task = model_spec(architecture).task if architecture.partition("+")[0] in list_models() else "classify"
    if task not in ("classify", "mask-generation"):
        raise RegardError(
            f"{model}: its task is {task!r}, and classifiers and SAM are exported; "
            f"choose one of these, or use it from Python: {IN_PYTHON[task]}"
        )
    return task


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise RegardError(f"{out}: is a file; expected a folder for the export: choose another --out")
    held = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if held and CARD not in held:
        raise RegardError(f"{out}: holds {held[0]!r} but no export, so it is not overwritten; choose another --out")
    if held and not overwrite:
        raise RegardError(f"{out}: already holds an export; use --overwrite to replace it, or choose another --out")


def _load(model: Any, task: str, weights: str | Path | None, on_event: OnEvent) -> LoadedModel | Segmenter:
    """On the CPU; what loading changed is said."""
    from dataclasses import replace

    from regard.segmentation.loading import load_segmenter
    from regard.segmentation.segmenter import Segmenter

    if task == "classify":
        loaded = load_aloud(model, on_event, weights)
        return replace(loaded, model=_on_cpu(loaded.model))
    if isinstance(model, Segmenter):
        return Segmenter(_on_cpu(model.model), model.name)

    def say(text: str) -> None:
        on_event({"event": "note", "text": text})

    segmenter = load_segmenter(model, weights, device="cpu", announce=say)
    for message in segmenter.messages:
        say(message)
    return segmenter


def _on_cpu(module: Any) -> Any:
    """The module, or a copy of one that is elsewhere, in evaluation mode."""
    from copy import deepcopy

    from regard.inference.precision import device_of

    return (module if device_of(module).type == "cpu" else deepcopy(module).cpu()).eval()


def _write(
    loaded: LoadedModel | Segmenter, folder: Path, opset: int, photos: Sequence[Any]
) -> tuple[dict[str, Any], tuple[Agreement, ...]]:
    """The files of a model, what its card says of it, and how far each file agrees."""
    from regard import __version__
    from regard.data.transforms import IMAGENET_MEAN, IMAGENET_STD
    from regard.segmentation.segmenter import Segmenter

    card: dict[str, Any] = {"model": loaded.name, "opset": opset, "regard": __version__}
    if isinstance(loaded, Segmenter):
        from regard.exporting.segmenter import export_segmenter

        side = loaded.model.img_size
        card |= {
            "task": "mask-generation",
            "size": side,
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "images": f"RGB; the longer side is resized to {side}, the other to int(length * scale + 0.5) (bilinear as "
            "Pillow does it); (pixels / 255 - mean) / std; then zeros at the right and the bottom up to the square",
            "point_coords": "x, y in pixels of the resized image: times resized / original, each axis by itself",
            "point_labels": "1 on the object, 0 beside it, 2 and 3 the corners of a box; without a box, add a last "
            "point (0, 0) with the label -1; -1 also fills up rows of several prompts",
            "mask_input": "low_res_masks[:, k:k+1] of an answer before, with has_mask_input 1; else zeros and 0",
            "masks": "logits, a mask where they are above 0; of the four, the first is for several prompts that leave "
            "no doubt, the others for one",
        }
        return card, export_segmenter(loaded, folder, opset, photos)
    from regard.exporting.classifier import export_classifier

    card |= {
        "task": "classify",
        "classes": list(loaded.classes),
        "images": "RGB; the words of preprocess are timm's; (pixels / 255 - mean) / std",
        "preprocess": loaded.preprocess.to_config(),
        "problem": loaded.problem,
        "temperature": loaded.temperature,
        "unsure_below": loaded.unsure_below,
        "thresholds": list(loaded.thresholds),
    }
    return card, export_classifier(loaded, folder, opset, photos)
