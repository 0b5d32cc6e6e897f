"""torch's pickled files (.pth, .pt, .bin), read in two steps that each refuse code by themselves.

First the pickle is interpreted here into inert data: a global becomes a `Name` and is never looked up, a
call becomes a record and is never made. That tells which global a hostile file asks for, and what each
tensor claims about its storage, before anything is allocated. Then `torch.load(weights_only=True)` does the
reading.

Beside tensors, training scripts save their options as an argparse.Namespace. It is read as a `Settings`, which has no
code of its own and which nobody looks into, and only in the form that pickle gives it: made without arguments, then
filled with a dict.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regard.errors import RegardError
from regard.weights.detect import FETCH_AGAIN, ZIP_ERRORS, refuse

MAX_PICKLE = 64 * 2**20  # bytes; ViT-L's is about 50 kB
MAX_INSTRUCTIONS = 200_000  # about 5,000 tensors: ResNet-152 with an optimiser and an average has 3,300
MAX_HEIGHT = 10_000  # of the stack: the writer sets items in batches of a thousand
ASK_AUTHOR = "ask its author for the weights as safetensors"

_ELEMENT_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_ORDERED_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMESPACE = "argparse.Namespace"
_ALLOWED = {
    _ORDERED_DICT,
    _TENSOR,
    _PARAMETER,
    _NAMESPACE,
    "torch.Size",
    *(f"torch.{name}" for name in _ELEMENT_BYTES),
}


class Settings:
    """Stands for an argparse.Namespace: attributes, and no method that anything could call."""


class PickleRefused(Exception):
    """(what was found, what to do): becomes the refusal of the file."""


@dataclass(frozen=True)
class Name:
    """A global that the pickle asks for, by name only."""

    text: str


@dataclass(frozen=True)
class Storage:
    """The claim of one storage: its key in the file, its elements and their width in bytes."""

    key: str
    elements: int
    width: int


@dataclass(frozen=True)
class TensorClaim:
    """The claim of one tensor about its place in a storage."""

    storage: Storage
    shape: tuple[int, ...]


def load_torch(path: Path) -> Any:
    """The object in a torch zip archive: entries stored plainly, checksums right, claims within the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(path, archive)
            machine = _check_pickle(path, archive)
            _check_storages(path, archive, machine)
            damaged = archive.testzip()
    except ZIP_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse(path, f"a damaged torch archive ({reason})", FETCH_AGAIN) from None
    if damaged:
        key = damaged.split("/", 1)[-1].removeprefix("data/")
        found = f"a damaged torch archive: the checksum of {machine.owner(key) or damaged} does not fit"
        raise refuse(path, found, FETCH_AGAIN)
    return _torch_load(path)


def load_legacy_torch(path: Path) -> Any:
    """The object in a torch file of before 1.6: five pickles, then the raw storages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        storages: dict[str, Storage] = {}
        try:
            for _ in range(5):  # magic number, protocol, system, the object, the keys of the storages
                storages |= _Machine().run(data)
        except PickleRefused as refused:
            raise _refuse_pickle(path, refused) from None
        expected = data.tell() + sum(8 + item.elements * item.width for item in storages.values())
        if expected > len(data):
            raise refuse(
                path,
                f"a truncated torch file of {len(data):,} bytes",
                FETCH_AGAIN,
                f"its storages claim {expected:,}",
            )
    return _torch_load(path)


def _torch_load(path: Path) -> Any:
    try:
        # Given a path, newer versions of torch judge by its suffix.
        with path.open("rb") as file, torch.serialization.safe_globals([(Settings, _NAMESPACE)]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds; its own text advises to switch safety off
        raise refuse(path, f"torch cannot read it ({type(error).__name__})", FETCH_AGAIN) from None


def _check_archive(path: Path, archive: zipfile.ZipFile) -> None:
    """torch stores its entries plainly: compressed or overlapping ones were made by other hands."""
    entries = archive.infolist()
    packed = next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    total = sum(entry.file_size for entry in entries)
    if packed is not None:
        found = f"a torch archive with a compressed entry ({packed.filename}: {packed.file_size:,} bytes)"
        raise refuse(path, found, ASK_AUTHOR, "torch stores its entries plainly")
    if total > path.stat().st_size or len({entry.filename for entry in entries}) != len(entries):
        raise refuse(path, f"a torch archive whose entries claim {total:,} bytes", FETCH_AGAIN, "they overlap")


def _check_pickle(path: Path, archive: zipfile.ZipFile) -> _Machine:
    found = [entry for entry in archive.infolist() if entry.filename.split("/", 1)[-1] == "data.pkl"]
    if len(found) != 1 or found[0].file_size > MAX_PICKLE:
        raise refuse(path, "a torch archive with no single pickle of ordinary size", FETCH_AGAIN)
    try:
        machine = _Machine()
        machine.run(io.BytesIO(archive.read(found[0])))
    except PickleRefused as refused:
        raise _refuse_pickle(path, refused) from None
    return machine


def _check_storages(path: Path, archive: zipfile.ZipFile, machine: _Machine) -> None:
    sizes = {entry.filename.split("/", 1)[-1]: entry.file_size for entry in archive.infolist()}
    for storage in machine.storages.values():
        claimed, stored = storage.elements * storage.width, sizes.get(f"data/{storage.key}")
        if stored != claimed:
            there = "is not in the file" if stored is None else f"has {stored:,}"
            raise refuse(
                path,
                f"{machine.owner(storage.key) or f'storage {storage.key}'} claims {claimed:,} bytes and {there}",
                FETCH_AGAIN,
                "both must agree",
            )


def _refuse_pickle(path: Path, refused: PickleRefused) -> RegardError:
    found, advice = refused.args
    return refuse(path, found, advice, "a state dict of tensors was expected")


class _Machine:
    """Interprets one pickle into inert dicts, lists, numbers, strings, `Name` and `TensorClaim`.

    It knows the instructions of pickle protocol 2 that torch writes, and refuses all others.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, data: Any) -> dict[str, Storage]:
        """Interprets up to STOP; returns the storages by key. Raises PickleRefused."""
        try:
            for count, (name, argument) in enumerate(_instructions(data)):
                if count > MAX_INSTRUCTIONS:
                    raise PickleRefused(f"a pickle of more than {MAX_INSTRUCTIONS:,} instructions", ASK_AUTHOR)
                if len(self.stack) > MAX_HEIGHT:
                    raise PickleRefused(f"a pickle nested more than {MAX_HEIGHT:,} deep", ASK_AUTHOR)
                self._step(name, argument)
        except PickleRefused:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, MemoryError):
            raise PickleRefused("a damaged pickle", FETCH_AGAIN) from None
        return self.storages

    def owner(self, key: str) -> str:
        """`tensor NAME` of the first tensor that lies in this storage, "" where none does."""
        waiting, seen = list(self.stack[-1:]), set()  # a hostile dict can hold itself
        while waiting:
            value = waiting.pop()
            if id(value) in seen or not isinstance(value, dict):
                continue
            seen.add(id(value))
            for name, inner in value.items():
                if isinstance(inner, TensorClaim) and inner.storage.key == key:
                    return f"tensor {name}"
                waiting.append(inner)
        return ""

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            if argument > MAX_INSTRUCTIONS:
                raise PickleRefused(f"a pickle with {argument:,} memo slots", ASK_AUTHOR)
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            items = self._pop(int(name[-1]))
            stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._since_mark()
            _only(stack[-1], list, "appends to something else than a list")
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._since_mark()
            _only(stack[-1], dict, "sets items of something else than a dict")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BUILD":
            (attributes,) = self._pop(1)  # that no one reads: the `_metadata` of a state dict, a script's options
            if isinstance(stack[-1], Settings):
                _only(attributes, dict, f"fills an {_NAMESPACE} with something else than a dict")
                if any(type(name) is not str or name.startswith("__") for name in attributes):
                    raise PickleRefused(f"a pickle that sets a special attribute of an {_NAMESPACE}", ASK_AUTHOR)
            else:
                _only(stack[-1], dict, "sets the state of something else than a dict")
        elif name == "GLOBAL":
            stack.append(_allowed(argument.replace(" ", ".", 1)))
        elif name == "NEWOBJ" and stack[-2:] == [Name(_NAMESPACE), ()]:
            self._pop(2)
            stack.append(Settings())
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self._pop(2)
            stack.append(self._call(function, arguments))
        elif name == "BINPERSID":
            stack.append(self._storage(*self._pop(1)))
        elif name not in ("PROTO", "STOP"):
            raise self._refuse_instruction(name, argument)

    def _refuse_instruction(self, name: str, argument: Any) -> PickleRefused:
        if name == "STACK_GLOBAL":  # protocol 4 names its globals by two strings
            return _forbidden(".".join(str(part) for part in self.stack[-2:]))
        if name == "INST":
            return _forbidden(argument.replace(" ", ".", 1))
        return PickleRefused(f"a pickle with the instruction {name}, which no state dict needs", ASK_AUTHOR)

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _call(self, function: Any, arguments: Any) -> Any:
        name = function.text if isinstance(function, Name) else ""
        if name == _ORDERED_DICT and arguments == ():
            return {}
        if name == "torch.Size" and len(arguments) == 1:
            return tuple(arguments[0])
        if name == _PARAMETER:
            return arguments[0]
        if name == _TENSOR:
            return _tensor(*arguments[:4])
        if name == _NAMESPACE:
            raise _forbidden(name)
        raise PickleRefused(f"a pickle that calls {name or type(function).__name__}", ASK_AUTHOR)

    def _storage(self, claim: Any) -> Storage:
        word, kind, key, _, elements = claim[:5]
        width = _ELEMENT_BYTES.get(kind.text.removeprefix("torch.")) if isinstance(kind, Name) else None
        if word != "storage" or width is None or not isinstance(elements, int) or elements < 0:
            raise ValueError
        storage = Storage(str(key), elements, width)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise PickleRefused(f"storage {storage.key} claimed twice in different ways", FETCH_AGAIN)
        return storage


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}


def _instructions(data: Any) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(data):
        yield opcode.name, argument


def _allowed(name: str) -> Name:
    name = name.replace("torch.storage.", "torch.") if name.endswith("Storage") else name
    if name not in _ALLOWED:
        raise _forbidden(name)
    return Name(name)


def _forbidden(name: str) -> PickleRefused:
    if "sparse" in name:
        return PickleRefused(f"a sparse tensor ({name}), whose real size its file does not show", ASK_AUTHOR)
    return PickleRefused(f"a pickle that asks for the forbidden global {name}", ASK_AUTHOR)


def _only(value: Any, kind: type, fault: str) -> None:
    if type(value) is not kind:
        raise PickleRefused(f"a pickle that {fault}", ASK_AUTHOR)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> TensorClaim:
    """Checks that a tensor lies inside its storage and uses no element twice."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError
    count = math.prod(shape)
    last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if count and (count > storage.elements or last >= storage.elements):
        found = f"a tensor of shape {tuple(shape)} over a storage of {storage.elements:,} elements"
        raise PickleRefused(found, ASK_AUTHOR)
    return TensorClaim(storage, tuple(shape))
