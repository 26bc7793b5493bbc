"""Micro-batches are halved when memory runs out, and only then; other errors are raised unchanged."""

import errno
import logging
import os
import weakref

import pyarrow as pa
import pytest
import torch

from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.tasks.micro_batches import MicroBatches, is_out_of_memory


def raised_by(function):
    with pytest.raises(Exception) as found:
        function()
    return found.value


OUT_OF_MEMORY_ERRORS = {
    "torch.OutOfMemoryError": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "torch.AcceleratorError": torch.AcceleratorError(
        "CUDA error: out of memory\nCUDA kernel errors might be"
    ),
    "NCCL": RuntimeError("NCCL error in: NCCLUtils.cpp:77, Cuda failure 2 'out of memory'"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN 8": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9, host": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    "cuDNN 9, device": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "C++": RuntimeError("std::bad_alloc"),
    "Linux": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    "Arrow": pa.lib.ArrowMemoryError("malloc of size 64 failed"),
    # Raised by torch and Python themselves, for sizes that no machine has.
    "torch on the CPU": raised_by(lambda: torch.empty(2**60, dtype=torch.uint8)),
    "Python": raised_by(lambda: bytearray(2**62)),
}
OTHER_ERRORS = {
    "shapes": RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    "illegal access": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "cuBLAS not initialized": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
    "cuDNN not supported": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "another exception with that text": ValueError("the caption 'out of memory' is empty"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY_ERRORS.values(), ids=OUT_OF_MEMORY_ERRORS.keys())
def test_out_of_memory_errors_are_recognized(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER_ERRORS.values(), ids=OTHER_ERRORS.keys())
def test_other_errors_are_not_taken_for_out_of_memory(error):
    assert not is_out_of_memory(error)


class Device:
    """Squares numbers; raises `error` for more than `capacity` numbers."""

    def __init__(self, capacity, error=OUT_OF_MEMORY_ERRORS["torch.OutOfMemoryError"]):
        self.capacity, self.error, self.tried = capacity, error, []

    def squares(self, numbers):
        def function(rows):
            batch = numbers[rows]
            self.tried.append(len(batch))
            if len(batch) > self.capacity:
                raise self.error
            return [n * n for n in batch]

        return function


@pytest.mark.parametrize("error", OUT_OF_MEMORY_ERRORS.values(), ids=OUT_OF_MEMORY_ERRORS.keys())
def test_out_of_memory_halves_the_size_and_continues(error):
    device, batches, notices = Device(3, error), MicroBatches(16), []
    batches.on_notice = notices.append
    assert batches.run(device.squares(range(20)), 20) == [n * n for n in range(20)]
    assert device.tried == [16, 8, 4, *[2] * 10]
    assert batches.size == 2
    assert notices == [
        "out of memory with a batch of 16 images; continuing with 8",
        "out of memory with a batch of 8 images; continuing with 4",
        "out of memory with a batch of 4 images; continuing with 2",
    ]


def test_the_halved_size_is_kept():
    device, batches, notices = Device(5), MicroBatches(16, unit="pairs"), []
    batches.on_notice = notices.append
    for _ in range(2):
        batches.run(device.squares(range(8)), 8)
    assert device.tried == [8, 4, 4, 4, 4]
    assert notices == ["out of memory with a batch of 8 pairs; continuing with 4"]


def test_notices_are_logged_by_default(caplog):
    with caplog.at_level(logging.WARNING):
        MicroBatches(4).run(Device(2).squares(range(4)), 4)
    assert caplog.messages == ["out of memory with a batch of 4 images; continuing with 2"]


@pytest.mark.parametrize("error", OTHER_ERRORS.values(), ids=OTHER_ERRORS.keys())
def test_another_error_is_raised_unchanged(error):
    device, batches = Device(2, error), MicroBatches(8)
    assert raised_by(lambda: batches.run(device.squares(range(8)), 8)) is error
    assert device.tried == [8] and batches.size == 8


def test_out_of_memory_at_size_one_raises_and_restores_the_size():
    """The failure says nothing about the size: once memory is free again, batches are as large as before."""
    device, batches = Device(0), MicroBatches(8)
    with pytest.raises(
        OutOfMemory, match=r"even with a batch size of 1 \(images\); free memory .* bfloat16"
    ) as found:
        batches.run(device.squares(range(8)), 8)
    assert found.value.__cause__ is device.error and "\n" not in str(found.value)
    assert device.tried == [8, 4, 2, 1] and batches.size == 8
    device.capacity = 8
    assert batches.run(device.squares(range(8)), 8) == [n * n for n in range(8)]
    assert device.tried[4:] == [8]


def test_run_once_starts_at_the_limit_and_halves():
    passes = []

    def function(size):
        passes.append(size)
        if size > 2:
            raise OUT_OF_MEMORY_ERRORS["torch on the CPU"]
        return "done"

    assert MicroBatches(64).run_once(function, limit=10) == "done"
    assert passes == [10, 5, 2]


def test_tensors_of_a_failed_attempt_are_freed_before_the_next():
    """Otherwise the memory they occupy could make the next attempt fail."""
    references, alive = [], []

    def function(size):
        alive.append([reference() for reference in references])
        tensor = torch.empty(size)
        references.append(weakref.ref(tensor))
        if size > 1:
            raise MemoryError
        return size

    assert MicroBatches(4).run_once(function, limit=4) == 1
    assert alive == [[], [None], [None, None]]


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_rejected(size):
    with pytest.raises(ValueError, match=f"batch_size is {size}: it must be at least 1"):
        MicroBatches(size)
    assert MicroBatches(1).size == 1


def test_progress_is_reported_for_every_successful_micro_batch():
    device, batches, reports = Device(3), MicroBatches(8), []
    batches.on_progress = lambda: reports.append(device.tried[-1])
    batches.run(device.squares(range(7)), 7)
    assert reports == [3, 3, 1]
