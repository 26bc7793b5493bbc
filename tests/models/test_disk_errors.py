"""Which errors mean that a disk takes no more data, whatever library raises them."""

import errno
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from capfilt.models.checkpoints import load
from capfilt.models.checkpoints.files import CheckpointError, explain_disk_errors
from capfilt.models.disk_errors import ADVICE, describe_disk_error, disk_error_number

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        *((OSError(code, os.strerror(code)), code) for code in ADVICE),
        (SafetensorError(FULL), errno.ENOSPC),
        (RuntimeError("could not spill: No space left on device"), errno.ENOSPC),
        (OSError("[Errno 122] Disk quota exceeded"), errno.EDQUOT),
        (OSError(errno.EIO, os.strerror(errno.EIO)), None),
        (OSError(errno.EACCES, "28"), None),
        (RuntimeError("os error 5"), None),
        (ValueError("28"), None),
    ],
)
def test_error_is_recognized(error, number):
    assert disk_error_number(error) == number
    assert (describe_disk_error(error, "f") is None) == (number is None)


def test_line_names_the_file_and_says_what_to_do():
    line = describe_disk_error(OSError(errno.ENOSPC, "x"), "/run/12.tar")
    assert line is not None and line.startswith("/run/12.tar: cannot write it (No space left on device); ")
    assert "free space" in line and "same command again" in line and "\n" not in line


def save_tensors(path):
    load._save_pickle({"a": torch.zeros(100_000)}, path)


def write_parquet(path):
    with path.open("wb") as stream:
        pq.write_table(pa.table({"a": list(range(100_000))}), stream)


@pytest.mark.parametrize("write", [save_tensors, write_parquet])
def test_a_full_disk_is_recognized_from_what_the_library_raises(tmp_path, write):
    path = tmp_path / "file"
    path.symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="the disk is full"), explain_disk_errors(path):
        write(path)


def test_any_other_error_is_raised_unchanged(tmp_path):
    with pytest.raises(OSError, match="gone"), explain_disk_errors(tmp_path):
        raise OSError(errno.ENOENT, "gone")
    with pytest.raises(KeyboardInterrupt), explain_disk_errors(tmp_path):
        raise KeyboardInterrupt
