"""Running out of memory: how it shows, and batches that pass in parts where they do not fit."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor

from regard.errors import RegardError

# What torch, its allocators and its libraries say where they raise a plain RuntimeError.
WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the device or of the machine, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)


def release() -> None:
    """Hand memory that nothing uses any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class InParts:
    """`function` of a batch (B, ...) -> (B, ...), in parts that fit into memory.

    A part that does not fit is halved, and what then fits is kept for the batches to come. `function` must treat each
    image alone. Raises RegardError where a single image does not fit.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function = function
        self.largest: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        while True:
            size = min(self.largest or len(images), len(images))
            try:
                if size == len(images):
                    return self.function(images)
                return torch.cat([self.function(part) for part in images.split(size)])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise RegardError(too_large(error)) from None
            release()
            self.largest = (size + 1) // 2


def too_large(error: BaseException) -> str:
    """What to say where not even one image fits."""
    what = (str(error) or type(error).__name__).splitlines()[0]
    return f"out of memory with one image at a time ({what}); use a smaller --img-size or a smaller --model"
