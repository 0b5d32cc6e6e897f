"""From a path to a dict of tensors: the kind is judged by content, and nothing in a file is ever executed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from regard.weights.detect import FETCH_AGAIN, detect, refuse
from regard.weights.npz import read_npz
from regard.weights.pickled import load_legacy_torch, load_torch
from regard.weights.save import HASH_PREFIX, tensor_sha256

MAX_HEADER = 16 * 2**20  # bytes of a safetensors header; ViT-L's with hashes is 60 kB
MAX_TENSORS = 100_000
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Averaged weights come first, as they are what was evaluated; timm reads in the same order.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model", "params", "module")
WRAPPERS = ("module.", "_orig_mod.")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file, on the CPU, under the names that the file gives them.

    path: safetensors, a torch state dict (zip or the format before 1.6; common containers such as
    {"state_dict": ...} are opened, `module.` and `_orig_mod.` stripped), an .npz, or a folder with
    model.safetensors or pytorch_model.bin (Hugging Face, or a run folder). A file of ours carries
    `sha256:KEY` per tensor and is checked.

    Raises RegardError, one line with path, finding, expectation and advice, for everything else: missing,
    empty, truncated, damaged, a web page, a git-LFS pointer, a file that asks for code, a file that would
    grow beyond its size.
    """
    path = file_in(Path(path))
    kind = detect(path)
    if kind == "safetensors":
        return _plain(path, _read_safetensors(path))
    if kind == "npz":
        return _plain(path, read_npz(path))
    return _plain(path, _unwrap(path, load_torch(path) if kind == "torch" else load_legacy_torch(path)))


def carries_hashes(path: Path) -> bool:
    """True for a safetensors file with a SHA-256 per tensor, which `read_state` then compares."""
    if detect(path) != "safetensors":
        return False
    return any(key.startswith(HASH_PREFIX) for key in _check_header(path))


def file_in(path: Path) -> Path:
    """The weight file of a folder; a path that is no folder is returned as it is."""
    if not os.path.exists(path):
        raise refuse(path, "no such file or folder", "check the path")
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    wanted = " or ".join(FOLDER_FILES)
    if list(path.glob("*.index.json")):
        raise refuse(path, "a folder of weights in several pieces", "join them into one", f"one {wanted} was expected")
    raise refuse(path, "a folder without weights", "give the weight file itself", f"{wanted} was expected inside")


# --- safetensors ------------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    metadata = _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise refuse(path, f"a damaged safetensors file ({_first_line(error)})", FETCH_AGAIN) from None
    _verify_hashes(path, state, metadata)
    return state


def _check_header(path: Path) -> Mapping[str, str]:
    """Reads and judges the header before anything is mapped; returns its metadata."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            found = f"a safetensors file with a header of {length:,} bytes"
            raise refuse(path, found, FETCH_AGAIN, f"at most {MAX_HEADER:,} were expected")
        if length + 8 > size:
            raise refuse(
                path,
                f"a truncated safetensors file of {size:,} bytes",
                FETCH_AGAIN,
                f"its header needs {length + 8:,}",
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        ends = [entry["data_offsets"][1] for entry in header.values()]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise refuse(path, "a safetensors file with a damaged header", FETCH_AGAIN) from None
    if len(header) > MAX_TENSORS:
        raise refuse(
            path,
            f"a safetensors file of {len(header):,} tensors",
            FETCH_AGAIN,
            "at most 100,000 were expected",
        )
    if needed > size:
        raise refuse(
            path,
            f"a truncated safetensors file of {size:,} bytes",
            FETCH_AGAIN,
            f"its tensors need {needed:,}",
        )
    return metadata if isinstance(metadata, dict) else {}


def _verify_hashes(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compares each tensor with the SHA-256 that our writer put into the metadata; other files carry none."""
    hashes = {key.removeprefix(HASH_PREFIX): value for key, value in metadata.items() if key.startswith(HASH_PREFIX)}
    if not hashes:
        return
    advice = "take another copy of the file"
    odd = sorted(set(hashes) ^ set(state))
    if odd:
        raise refuse(
            path,
            f"tensor {odd[0]} and its SHA-256 are not both in the file",
            advice,
            "one hash per tensor was written",
        )
    for name, tensor in state.items():
        if tensor_sha256(tensor) != hashes[name]:
            raise refuse(path, f"tensor {name} is damaged", advice, "its SHA-256 does not fit the one written with it")


# --- containers -------------------------------------------------------------------------------------------


def _unwrap(path: Path, loaded: Any) -> dict[str, Any]:
    """The state dict inside a checkpoint: opened at most four containers deep."""
    for _ in range(4):
        if not isinstance(loaded, Mapping):
            break
        inner = next((loaded[name] for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            return dict(loaded)
        loaded = inner
    found = f"a torch file that holds a {type(loaded).__name__}"
    raise refuse(path, found, "give the file with the model's state dict", "a dict of tensors was expected")


def _plain(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The same dict, every value a plain dense tensor and every name a string without wrappers' prefixes."""
    if not state:
        raise refuse(path, "a weight file without any tensor", FETCH_AGAIN)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            found = f"entry {name!r} is a {type(value).__name__}"
            raise refuse(path, found, "give the file with the model's state dict", "a dict of tensors was expected")
        if value.layout != torch.strided or value.is_quantized:
            raise refuse(path, f"tensor {name} is not dense", "give dense weights", "dense tensors were expected")
    plain = {name: tensor.detach() for name, tensor in state.items()}
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in plain)), None):
        plain = {name.removeprefix(wrapper): tensor for name, tensor in plain.items()}
    return plain


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
