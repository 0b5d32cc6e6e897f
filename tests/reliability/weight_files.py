"""Weight files as nobody should send them: code, bombs, and things that are no weights; built, never run."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.weights import read_state

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def refusal(path: Path) -> str:
    """The one line that `read_state` refuses `path` with."""
    with pytest.raises(RegardError) as caught:
        read_state(path)
    return well_said(str(caught.value), path)


def well_said(message: str, path: Path, parts: int = 3) -> str:
    """One line: path, found, expected, advice (the first two may be one part); no unsafe mode is ever advised."""
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert message.count(";") >= parts - 1, message
    assert not re.search(r"weights_only|allow_pickle|unsafe|trust", message)
    return message


def tensors() -> dict[str, Tensor]:
    """Twelve tensors of one shape, so that any two can change places unnoticed by their headers; 13 kB."""
    generator = torch.Generator().manual_seed(0)
    return {f"blocks.{number}.weight": torch.randn(16, 17, generator=generator) for number in range(12)}


def torch_bytes(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def npz_bytes(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: tensor.numpy() for name, tensor in state.items()})
    return buffer.getvalue()


# --- code ---

GADGETS = [
    "os.system",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "subprocess.check_output",
    "builtins.eval",
    "builtins.exec",
    "__builtin__.eval",
    "builtins.getattr",
    "builtins.__import__",
    "importlib.import_module",
    "runpy.run_path",
    "pty.spawn",
    "shutil.rmtree",
    "webbrowser.open",
    "functools.partial",
    "operator.attrgetter",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "socket.create_connection",
    "codecs.decode",
    "types.CodeType",
    "torch.load",
    "torch.hub.load",
    "torch.utils.collect_env.run",
    "torch.jit.load",
    "torch.storage._load_from_bytes",
    "numpy.load",
    "numpy.f2py.crackfortran.myeval",
    "collections.Counter",
    "argparse.Namespace",
]


def gadget(name: str, canary: Path) -> bytes:
    """A protocol 2 pickle that calls `name` with a shell command that would create the canary."""
    module, attribute = name.rsplit(".", 1)
    command = f"touch {canary}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    return b"\x80\x02c" + module.encode() + b"\n" + attribute.encode() + b"\n" + text + b"\x85R."


def as_zip(body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def as_legacy(body: bytes) -> bytes:
    return MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + body + pickle.dumps([], 2)


class Evil:
    """Pickles as a call of os.system."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        import os

        return os.system, (f"touch {self.canary}",)


def npz_with(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def object_npz(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, cls=np.array([Evil(canary)], dtype=object))
    return buffer.getvalue()


def tar_with(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def script_archive(canary: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", gadget("os.system", canary))
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/code/__torch__.py", "import os")
    return buffer.getvalue()


def torch_saved(value: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def two_pickles(canary: Path) -> bytes:
    buffer = io.BytesIO(as_zip(pickle.dumps({}, 2)))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("other/data.pkl", gadget("os.system", canary))
    return buffer.getvalue()


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "evil beside tensors": lambda c: torch_saved({"state_dict": {"a": torch.ones(2)}, "hook": Evil(c)}),
    "evil as the whole object": lambda c: torch_saved(Evil(c)),
    "evil, legacy format": lambda c: torch_saved(Evil(c), _use_new_zipfile_serialization=False),
    "evil, pickle protocol 4": lambda c: torch_saved(Evil(c), pickle_protocol=4),
    "evil, legacy and protocol 5": lambda c: torch_saved(
        Evil(c), pickle_protocol=5, _use_new_zipfile_serialization=False
    ),
    "bare pickle, protocol 0": lambda c: pickle.dumps(Evil(c), 0),
    "bare pickle, protocol 1": lambda c: pickle.dumps(Evil(c), 1),
    "bare pickle, protocol 2": lambda c: pickle.dumps(Evil(c), 2),
    "bare pickle, protocol 5": lambda c: pickle.dumps(Evil(c), 5),
    "whole module, not a state dict": lambda c: torch_saved(torch.nn.Linear(2, 2)),
    "INST": lambda c: as_zip(b"(S'touch " + str(c).encode() + b"'\nios\nsystem\n."),
    "STACK_GLOBAL": lambda c: as_zip(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
    "EXT1": lambda c: as_zip(b"\x80\x02\x82\x01."),
    "OBJ": lambda c: as_zip(b"\x80\x02(cos\nsystem\nX\x04\0\0\0trueo."),
    "NEWOBJ of a storage": lambda c: as_zip(b"\x80\x02ctorch\nFloatStorage\n)\x81."),
    "REDUCE of a string": lambda c: as_zip(b"\x80\x02X\x02\0\0\0os)R."),
    "BUILD on a tuple": lambda c: as_zip(b"\x80\x02)}b."),
    "BUILD on a global": lambda c: as_zip(b"\x80\x02ctorch\nSize\n}b."),
    "SETITEM on a list": lambda c: as_zip(b"\x80\x02]K\x00K\x01s."),
    "SETITEM on a global": lambda c: as_zip(b"\x80\x02ctorch\nSize\nK\x00K\x01s."),
    "APPEND on a dict": lambda c: as_zip(b"\x80\x02}K\x00a."),
    "stack underflow": lambda c: as_zip(b"\x80\x02R."),
    "no STOP": lambda c: as_zip(b"\x80\x02}"),
    "memo never set": lambda c: as_zip(b"\x80\x02h\x07."),
    "object array": object_npz,
    "pickle inside an npz": lambda c: npz_with("cls.npy", gadget("os.system", c)),
    "TorchScript": script_archive,
    "two pickles in one archive": two_pickles,
    "torch archive inside a zip": lambda c: npz_with("model.pth", as_zip(gadget("os.system", c))),
    "torch tar of 2016": lambda c: tar_with("pickle", gadget("os.system", c)),
    "tar with a pickle": lambda c: tar_with("storages", pickle.dumps(Evil(c))),
    "sparse tensor": lambda c: torch_saved({"a": torch.ones(3, 3).to_sparse()}),
    "sparse CSR claim": lambda c: as_zip(gadget("torch._utils._rebuild_sparse_tensor", c)),
    "quantized claim": lambda c: as_zip(gadget("torch._utils._rebuild_qtensor", c)),
    "meta tensor claim": lambda c: as_zip(gadget("torch._utils._rebuild_meta_tensor_no_storage", c)),
    "wrapper subclass claim": lambda c: as_zip(gadget("torch._tensor._rebuild_from_type_v2", c)),
}


# --- bombs ---


def header_bomb(claim: int, text: bytes = b"{") -> bytes:
    return struct.pack("<Q", claim) + text


def deflated(body: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in body.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def deflated_torch() -> bytes:
    """A real 64 MiB state dict of zeros, packed again by deflate: about 66 kB."""
    whole = io.BytesIO(torch_saved({"a": torch.zeros(2**24)}))
    with zipfile.ZipFile(whole) as archive:
        return deflated({name: archive.read(name) for name in archive.namelist()})


def npy(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def storage_claim(elements: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of {"a": tensor} over storage "0" with these claims."""

    def number(value: int) -> bytes:
        data = value.to_bytes(8, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(number(value) for value in values) + b"t"

    def word(text: str) -> bytes:
        return b"X" + struct.pack("<I", len(text)) + text.encode()

    pid = b"(" + word("storage") + b"ctorch\nFloatStorage\n" + word("0") + word("cpu") + number(elements)
    storage = pid + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = b"(" + storage + number(0) + numbers(shape) + numbers(stride) + b"\x89" + hooks + b"t"
    return b"\x80\x02}" + word("a") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def torch_claim(elements: int, shape: tuple[int, ...], stride: tuple[int, ...], stored: int) -> bytes:
    buffer = io.BytesIO(as_zip(storage_claim(elements, shape, stride)))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", b"\0" * stored)
    return buffer.getvalue()


def legacy_claim(elements: int) -> bytes:
    body = storage_claim(elements, (elements,), (1,))
    return MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + body + pickle.dumps(["0"], 2) + b"\0" * 64


def safetensors_with(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor_entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def million_tensors() -> bytes:
    entry = ',"t%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + "".join(map(entry.__mod__, range(1_000_000)))[1:] + "}").encode()
    return header_bomb(len(text), text)


BOMBS: dict[str, Callable[[], bytes]] = {
    "deflated torch archive, 1000:1": deflated_torch,
    "deflated npz, 1000:1": lambda: deflated({"a.npy": npy(f"({2**25},)", data=b"\0" * 2**27)}),
    "npy header of 1 TiB": lambda: npz_with("a.npy", npy("(274877906944,)", data=b"\0" * 16)),
    "npy header of a negative side": lambda: npz_with("a.npy", npy("(-4, -1)", data=b"\0" * 16)),
    "npy header that is a program": lambda: npz_with("a.npy", npy("__import__('os')")),
    "npy of text": lambda: npz_with("a.npy", npy("(1,)", "<U4", b"\0" * 16)),
    "stride 0 to 32 GiB": lambda: torch_claim(1, (2**33,), (0,), 4),
    "overlapping strides": lambda: torch_claim(2000, (1000, 1000), (1, 1), 8000),
    "tensor beyond its storage": lambda: torch_claim(4, (8,), (1,), 16),
    "negative stride": lambda: torch_claim(4, (4,), (-1,), 16),
    "storage that is not there": lambda: as_zip(storage_claim(4, (4,), (1,))),
    "storage of 4 TiB in 16 bytes": lambda: torch_claim(2**40, (2**40,), (1,), 16),
    "legacy storage of 4 TiB": lambda: legacy_claim(2**40),
    "pickle of depth 100,000": lambda: as_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "pickle of 600,000 instructions": lambda: as_zip(b"\x80\x02}" + b"K\0K\0s" * 200_000 + b"."),
    "pickle with a memo slot of 4 billion": lambda: as_zip(b"\x80\x02}r\xff\xff\xff\xff."),
    "pickle with a string of 4 GiB": lambda: as_zip(b"\x80\x02X\xff\xff\xff\xffabc."),
    "safetensors header of 99 MB": lambda: header_bomb(99_000_000, b"{" + b" " * 99_000_000),
    "safetensors header of 16 EiB": lambda: header_bomb(2**64 - 1),
    "safetensors header of 1 TiB": lambda: header_bomb(2**40),
    "safetensors of 1,000,000 tensors": million_tensors,
    "safetensors tensor of 1 TiB": lambda: safetensors_with({"a": tensor_entry("F32", [2**38], 0, 2**40)}),
    "safetensors shape over no data": lambda: safetensors_with({"a": tensor_entry("F32", [2**38], 0, 0)}),
    "safetensors overlap": lambda: safetensors_with(
        {"a": tensor_entry("U8", [4], 0, 4), "b": tensor_entry("U8", [4], 0, 4)}, b"\0" * 4
    ),
    "safetensors hole": lambda: safetensors_with({"a": tensor_entry("U8", [4], 4, 8)}, b"\0" * 8),
    "safetensors nested 100,000 deep": lambda: struct.pack("<Q", 200_005) + b'{"a":' + b"[" * 100_000 + b"]" * 100_000,
}


# --- files that are something else ---

OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "web page": (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "xml error": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
    "git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git-LFS"),
    "json": (b'{"message": "not found"}', "a JSON text"),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 40, "a gzip archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "an HDF5 file"),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "a PNG image"),
    "jpeg": (b"\xff\xd8\xff\xe0" + b"\0" * 40, "a JPEG image"),
    "program": (b"\x7fELF" + b"\0" * 40, "a program"),
    "one array": (npy("(1,)", data=b"\0\0\0\0"), "a single NumPy array"),
    "noise": (np.random.default_rng(0).bytes(4096), "no known format"),
    "three bytes": (b"abc", "no known format"),
    "zip of photos": (npz_with("cat.jpg", b"\xff\xd8"), "a zip archive without weights"),
    "empty zip": (b"PK\x05\x06" + b"\0" * 18, "a zip archive without weights"),
    "empty safetensors": (safetensors_with({}), "without any tensor"),
    "empty state dict": (torch_saved({}), "without any tensor"),
    "a list": (torch_saved([1, 2]), "holds a list"),
    "one tensor": (torch_saved(torch.ones(2)), "holds a Tensor"),
    "an entry that is a number": (torch_saved({"a": torch.ones(2), "epoch": 3}), "entry 'epoch' is a int"),
}
