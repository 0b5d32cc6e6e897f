from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError
from regard.inference.memory import InParts, is_out_of_memory

# As allocators and libraries word it.
SAID = [
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("std::bad_alloc"),
    torch.OutOfMemoryError("Allocation on device"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SAID, ids=lambda error: type(error).__name__ + str(error)[:12])
def test_what_counts_as_out_of_memory(error: BaseException):
    assert is_out_of_memory(error)


def test_what_does_not():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (8x3 and 4x4)"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("room", [1, 3, 5, 9])
def test_a_batch_passes_in_parts_that_fit(room: int):
    sizes: list[int] = []

    def doubled(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 2 * images

    images = torch.arange(9.0)[:, None]
    run = InParts(doubled)
    assert torch.equal(run(images), 2 * images)
    sizes.clear()
    assert torch.equal(run(images), 2 * images)
    assert max(sizes) <= room  # what fits is kept


def test_a_single_image_that_does_not_fit():
    def never(images: Tensor) -> Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(RegardError, match=r"one image at a time \(CUDA out of memory.*smaller --img-size"):
        InParts(never)(torch.zeros(4, 1))


def test_other_errors_pass():
    def wrong(images: Tensor) -> Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        InParts(wrong)(torch.zeros(4, 1))
