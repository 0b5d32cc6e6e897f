"""The model converted for OpenVINO (extra `fast`), in float32, bfloat16, or 8-bit integers after NNCF's
post-training quantisation; on the CPU.

Converted models are kept below the cache folder, one folder each, under a key of everything that they depend
on, with a SHA-256; a damaged one is converted again. The graph begins with bytes, so normalisation is part of
it, and has a fixed batch: a smaller one is filled up.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from regard.data.transforms import Preprocess
from regard.errors import RegardError
from regard.inference.backends.contract import Answers
from regard.inference.features import backbone_hash, default_cache
from regard.inference.precision import device_of
from regard.runs.atomic import remove_leftovers, sha256_of, write_folder_atomic

if TYPE_CHECKING:
    from regard.inference.loaded import LoadedModel

Precision = Literal["fp32", "bf16", "int8"]
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # of what is not quantised
FORMAT = "1"  # part of every key: raise it when the same key would mean another file
FILES = ("model.xml", "model.bin")


def available() -> bool:
    """OpenVINO is installed."""
    return find_spec("openvino") is not None


def can_quantise() -> bool:
    """NNCF, which makes 8-bit models, is installed too."""
    return available() and find_spec("nncf") is not None


class OpenVinoBackend:
    """A converted model, compiled for this machine."""

    def __init__(self, folder: Path, precision: Precision, batch_size: int, threads: int):
        """folder: from `converted`; threads: that one pass may use, the same number for the same bits."""
        openvino = import_openvino()
        self.name = f"openvino {precision}"
        self.converted = _fingerprint(folder)
        self._batch_size = batch_size
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        with signal_stack_kept():
            compiled = openvino.Core().compile_model(str(folder / FILES[0]), "CPU", settings)
        self._request = compiled.create_infer_request()

    def run(self, pixels: Tensor) -> np.ndarray:
        """See `Backend`; at most the batch that the graph was made for."""
        count = len(pixels)
        batch = pixels.numpy()
        if count < self._batch_size:
            batch = np.zeros((self._batch_size, *pixels.shape[1:]), np.uint8)
            batch[:count] = pixels.numpy()
        return self._request.infer({0: batch}, share_inputs=True)[0][:count].astype(np.float32)


def converted(
    loaded: LoadedModel,
    precision: Precision,
    batch_size: int,
    features: bool = False,
    calibration: Callable[[], Iterable[Tensor]] | None = None,
    calibrated_on: str = "",
) -> Path:
    """The folder of the converted model, from the cache where it is there and whole.

    calibration: pixels (3, S, S) uint8 of the photos by which int8 chooses its ranges; calibrated_on: what
    these photos are known by, part of the key. Raises RegardError for a model that is not on the CPU or that
    OpenVINO cannot convert.
    """
    if device_of(loaded.model).type != "cpu":
        raise RegardError(f"{loaded.name}: OpenVINO runs on the CPU here, the model is on the GPU; use --backend torch")
    openvino = import_openvino()
    eight_bits = precision == "int8"
    identity = {
        "format": FORMAT,
        "model": type(loaded.model).__qualname__,
        "weights": backbone_hash(loaded.model),
        "preprocess": loaded.preprocess.to_config(),
        "batch_size": batch_size,
        "features": features,
        "int8": f"{calibrated_on} {find_spec('nncf') and _version('nncf')}" if eight_bits else "",
        "openvino": openvino.__version__,
        "torch": torch.__version__,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]
    folder = cache() / key
    try:
        with _locked(cache()):
            if not _whole(folder):
                remove_leftovers(cache())
                if eight_bits:
                    assert calibration is not None
                    model = _quantised(loaded, batch_size, features, calibration())
                else:
                    model = _graph(loaded, batch_size, features)
                write_folder_atomic(folder, lambda beside: _save(model, beside), cache() / f"{key}.previous")
    except OSError as error:
        raise RegardError(
            f"{folder}: the converted model cannot be kept ({error.strerror}); make room, or set XDG_CACHE_HOME"
        ) from None
    return folder


def find_converted(fingerprint: str) -> Path | None:
    """The folder of a whole converted model with this fingerprint (`Backend.converted`)."""
    folder = cache() / fingerprint.partition(":")[0]
    return folder if _whole(folder) and _fingerprint(folder) == fingerprint else None


def cache() -> Path:
    """Where converted models are kept: beside the features."""
    return default_cache().with_name("openvino")


def _fingerprint(folder: Path) -> str:
    return f"{folder.name}:{(folder / 'sha256').read_text('ascii').strip()}"


def _whole(folder: Path) -> bool:
    try:
        return (folder / "sha256").read_text("ascii").strip() == _digest(folder)
    except OSError:
        return False


def _digest(folder: Path) -> str:
    return hashlib.sha256("".join(sha256_of(folder / name) for name in FILES).encode()).hexdigest()


def _save(model: Any, folder: Path) -> None:
    import_openvino().save_model(model, folder / FILES[0], compress_to_fp16=False)
    (folder / "sha256").write_text(_digest(folder), "ascii")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time converts; the lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _FromBytes(nn.Module):
    """uint8 pixels -> answers, normalisation included."""

    def __init__(self, answers: Answers, preprocess: Preprocess):
        super().__init__()
        self.answers, self.preprocess = answers, preprocess
        # Its constants are made at first use, which must not be a part of the trace.
        preprocess.normalise(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.answers(self.preprocess.normalise(pixels))


def _graph(loaded: LoadedModel, batch_size: int, features: bool) -> Any:
    """The graph of a batch: traced with two images and enlarged, which is quicker, where the model allows it."""
    model = _convert(loaded, -1, features)
    try:
        _enlarge(model, loaded, batch_size)
    except RuntimeError:
        return _convert(loaded, batch_size, features)
    return model


def _enlarge(model: Any, loaded: LoadedModel, batch_size: int) -> None:
    """Fix the batch of a graph of any batch. Raises RuntimeError where another is written into its constants."""
    model.reshape([batch_size, 3, loaded.preprocess.size, loaded.preprocess.size])
    shape = model.output(0).partial_shape
    if shape.is_dynamic or shape[0].get_length() != batch_size:
        raise RuntimeError(f"a batch of {batch_size} gives {shape}")


def _convert(loaded: LoadedModel, batch_size: int, features: bool) -> Any:
    """The graph of a batch; of any where batch_size is -1, which works where the model asks its input's shape."""
    module = _FromBytes(Answers(loaded, features), loaded.preprocess).eval()
    size = loaded.preprocess.size
    example = torch.zeros((batch_size if batch_size > 0 else 2, 3, size, size), dtype=torch.uint8)
    with quiet(), _explained(loaded.name):
        return import_openvino().convert_model(module, example_input=example, input=[(batch_size, 3, size, size)])


def _quantised(loaded: LoadedModel, batch_size: int, features: bool, photos: Iterable[Tensor]) -> Any:
    """8-bit weights and activations, ranges from photos; one after the other, as NNCF's statistics expect."""
    samples = [one[None].numpy() for one in photos]
    attends = any(isinstance(module, nn.LayerNorm) for module in loaded.model.modules())
    model = _convert(loaded, -1, features)
    with quiet(), _explained(loaded.name), signal_stack_kept():
        import nncf

        nncf.set_log_level(logging.ERROR)
        model = nncf.quantize(
            model,
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )
        _enlarge(model, loaded, batch_size)
    return model


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What tracing and a dozen converters raise between them, in one line."""
    try:
        with torch.inference_mode():
            yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RegardError(f"{name}: OpenVINO cannot convert it ({reason}); use --backend torch") from None


def import_openvino() -> Any:
    if not available():
        raise RegardError("--backend openvino: not installed; pip install 'regard[fast]', or use --backend torch")
    # OpenVINO and NNCF report their use over the network unless this module is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: "not there" to the import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import openvino
    return openvino


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2), Linux's order."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """This thread's alternate signal stack, the same after as before.

    OpenVINO's CPU plugin installs one of its own, 2 KiB larger than the saved registers, and unmaps it when the
    plugin goes, from whatever thread that happens in. Python runs its signal handlers there: Ctrl-C or SIGTERM
    can then end in a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, SignalStack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the tracer's remarks of other libraries."""
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
