"""From which checkpoint a training resumes when Ray Train's list of checkpoints is damaged. Ray's own code
writes the list."""

import json

import pytest
import ray
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs as arrow
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
    _CheckpointManagerState,
    _TrainingResultState,
)

from capfilt.cluster.training.rescue import FILE_LIST, SNAPSHOT_FILE, recover_checkpoint, write_file_list


@pytest.fixture(params=["local", "fsspec"])
def training(request, tmp_path):
    """(filesystem, folder) of a training with complete checkpoints of steps 2, 4 and 6."""
    if request.param == "local":
        filesystem, folder = arrow.LocalFileSystem(), str(tmp_path / "train/pretrain.0-x")
    else:
        store = MemoryFileSystem()
        store.store.clear()
        filesystem, folder = arrow.PyFileSystem(arrow.FSSpecHandler(store)), "/train/pretrain.0-x"
    for step in (2, 4, 6):
        made = tmp_path / f"made-{step}"
        made.mkdir()
        (made / "learner.pt").write_bytes(b"state" * step)
        write_file_list(str(made))
        for path in made.iterdir():
            write(filesystem, f"{folder}/{checkpoint_name(step)}/{path.name}", path.read_bytes())
    return filesystem, folder


def checkpoint_name(step):
    return f"step_{step:09d}"


def write(filesystem, path, data):
    filesystem.create_dir(path.rpartition("/")[0])
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def snapshot(*steps):
    """Ray Train's list of the checkpoints of these steps."""
    results = [_TrainingResultState(checkpoint_dir_name=checkpoint_name(step), metrics={}) for step in steps]
    return _CheckpointManagerState(
        checkpoint_results=results,
        checkpoint_report_indices=list(range(len(steps))),
        latest_checkpoint_result=results[-1],
        pending_training_results=[],
        pending_validation_specs=[],
        current_report_index=len(steps),
        validated_checkpoint_dir_names=[],
        timed_out_validation_checkpoint_dir_names=[],
        failed_validation_checkpoint_dir_names=[],
    ).json()


def has_snapshot(filesystem, folder):
    return filesystem.get_file_info(f"{folder}/{SNAPSHOT_FILE}").type == arrow.FileType.File


def test_the_list_has_the_name_that_ray_gives_it():
    assert SNAPSHOT_FILE == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


def test_an_intact_list_is_left_to_ray(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", snapshot(4, 6).encode())
    assert recover_checkpoint(filesystem, folder) is None and has_snapshot(filesystem, folder)


def test_a_new_training_has_nothing_to_recover(training):
    filesystem, folder = training
    assert recover_checkpoint(filesystem, f"{folder}-other") is None
    assert recover_checkpoint(None, "/nowhere/at/all") is None


def damaged_snapshots():
    intact = snapshot(4, 6)
    other_version = json.dumps(json.loads(intact) | {"ray_version": "2.1.0"})
    return {
        "empty": "",
        "half": intact[: len(intact) // 2],
        "another type": "[]",
        "another version": other_version,
        "missing checkpoint": snapshot(6, 8),
    }


@pytest.mark.parametrize("damage", ["empty", "half", "another type", "another version", "missing checkpoint"])
def test_a_damaged_list_is_removed_and_the_newest_checkpoint_is_used(training, damage):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", damaged_snapshots()[damage].encode())
    assert recover_checkpoint(filesystem, folder) == f"{folder}/{checkpoint_name(6)}"
    assert not has_snapshot(filesystem, folder)


def test_a_kill_after_the_list_was_removed_loses_nothing(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", b"")
    first = recover_checkpoint(filesystem, folder)
    assert recover_checkpoint(filesystem, folder) == first == f"{folder}/{checkpoint_name(6)}"


def test_other_folders_are_no_checkpoints(training):
    filesystem, folder = training
    for name in ("zz_step", "learner.pt"):
        write(filesystem, f"{folder}/{name}/{FILE_LIST}", b'{"whole.json": 18}')
    assert recover_checkpoint(filesystem, folder) == f"{folder}/{checkpoint_name(6)}"


def test_incomplete_checkpoints_are_skipped(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{checkpoint_name(6)}/learner.pt", b"sta")
    filesystem.delete_file(f"{folder}/{checkpoint_name(4)}/{FILE_LIST}")
    write(filesystem, f"{folder}/{checkpoint_name(8)}/{FILE_LIST}", b'{"learner.pt": 40}')
    write(filesystem, f"{folder}/{checkpoint_name(10)}/{FILE_LIST}", b'{"lear')
    write(filesystem, f"{folder}/{checkpoint_name(12)}/{FILE_LIST}", b"{}")
    write(filesystem, f"{folder}/{checkpoint_name(14)}/{FILE_LIST}", b"[1]")
    assert recover_checkpoint(filesystem, folder) == f"{folder}/{checkpoint_name(2)}"


def test_without_a_complete_checkpoint_the_training_starts_from_the_beginning(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", b"{")
    for step in (2, 4, 6):
        filesystem.delete_file(f"{folder}/{checkpoint_name(step)}/learner.pt")
    assert recover_checkpoint(filesystem, folder) is None and not has_snapshot(filesystem, folder)


def test_ray_writes_its_version_into_the_list():
    assert json.loads(snapshot(2))["ray_version"] == ray.__version__
