"""Micro-batches: halved when memory is short and never otherwise, and no error taken for another."""

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


SHORTAGES = {
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
    # As torch and Python raise them, for sizes that no machine has.
    "torch on the CPU": raised_by(lambda: torch.empty(2**60, dtype=torch.uint8)),
    "Python": raised_by(lambda: bytearray(2**62)),
}
OTHERS = {
    "shapes": RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    "a kernel": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "a graphics card that cuBLAS does not find": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"),
    "cuDNN cannot": RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    "a full disk": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "a text about it": ValueError("the caption 'out of memory' is empty"),
}


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES.keys())
def test_what_is_a_shortage_of_memory(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_none(error):
    assert not is_out_of_memory(error)


class Device:
    """Has room for `most` items at once; squares numbers."""

    def __init__(self, most, error=SHORTAGES["torch.OutOfMemoryError"]):
        self.most, self.error, self.tried = most, error, []

    def squares(self, numbers):
        def function(now):
            of_slice = numbers[now]
            self.tried.append(len(of_slice))
            if len(of_slice) > self.most:
                raise self.error
            return [n * n for n in of_slice]

        return function


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES.keys())
def test_halves_and_goes_on(error):
    device, batches, told = Device(3, error), MicroBatches(16), []
    batches.on_notice = told.append
    assert batches.run(device.squares(range(20)), 20) == [n * n for n in range(20)]
    assert device.tried == [16, 8, 4, *[2] * 10]
    assert batches.size == 2
    assert told == [
        "out of memory with 16 images at once, going on with 8",
        "out of memory with 8 images at once, going on with 4",
        "out of memory with 4 images at once, going on with 2",
    ]


def test_remembers_what_fitted():
    device, batches, told = Device(5), MicroBatches(16, of="pairs"), []
    batches.on_notice = told.append
    for _ in range(2):
        batches.run(device.squares(range(8)), 8)
    assert device.tried == [8, 4, 4, 4, 4]
    assert told == ["out of memory with 8 pairs at once, going on with 4"]


def test_a_notice_that_nobody_hears_is_logged(caplog):
    with caplog.at_level(logging.WARNING):
        MicroBatches(4).run(Device(2).squares(range(4)), 4)
    assert caplog.messages == ["out of memory with 4 images at once, going on with 2"]


@pytest.mark.parametrize("error", OTHERS.values(), ids=OTHERS.keys())
def test_another_error_is_raised_as_it_is(error):
    device, batches = Device(2, error), MicroBatches(8)
    assert raised_by(lambda: batches.run(device.squares(range(8)), 8)) is error
    assert device.tried == [8] and batches.size == 8


def test_a_shortage_that_no_size_cures_is_an_error_of_its_own_and_forgotten():
    """It says nothing of the size: when the memory is back, batches are as large as before."""
    device, batches = Device(0), MicroBatches(8)
    with pytest.raises(OutOfMemory, match=r"even with images one at a time; end what .* bfloat16") as found:
        batches.run(device.squares(range(8)), 8)
    assert found.value.__cause__ is device.error and "\n" not in str(found.value)
    assert device.tried == [8, 4, 2, 1] and batches.size == 8
    device.most = 8
    assert batches.run(device.squares(range(8)), 8) == [n * n for n in range(8)]
    assert device.tried[4:] == [8]


def test_a_lone_item_that_takes_several_passes_is_halved_too():
    """`fit` counts what goes through the model at once, be it more than there are items."""
    passes = []

    def function(size):
        passes.append(size)
        if size > 2:
            raise SHORTAGES["torch on the CPU"]
        return "done"

    assert MicroBatches(64).fit(function, most=10) == "done"
    assert passes == [10, 5, 2]


def test_the_tensors_of_a_failed_attempt_are_gone_before_the_next():
    """Else the next attempt, though smaller, could lack what the last one holds."""
    held, found = [], []

    def function(size):
        found.append([tensor() for tensor in held])
        tensor = torch.empty(size)
        held.append(weakref.ref(tensor))
        if size > 1:
            raise MemoryError
        return size

    assert MicroBatches(4).fit(function, most=4) == 1
    assert found == [[], [None], [None, None]]


def test_every_micro_batch_that_fits_is_told():
    device, batches, told = Device(3), MicroBatches(8), []
    batches.on_progress = lambda: told.append(device.tried[-1])
    batches.run(device.squares(range(7)), 7)
    assert told == [3, 3, 1]
