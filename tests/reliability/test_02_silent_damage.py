"""Row 2: no weights that are silently wrong, in our files and in published ones whose hash is known."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from figures import record
from safetensors.torch import save_file
from torch import Tensor
from weight_files import npz_bytes, tensors, torch_bytes

from regard.errors import RegardError
from regard.inference.loaded import load_model
from regard.models import create_model
from regard.weights import Checkpoint, find_checkpoint, obtain, read_state, save_state, unverified
from regard.weights.download import local_place

State = dict[str, Tensor]
LONG = pytest.param(10, marks=pytest.mark.long)
FLIPS, HOLES, SWAPS = 100, 20, 20  # a tenth of the row's counts


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def damaged(good: bytes, times: int) -> Iterator[bytes]:
    """The file with one flipped bit, or with a hole of zeros that changes something."""
    random = np.random.default_rng(2)
    for trial in range((FLIPS + HOLES) * times):
        data = bytearray(good)
        while data == good:
            place = int(random.integers(len(data)))
            if trial < FLIPS * times:
                data[place] ^= 1 << int(random.integers(8))
            else:
                data[place : place + 256] = bytes(len(data[place : place + 256]))
        yield bytes(data)


def swapped(times: int) -> Iterator[State]:
    """The state with two tensors in each other's place: every part whole, the model wrong."""
    random = np.random.default_rng(3)
    for _ in range(SWAPS * times):
        state = tensors()
        one, other = (list(state)[place] for place in random.choice(len(state), 2, replace=False))
        state[one], state[other] = state[other], state[one]
        yield state


def refused(read: Callable[[], State], path: Path) -> str:
    """The message where reading was refused by path; "" where it gave the whole weights all the same."""
    try:
        found = read()
    except RegardError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return str(error)
    assert same(found, tensors()), "read as other weights"
    return ""


@pytest.mark.parametrize("times", [1, LONG])
def test_our_files(tmp_path: Path, times: int) -> None:
    path = save_state(tmp_path / "model.safetensors", tensors())
    good = path.read_bytes()
    data_from = 8 + int.from_bytes(good[:8], "little")
    named, inside = 0, 0
    for data in damaged(good, times):
        path.write_bytes(data)
        message = refused(lambda: read_state(path), path)
        in_a_tensor = data[:data_from] == good[:data_from]
        inside += in_a_tensor
        named += in_a_tensor and "tensor blocks." in message
    for state in swapped(times):
        save_file(state, path)  # the header of the wrong state, its metadata that of the right one
        other = path.read_bytes()
        path.write_bytes(good[:data_from] + other[8 + int.from_bytes(other[:8], "little") :])
        assert "tensor blocks." in refused(lambda: read_state(path), path)
    assert named == inside > FLIPS * times / 2
    count = (FLIPS + HOLES + SWAPS) * times
    record(2, "bit flips, holes and swapped tensors in our .safetensors", count, f"0 of {count:,} silent")


def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, good: bytes) -> tuple[Checkpoint, Path]:
    """A catalogue entry with a pinned hash, and where its file lies on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoint = dataclasses.replace(
        find_checkpoint("resnet18"),
        source=f"https://localhost/model{suffix}",
        sha256=hashlib.sha256(good).hexdigest()[:8],
    )
    path = local_place(checkpoint)
    path.parent.mkdir(parents=True)
    return checkpoint, path


@pytest.mark.parametrize("times", [1, LONG])
@pytest.mark.parametrize(("suffix", "write"), [(".pth", torch_bytes), (".npz", npz_bytes)])
def test_published_files_with_a_pinned_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, write: Callable[[State], bytes], times: int
) -> None:
    good = write(tensors())
    checkpoint, path = published(tmp_path, monkeypatch, suffix, good)
    path.write_bytes(good)
    assert same(read_state(obtain(checkpoint)), tensors())
    named = 0
    for data in damaged(good, times):
        path.write_bytes(data)
        with pytest.raises(RegardError, match="its SHA-256 should start with") as caught:
            obtain(checkpoint)
        assert str(path) in str(caught.value)
        # Without the pinned hash, the archive's own checksums still find all that changes a tensor.
        named += "blocks." in refused(lambda: read_state(path), path)
    for state in swapped(times):
        path.write_bytes(write(state))
        with pytest.raises(RegardError, match="its SHA-256 should start with"):
            obtain(checkpoint)
    assert named > FLIPS * times / 2
    count = (FLIPS + HOLES + SWAPS) * times
    record(2, f"the same in a published {suffix} with a pinned hash", count, f"0 of {count:,} silent")


def test_a_damaged_storage_of_a_torch_file_is_named_by_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": tensors(), "epoch": 3}, path)
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data/7"))
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(RegardError, match=r"model\.pth: .*the checksum of tensor blocks\.7\.weight does not fit"):
        read_state(path)


def test_what_nothing_vouches_for_is_loaded_and_said(tmp_path: Path) -> None:
    state = create_model("resnet20_32", num_classes=3).state_dict()
    torch.save(state, tmp_path / "theirs.pth")
    save_file(state, tmp_path / "theirs.safetensors")
    save_state(tmp_path / "ours.safetensors", state)
    for name in ("theirs.pth", "theirs.safetensors"):
        (line,) = load_model("resnet20_32", tmp_path / name).messages
        assert line.startswith(f"{tmp_path / name}: unverified: ")
    assert load_model("resnet20_32", tmp_path / "ours.safetensors").messages == []


def test_a_file_under_a_published_name_must_be_that_file(tmp_path: Path) -> None:
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(create_model("resnet18", num_classes=10).state_dict(), path)
    with pytest.raises(RegardError, match=r"not the file of resnet18\.tv_in1k"):
        load_model("resnet18", path)
    path.rename(tmp_path / "mine.pth")
    assert unverified(tmp_path / "mine.pth", [find_checkpoint("resnet18")])
