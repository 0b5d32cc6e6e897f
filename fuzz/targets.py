"""What is fuzzed: four readers of files that come from elsewhere. Whatever the bytes, only RegardError may come out.

Each target takes the bytes of one input. `seeds` gives whole inputs to start from: mutations of valid files reach
further than noise. Used by `fuzz/run.py` (atheris, coverage-guided) and by tests/reliability/test_26_parsers.py.
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save

from regard.data.decoding import decode
from regard.data.sources import open_images
from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.runs.run import Run
from regard.training.recipe import Recipe
from regard.weights import convert, read_state, save_state

FOLDER = Path(tempfile.mkdtemp(prefix="regard-fuzz-"))
LINES_ALLOWED = 1


def _only_regard_errors(work: Callable[[], object]) -> None:
    try:
        work()
    except RegardError as error:
        assert str(error).count("\n") < LINES_ALLOWED, f"more than one line: {error}"


def weights(data: bytes) -> None:
    """A weight file of any kind."""
    path = FOLDER / "weights"
    path.write_bytes(data)
    _only_regard_errors(lambda: convert(read_state(path), "", path))


def images(data: bytes) -> None:
    """An image file of any kind, decoded whole and scaled."""
    path = FOLDER / "image"
    path.write_bytes(data)
    _only_regard_errors(lambda: decode(path))
    _only_regard_errors(lambda: decode(path, shorter_side=16))


def tables(data: bytes) -> None:
    """A table of labelled images; the first byte chooses CSV, TSV or Parquet, and what is asked of it."""
    if not data:
        return
    choice, data = data[0], data[1:]
    path = FOLDER / f"table{('.csv', '.tsv', '.parquet')[choice % 3]}"
    path.write_bytes(data)
    problem = ("auto", "single_label", "multi_label", "regression")[choice // 3 % 4]
    group = (None, "label", r"(\w)")[choice // 12 % 3]
    _only_regard_errors(lambda: open_images(path, problem=problem, group=group))  # type: ignore[arg-type]


def configs(data: bytes) -> None:
    """The files of a run folder that people edit: config.yaml, and classes and result as JSON."""
    for name in ("config.yaml", "classes.json", "result.json"):
        (FOLDER / name).write_bytes(data)
    run = Run(FOLDER)

    def read() -> None:
        config = run.config
        Recipe.from_config(config["recipe"])
        Preprocess.from_config(config["preprocess"])

    _only_regard_errors(read)
    _only_regard_errors(lambda: run.classes)
    _only_regard_errors(run.result)


def _saved(save_to: Callable[[Path], object]) -> bytes:
    path = FOLDER / "seed"
    save_to(path)
    return path.read_bytes()


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def _npz(state: dict[str, torch.Tensor]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **{name: tensor.numpy() for name, tensor in state.items()})
    return stream.getvalue()


def seeds(target: str) -> list[bytes]:
    """Small whole inputs of a target."""
    if target == "weights":
        state = {"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)}
        plain = io.BytesIO()
        with zipfile.ZipFile(plain, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00")
        unclosed = io.BytesIO()
        with zipfile.ZipFile(unclosed, "w") as archive:
            archive.writestr("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'shape': (2L,  \n")
        return [
            save(state),
            _saved(lambda path: save_state(path, state)),
            _saved(lambda path: torch.save({"state_dict": state, "epoch": 3}, path)),
            _saved(lambda path: torch.save(state, path, _use_new_zipfile_serialization=False)),
            _npz(state),
            plain.getvalue(),
            unclosed.getvalue(),
            struct.pack("<Q", 2) + b"{}",
        ]
    if target == "images":
        pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
        photo, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112] = 6
        return [
            *(_encoded(photo, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")),
            _encoded(photo, "JPEG", exif=exif, progressive=True),
            _encoded(photo.convert("CMYK"), "JPEG"),
            _encoded(photo.convert("P"), "PNG", transparency=0),
            _encoded(Image.fromarray(pixels[..., 0].astype(np.uint16)), "PNG"),
            _encoded(photo.convert("L"), "TIFF", compression="tiff_lzw"),
        ]
    if target == "tables":
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in ("a.png", "b.png"):
            (FOLDER / name).write_bytes(_encoded(Image.new("RGB", (2, 2)), "PNG"))
        text = "path,label,split\na.png,cat,train\nb.png,dog|cat,test\n"
        boxes = "path,xmin,ymin,xmax,ymax\na.png,0,0,1,1\nb.png,0,0,2,2\n"
        stream = io.BytesIO()
        pq.write_table(pa.table({"path": ["a.png", "b.png"], "label": [["x"], ["y", "x"]]}), stream)
        return [
            b"\0" + text.encode(),
            b"\1" + text.replace(",", "\t").encode(),
            b"\x06" + text.encode(),
            b"\x09" + boxes.encode(),
            b"\2" + stream.getvalue(),
            b"\1" + b'path\t"two\nlines"\na.png\tcat\n',  # a column's name that would break the message
        ]
    config = {
        "recipe": Recipe(steps=3, precision="fp32").to_config(),
        "preprocess": Preprocess(32).to_config(),
        "problem": "single_label",
    }
    result = {"model": "m", "method": "head", "seed": 0, "cost": {"parameters": 3}}
    return [yaml.safe_dump(config).encode(), json.dumps(["cat", "dog"]).encode(), json.dumps(result).encode()]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "weights": weights,
    "images": images,
    "tables": tables,
    "configs": configs,
}
