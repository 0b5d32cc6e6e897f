"""Which engine and precision answer fastest on the machine at hand, measured, and int8 only where it may cost
what it costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from regard.errors import RegardError
from regard.inference.backends.contract import Backend
from regard.inference.backends.openvino_backend import (
    OpenVinoBackend,
    available,
    can_quantise,
    converted,
    find_converted,
)
from regard.inference.backends.torch_backend import TorchBackend
from regard.inference.precision import GAIN, Wanted, choose_precision, device_of

if TYPE_CHECKING:
    from pathlib import Path

    from regard.inference.loaded import LoadedModel

Say = Callable[[str], None]

WORTH_CONVERTING = 120.0  # seconds of work for torch; converting and measuring take 10 to 40
ROUNDS = 3  # the first pays for set-up and does not count


@dataclass(frozen=True)
class Wish:
    """What the user asks for; max_drop: mean score per photo that int8 may lose, 0: int8 is not considered."""

    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Wanted = "auto"
    max_drop: float = 0.0

    def __post_init__(self) -> None:
        if self.backend not in ("auto", "torch", "openvino"):
            raise RegardError(f"backend={self.backend!r}: expected auto, torch or openvino")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise RegardError(f"precision={self.precision!r}: expected auto, fp32 or bf16")
        if not 0 <= self.max_drop < 1:
            raise RegardError(f"max_drop={self.max_drop:g}: expected a share from 0 to below 1")


@dataclass(frozen=True)
class Rehearsal:
    """Labelled photos on which int8 is made and tried.

    calibration: pixels (3, S, S) uint8 by which it chooses its ranges, known_by: an id of these photos;
    drop(first, second): (mean score per photo of the first backend minus that of the second, photos);
    metric: the name of that score.
    """

    calibration: Callable[[], Iterable[Tensor]]
    known_by: str
    drop: Callable[[Backend, Backend], tuple[float, int]]
    metric: str


@dataclass(frozen=True)
class Maker:
    """How backends are made for one model; threads: cores of one pass; features: what `Answers` adds."""

    loaded: LoadedModel
    batch_size: int
    threads: int
    features: bool = False

    def make(self, name: str, rehearsal: Rehearsal | None = None) -> Backend:
        """ "torch fp32", "torch bf16", "openvino fp32", "openvino bf16", or "openvino int8" with a rehearsal."""
        if name == "torch fp32" or name == "torch bf16":
            return TorchBackend(self.loaded, "fp32" if name == "torch fp32" else "bf16", self.features)
        if name == "openvino fp32" or name == "openvino bf16":
            precision = "fp32" if name == "openvino fp32" else "bf16"
            return self._open(converted(self.loaded, precision, self.batch_size, self.features), precision)
        assert name == "openvino int8" and rehearsal is not None
        folder = converted(
            self.loaded, "int8", self.batch_size, self.features, rehearsal.calibration, rehearsal.known_by
        )
        return self._open(folder, "int8")

    def again(self, name: str, fingerprint: str) -> Backend:
        """The backend that has this name and this `Backend.converted`, bit for bit. Raises RegardError."""
        if name == "openvino int8":
            folder = find_converted(fingerprint)
            if folder is not None:
                return self._open(folder, "int8")
        else:
            backend = self.make(name)
            if backend.converted == fingerprint:
                return backend
        raise RegardError(
            f"{name}: the converted model {fingerprint} that this was begun with is no longer in the cache; "
            "choose another --out"
        )

    def _open(self, folder: Path, precision: Literal["fp32", "bf16", "int8"]) -> Backend:
        return OpenVinoBackend(folder, precision, self.batch_size, self.threads)


def choose_backend(maker: Maker, work: int, wish: Wish, rehearsal: Rehearsal | None, say: Say) -> Backend:
    """The backend for `work` photos, as wished, else the fastest by a measurement on this machine.

    A named precision and a named backend are kept. OpenVINO is considered where it is installed, the model is
    on the CPU, and the work is worth a conversion; 8-bit integers where moreover `max_drop` is above 0 and
    what they lose on the rehearsal's photos is no more. `say` is told what was found.
    """
    loaded = maker.loaded
    if wish.backend == "openvino":
        if wish.precision == "fp32":
            return maker.make("openvino fp32")
        candidates = [maker.make("openvino bf16")]
    else:
        precision = choose_precision(loaded.model, loaded.preprocess.size, work, wish.precision)
        first = maker.make(f"torch {precision}")
        if wish.backend == "torch" or wish.precision == "fp32" or not available():
            return first
        if device_of(loaded.model).type != "cpu" or _seconds_for(first, maker, work) < WORTH_CONVERTING:
            return first
        try:
            candidates = [first, maker.make("openvino bf16")]
        except RegardError as error:
            say(str(error))
            return first
    if wish.max_drop > 0 and wish.precision == "auto":
        candidates += _eight_bits(maker, wish.max_drop, rehearsal, say)
    return _fastest(candidates, maker, say)


def _eight_bits(maker: Maker, max_drop: float, rehearsal: Rehearsal | None, say: Say) -> list[Backend]:
    """The int8 backend, if it loses no more than it may."""
    if maker.features:
        say("int8 is not considered: the threshold of unknown photos was fitted on exact features")
        return []
    if not can_quantise():
        say("int8 is not considered: pip install 'regard[fast]'")
        return []
    if rehearsal is None:
        return []
    backend = maker.make("openvino int8", rehearsal)
    lost, photos = rehearsal.drop(maker.make("torch fp32"), backend)
    allowed = lost <= max_drop
    say(
        f"int8 loses {lost:.4f} of {rehearsal.metric} on {photos:,} validation photos; --max-drop {max_drop:g} "
        f"{'allows' if allowed else 'does not allow'} it"
    )
    return [backend] if allowed else []


def _fastest(candidates: Sequence[Backend], maker: Maker, say: Say) -> Backend:
    """The first, unless another is clearly faster; all take turns."""
    if len(candidates) == 1:
        return candidates[0]
    pixels = _random_pixels(maker, maker.batch_size)
    best = [float("inf")] * len(candidates)
    for number in range(ROUNDS):
        for place, backend in enumerate(candidates):
            taken = _seconds(backend, pixels)
            if number:
                best[place] = min(best[place], taken)
    speeds = [f"{backend.name} {len(pixels) / taken:.1f}" for backend, taken in zip(candidates, best, strict=True)]
    quickest = min(range(len(best)), key=best.__getitem__)
    chosen = candidates[quickest if best[0] > GAIN * best[quickest] else 0]
    say(f"{chosen.name}, by images/s: {', '.join(speeds)}")
    return chosen


def _seconds_for(backend: Backend, maker: Maker, work: int) -> float:
    pixels = _random_pixels(maker, min(maker.batch_size, 4))
    backend.run(pixels)
    return _seconds(backend, pixels) / len(pixels) * work


def _seconds(backend: Backend, pixels: Tensor) -> float:
    start = time.perf_counter()
    backend.run(pixels)  # returns an array in memory, so a GPU has finished too
    return time.perf_counter() - start


def _random_pixels(maker: Maker, count: int) -> Tensor:
    size = maker.loaded.preprocess.size
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
