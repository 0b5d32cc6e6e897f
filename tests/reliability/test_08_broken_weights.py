"""Row 8: a broken weight file explains itself: path, what was found, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from figures import record
from torch import Tensor
from weight_files import OTHER_FILES, npz_bytes, refusal, tensors, torch_bytes, well_said

from regard.errors import RegardError
from regard.inference.loaded import load_model
from regard.models import create_model
from regard.weights import save_state

State = dict[str, Tensor]
LONG = pytest.param(200, marks=pytest.mark.long)


def ours(state: State, path: Path) -> None:
    save_state(path, state)


def pth(state: State, path: Path) -> None:
    path.write_bytes(torch_bytes(state))


def legacy(state: State, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def npz(state: State, path: Path) -> None:
    path.write_bytes(npz_bytes(state))


FORMATS: dict[str, Callable[[State, Path], None]] = {
    "model.safetensors": ours,
    "model.pth": pth,
    "old.pth": legacy,
    "model.npz": npz,
}


@pytest.mark.parametrize("cuts", [20, LONG])
def test_truncations(tmp_path: Path, cuts: int) -> None:
    for name, write in FORMATS.items():
        path = tmp_path / name
        write(tensors(), path)
        good = path.read_bytes()
        for length in np.linspace(0, len(good) - 1, cuts).astype(int):
            path.write_bytes(good[:length])
            refusal(path)
    count = len(FORMATS) * cuts
    record(8, "truncated files of four formats", count, f"{count} of {count} explained")


@pytest.mark.parametrize("parts", [20, LONG])
def test_half_finished_downloads(tmp_path: Path, parts: int) -> None:
    """A file of the right length whose end is still zeros: what a download in pieces leaves behind.

    Not of torch's format before 1.6, whose raw storages carry no checksum at all: such files are "unverified".
    """
    formats = {name: write for name, write in FORMATS.items() if name != "old.pth"}
    for name, write in formats.items():
        path = tmp_path / name
        write(tensors(), path)
        good = path.read_bytes()
        for length in np.linspace(1, 0.9 * len(good), parts).astype(int):
            path.write_bytes(good[:length] + bytes(len(good) - length))
            refusal(path)
    count = len(formats) * parts
    record(8, "half-finished downloads of three formats", count, f"{count} of {count} explained")


def test_what_is_no_weight_file_is_called_by_its_name(tmp_path: Path) -> None:
    for data, expected in OTHER_FILES.values():
        for suffix in (".pth", ".safetensors", ".npz", ""):
            path = tmp_path / f"model{suffix}"
            path.write_bytes(data)
            assert expected in refusal(path)
    count = 4 * len(OTHER_FILES)
    record(8, "other files under four suffixes", count, f"{count} of {count} called by their name")


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.pth")
    assert "model.safetensors or pytorch_model.bin" in refusal(tmp_path)


def test_a_folder_of_pieces_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "several pieces" in refusal(tmp_path)


def without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "another family": (lambda s: create_model("resnet20_32", 3).state_dict(), "a torchvision ResNet, but vit_nano"),
    "another size": (lambda s: create_model("vit_micro_patch4_32", 3).state_dict(), "they fit vit_micro_patch4_32"),
    "transposed head": (lambda s: {**s, "head.weight": s["head.weight"].T.contiguous()}, "contradicts itself"),
    "missing key": (lambda s: without(s, "norm.weight"), "the weights lack norm.weight"),
    "extra key": (lambda s: {**s, "extra.weight": torch.ones(2)}, "the model has no extra.weight|no part of a"),
    "wrong dtype": (lambda s: {**s, "norm.weight": s["norm.weight"].long()}, "norm.weight holds torch.int64"),
    "another shape": (lambda s: {**s, "norm.bias": torch.ones(7)}, r"norm.bias has shape \(7,\)"),
    "no head": (lambda s: without(without(s, "head.weight"), "head.bias"), "has no head"),
}  # fmt: skip


@pytest.mark.parametrize("formats", [1, pytest.param(4, marks=pytest.mark.long)])
def test_whole_files_of_the_wrong_weights(tmp_path: Path, formats: int) -> None:
    right = create_model("vit_nano_patch4_32", num_classes=3).state_dict()
    for change, expected in WRONG.values():
        state = change(right)
        for name, write in list(FORMATS.items())[:formats]:
            path = tmp_path / name
            write(state, path)
            with pytest.raises(RegardError, match=expected) as caught:
                load_model("vit_nano_patch4_32", path)
            well_said(str(caught.value), path, parts=2)
    count = len(WRONG) * formats
    record(8, "whole files of the wrong weights, in each format", count, f"{count} of {count} explained")
