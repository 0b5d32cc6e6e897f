"""Our own weight files: safetensors with a SHA-256 per tensor, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HASH_PREFIX = "sha256:"


def tensor_sha256(tensor: Tensor) -> str:
    """SHA-256 in hexadecimal of a tensor's dtype, shape and little-endian bytes.

    Dtype and shape come first as text (`torch.float32 (3, 4)` and a line feed), so that a header that
    claims another type or shape over the same bytes is found out as well.
    """
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_state(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes `state` as safetensors at `path`, with `format: pt` and `sha256:KEY` per tensor in the metadata.

    The file is written beside, flushed to the disk and renamed: `path` holds the old file or the whole new
    one, never a part. OSError (full disk, no permission) is passed on after the part is removed.
    """
    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    hashes = {HASH_PREFIX + name: tensor_sha256(tensor) for name, tensor in plain.items()}
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(plain, beside, metadata={**(metadata or {}), "format": "pt", **hashes})
        _sort_header(beside)
        _flush(beside)
        os.replace(beside, path)
        _flush(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return path


def _sort_header(path: Path) -> None:
    """Puts the header's keys in order: the writer's own order changes from call to call, and equal weights should be
    equal files. The same words in another order are equally long, so the tensors stay where they are.
    """
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _flush(path: Path) -> None:
    """fsync of a file or a folder: the rename must not reach the disk before the bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
