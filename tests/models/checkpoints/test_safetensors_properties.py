"""Damaged weights: tensors as they were written, or a `CheckpointError`; never another exception."""

import struct

import torch
from safetensors.torch import load, save

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.tensors import read_pickled, read_safetensors
from tests.properties import damage, draws, numbers_of_cases

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.c": torch.zeros(4, dtype=torch.int64),
    "empty": torch.zeros(0, 2),
}


@numbers_of_cases
def test_safetensors_of_any_bytes_are_read_or_refused(count, tmp_path):
    whole, path = save(TENSORS, {"format": "pt"}), tmp_path / "model.safetensors"
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for rng in draws("safetensors", count):
        kind = rng.randrange(3)
        data = damage(rng, whole)
        if kind == 1:
            data = damage(rng, whole[:header]) + whole[header:]
        elif kind == 2:
            data = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**40, 2**63, header])) + whole[8:]
        path.write_bytes(data)
        try:
            expected = load(data)
        except Exception:
            expected = None
        try:
            tensors, _ = read_safetensors(path)
        except CheckpointError as error:
            assert expected is None and str(path) in str(error)
            continue
        assert expected is not None and tensors.keys() == expected.keys()
        assert all(
            torch.equal(
                tensors[name],
                expected[name],
            )
            or expected[name].isnan().any()
            for name in tensors
        )


@numbers_of_cases
def test_pickled_weights_of_any_bytes_are_read_or_refused(count, tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": TENSORS}, path)
    whole = path.read_bytes()
    for rng in draws("pickled", count):
        path.write_bytes(damage(rng, whole))
        try:
            assert isinstance(read_pickled(path), dict)
        except CheckpointError as error:
            assert str(path) in str(error)
