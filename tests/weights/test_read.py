"""Every format gives back what was written; damage is found, and named by tensor in our own files."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from regard.errors import RegardError
from regard.weights import read_state, save_state

State = dict[str, Tensor]


def write_torch(path: Path, state: State) -> None:
    torch.save(state, path)


def write_legacy(path: Path, state: State) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_npz(path: Path, state: State) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in state.items()})


def write_packed_npz(path: Path, state: State) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: tensor.numpy() for name, tensor in state.items()})


WRITERS: dict[str, Callable[[Path, State], object]] = {
    "ours": save_state,
    "safetensors": lambda path, state: save_file(state, path),
    "torch": write_torch,
    "legacy torch": write_legacy,
    "npz": write_npz,
    "compressed npz": write_packed_npz,
}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ""])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_read_whatever_its_suffix(tmp_path: Path, state: State, kind: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    WRITERS[kind](path, state)
    assert same(read_state(path), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("kind", ["ours", "torch", "legacy torch"])
def test_types_and_odd_shapes_survive(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    state = {
        "scalar": torch.ones((), dtype=dtype),
        "none": torch.ones(0, 3, dtype=dtype),
        "a": torch.ones(2, 3, dtype=dtype),
    }
    WRITERS[kind](tmp_path / "a", state)
    assert same(read_state(tmp_path / "a"), state)


def test_views_parameters_and_shared_storages_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {
        "transposed": whole.view(3, 4).t(),
        "part": whole[4:8],
        "parameter": nn.Parameter(whole),
        "tied": whole,
    }
    torch.save(state, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), {name: tensor.detach() for name, tensor in state.items()})


def test_a_real_module_is_read_with_its_buffers(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(module.state_dict(), tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), dict(module.state_dict()))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 81.2, "arch": "vit"},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"params": state}},
        lambda state: {"model": {name: tensor + 1 for name, tensor in state.items()}, "model_ema": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_common_containers_are_opened(tmp_path: Path, state: State, wrap: Callable[[State], dict]) -> None:
    torch.save(wrap(state), tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), state)


@pytest.mark.parametrize("prefix", ["opt/target/", "params/"])
def test_the_prefix_of_an_npz_is_stripped(tmp_path: Path, state: State, prefix: str) -> None:
    write_npz(tmp_path / "a.npz", {prefix + name: tensor for name, tensor in state.items()})
    assert same(read_state(tmp_path / "a.npz"), state)


def test_fortran_order_and_big_endian_arrays_are_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez(tmp_path / "a.npz", big=array, fortran=np.asfortranarray(array.astype("<f4")), scalar=np.float32(3))
    expected = torch.arange(6.0).reshape(2, 3)
    read = read_state(tmp_path / "a.npz")
    assert same(read, {"big": expected, "fortran": expected, "scalar": torch.tensor(3.0)})


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_is_read(tmp_path: Path, state: State, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (write_torch if name.endswith("bin") else save_state)(tmp_path / name, state)
    assert same(read_state(str(tmp_path)), state)


# --- our own writer ------------------------------------------------------------------------------


def test_our_file_names_format_and_a_hash_per_tensor(tmp_path: Path, state: State) -> None:
    save_state(tmp_path / "model.safetensors", state, {"model": "vit_tiny"})
    data = (tmp_path / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "pt"
    assert metadata["model"] == "vit_tiny"
    assert {key for key in metadata if key.startswith("sha256:")} == {f"sha256:{name}" for name in header}
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_state(tmp_path / "a.safetensors", state)
    old = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("regard.weights.save.os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_state(path, {"a": torch.ones(3)})
    assert path.read_bytes() == old
    assert [item.name for item in tmp_path.iterdir()] == ["a.safetensors"]


def test_views_of_one_storage_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {"a": whole, "b": whole[2:5], "c": whole.view(3, 4).t()}
    assert same(
        read_state(save_state(tmp_path / "a", state)),
        {name: tensor.clone() for name, tensor in state.items()},
    )


def data_start(data: bytes) -> int:
    return 8 + struct.unpack("<Q", data[:8])[0]


def test_a_flipped_bit_is_named_by_tensor(tmp_path: Path, state: State) -> None:
    path = save_state(tmp_path / "model.safetensors", state)
    data = bytearray(path.read_bytes())
    start = data_start(data)
    header = json.loads(data[8:start])
    begin, _ = header["norm.bias"]["data_offsets"]
    data[start + begin + 5] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(RegardError, match=rf"{path}: tensor norm\.bias is damaged; its SHA-256"):
        read_state(path)


def test_no_flipped_bit_and_no_hole_of_zeros_passes_in_our_files(tmp_path: Path, state: State) -> None:
    """200 random bits and 50 holes anywhere in the file: refused, or the tensors are whole all the same."""
    path = save_state(tmp_path / "model.safetensors", state)
    good = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(250):
        data = bytearray(good)
        place = int(random.integers(len(data)))
        if trial < 200:
            data[place] ^= 1 << int(random.integers(8))
        else:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        refused += not_silent(path, bytes(data), state)
    assert refused > 200


def not_silent(path: Path, data: bytes, state: State) -> bool:
    """True where the damaged file was refused by name; it must not be read as other tensors."""
    path.write_bytes(data)
    try:
        read = read_state(path)
    except RegardError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return True
    assert same(read, state)
    return False


def test_a_header_that_claims_another_shape_or_name_is_found(tmp_path: Path) -> None:
    path = save_state(tmp_path / "a.safetensors", {"w": torch.arange(6.0).reshape(2, 3)})
    data = path.read_bytes()
    for old, new in (
        (b'"shape":[2,3]', b'"shape":[3,2]'),
        (b'"w":{"data_offsets"', b'"v":{"data_offsets"'),
        (b'"F32"', b'"I32"'),
    ):
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))
        with pytest.raises(RegardError, match="SHA-256"):
            read_state(path)


@pytest.mark.parametrize("kind", ["torch", "npz", "compressed npz"])
def test_a_flipped_bit_in_a_zip_format_is_never_read_as_other_weights(tmp_path: Path, state: State, kind: str) -> None:
    """torch itself reads 97% of such files in silence: it does not check the archive's checksums."""
    path = tmp_path / "model"
    WRITERS[kind](path, state)
    good = path.read_bytes()
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(100):
        data = bytearray(good)
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        refused += not_silent(path, bytes(data), state)
    assert refused > 50


@pytest.mark.parametrize("kind", WRITERS)
def test_fifty_truncations_are_all_refused_by_name(tmp_path: Path, state: State, kind: str) -> None:
    path = tmp_path / "model.bin"
    WRITERS[kind](path, state)
    good = path.read_bytes()
    for length in np.linspace(0, len(good) - 1, 50).astype(int):
        path.write_bytes(good[:length])
        with pytest.raises(RegardError) as caught:
            read_state(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message


def test_a_checkpoint_with_an_optimiser_is_read_for_its_model(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 1}, buffer)
    (tmp_path / "a.pth").write_bytes(buffer.getvalue())
    assert same(read_state(tmp_path / "a.pth"), dict(model.state_dict()))


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    state = {f"layer{number}.weight": torch.full((3, number + 1), float(number)) for number in range(12)}
    for name in ("a", "b", "c"):
        save_state(tmp_path / name, state, {"architecture": "x"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert all(torch.equal(tensor, state[name]) for name, tensor in read_state(tmp_path / "a").items())
