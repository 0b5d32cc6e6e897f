"""A training script's options, an argparse.Namespace, lie beside the weights as inert data."""

from __future__ import annotations

import os
import struct
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.weights import read_state
from regard.weights.pickled import Settings, load_torch

OPTIONS = {
    "model": "t2t_vit_14",
    "lr": 5e-4,
    "epochs": 310,
    "amp": True,
    "mean": None,
    "scale": [0.08, 1.0],
    "ratio": (0.75, 4 / 3),
    "inner": Namespace(seed=2**40),
}
LEGACY = (False, True)


def checkpoint(state: dict[str, Tensor]) -> dict[str, object]:
    """As a training script of timm's writes it: models in wrappers, optimiser, options, averaged weights."""
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    return {
        "epoch": 309,
        "arch": "t2t_vit_14",
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in wrapped.items()},
        "optimizer": optimiser.state_dict(),
        "args": Namespace(**OPTIONS),
        "version": 2,
        "state_dict_ema": wrapped,
        "amp_scaler": {"scale": 65536.0, "growth_interval": 2000},
        "metric": 81.5,
    }


def save(path: Path, value: object, legacy: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", LEGACY)
def test_the_averaged_weights_beside_options_are_read(tmp_path: Path, state: dict[str, Tensor], legacy: bool) -> None:
    found = read_state(save(tmp_path / "81.5_T2T_ViT_14.pth.tar", checkpoint(state), legacy))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_options_are_data_of_no_class_of_their_own(tmp_path: Path, state: dict[str, Tensor]) -> None:
    before = torch.serialization.get_safe_globals()
    options = load_torch(save(tmp_path / "a.pth.tar", checkpoint(state), legacy=False))["args"]
    assert type(options) is Settings
    assert {name: value for name, value in vars(options).items() if name != "inner"} == {
        name: value for name, value in OPTIONS.items() if name != "inner"
    }
    assert type(options.inner) is Settings and vars(options.inner) == {"seed": 2**40}
    assert set(torch.serialization.get_safe_globals()) == set(before)  # it is let in for one file only


@pytest.mark.parametrize("legacy", LEGACY)
@pytest.mark.parametrize("place", ["whole file", "in the state dict", "for the state dict"])
def test_options_are_no_weights(tmp_path: Path, place: str, legacy: bool) -> None:
    options = Namespace(a=torch.ones(2))
    value = {
        "whole file": options,
        "in the state dict": {"state_dict": {"a": torch.ones(2), "b": options}},
        "for the state dict": {"state_dict": options, "epoch": 3},
    }[place]
    with pytest.raises(RegardError, match=r"expected; give the file with the model's state dict"):
        read_state(save(tmp_path / "a.pth", value, legacy))


class Touch:
    """Pickles as a call of os.system that would create the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", LEGACY)
def test_code_inside_options_is_refused(tmp_path: Path, legacy: bool) -> None:
    canary = tmp_path / "canary"
    value = {"state_dict": {"a": torch.ones(2)}, "args": Namespace(lr=0.1, hook=[{"deep": Touch(canary)}])}
    with pytest.raises(RegardError, match=r"forbidden global (posix|nt)\.system; a state dict"):
        read_state(save(tmp_path / "a.pth", value, legacy))
    assert not canary.exists()


def word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


NAMESPACE = b"cargparse\nNamespace\n"
FORGED = {
    "called": (NAMESPACE + b")R", "forbidden global argparse.Namespace"),
    "called with arguments": (NAMESPACE + word("a") + b"\x85R", "forbidden global argparse.Namespace"),
    "made with arguments": (NAMESPACE + word("a") + b"\x85\x81", "forbidden global argparse.Namespace"),
    "filled with a list": (NAMESPACE + b")\x81]b", "something else than a dict"),
    "filled with slots": (NAMESPACE + b")\x81}}\x86b", "something else than a dict"),
    "a number as a name": (NAMESPACE + b")\x81}K\x01K\x02sb", "special attribute"),
    "another class put on": (NAMESPACE + b")\x81}" + word("__class__") + b"ctorch\nSize\nsb", "special attribute"),
    "a method put on": (NAMESPACE + b")\x81}" + word("__setstate__") + b"ctorch\nSize\nsb", "special attribute"),
    "the class filled": (NAMESPACE + b"}b", "sets the state of something else than a dict"),
    "items set": (NAMESPACE + b")\x81K\x01K\x02s", "sets items of something else"),
    "nothing to make it of": (b"\x81", "a pickle that calls dict"),
    "another class": (b"cargparse\nArgumentParser\n)\x81", "forbidden global argparse.ArgumentParser"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_forged_options_are_refused(tmp_path: Path, kind: str) -> None:
    body, said = FORGED[kind]
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + word("args") + body + b"s.")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    with pytest.raises(RegardError, match=said):
        read_state(path)
