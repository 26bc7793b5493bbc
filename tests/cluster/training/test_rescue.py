"""What a training goes on from when Ray Train's list of its checkpoints is broken; the list is made by Ray's own code."""

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

from capfilt.cluster.training.rescue import SEAL, SNAPSHOT_FILE, rescue, write_file_list


@pytest.fixture(params=["local", "elsewhere"])
def training(request, tmp_path):
    """(filesystem, folder) of a training with whole checkpoints of steps 2, 4 and 6, and what writes there."""
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
            write(filesystem, f"{folder}/{name_of(step)}/{path.name}", path.read_bytes())
    return filesystem, folder


def name_of(step):
    return f"step_{step:09d}"


def write(filesystem, path, data):
    filesystem.create_dir(path.rpartition("/")[0])
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def listed(*steps):
    """Ray Train's list of these checkpoints."""
    results = [_TrainingResultState(checkpoint_dir_name=name_of(step), metrics={}) for step in steps]
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


def has_list(filesystem, folder):
    return filesystem.get_file_info(f"{folder}/{SNAPSHOT_FILE}").type == arrow.FileType.File


def test_the_list_has_the_name_that_ray_gives_it():
    assert SNAPSHOT_FILE == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


def test_a_sound_list_is_left_to_ray(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", listed(4, 6).encode())
    assert rescue(filesystem, folder) is None and has_list(filesystem, folder)


def test_a_new_training_has_nothing_to_rescue(training):
    filesystem, folder = training
    assert rescue(filesystem, f"{folder}-other") is None
    assert rescue(None, "/nowhere/at/all") is None


def broken():
    whole = listed(4, 6)
    other = json.dumps(json.loads(whole) | {"ray_version": "2.1.0"})
    return {
        "empty": "",
        "half": whole[: len(whole) // 2],
        "no list": "[]",
        "other": other,
        "hole": listed(6, 8),
    }


@pytest.mark.parametrize("how", ["empty", "half", "no list", "other", "hole"])
def test_a_broken_list_goes_and_the_newest_checkpoint_is_taken(training, how):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", broken()[how].encode())
    assert rescue(filesystem, folder) == f"{folder}/{name_of(6)}" and not has_list(filesystem, folder)


def test_a_kill_after_the_list_has_gone_loses_nothing(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", b"")
    first = rescue(filesystem, folder)
    assert rescue(filesystem, folder) == first == f"{folder}/{name_of(6)}"


def test_checkpoints_that_were_copied_by_halves_are_passed_over(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", b"")
    write(filesystem, f"{folder}/{name_of(6)}/learner.pt", b"sta")
    filesystem.delete_file(f"{folder}/{name_of(4)}/{SEAL}")
    write(filesystem, f"{folder}/{name_of(8)}/{SEAL}", b'{"learner.pt": 40}')
    write(filesystem, f"{folder}/{name_of(10)}/{SEAL}", b'{"lear')
    assert rescue(filesystem, folder) == f"{folder}/{name_of(2)}"


def test_without_a_whole_one_the_training_begins_anew(training):
    filesystem, folder = training
    write(filesystem, f"{folder}/{SNAPSHOT_FILE}", b"{")
    for step in (2, 4, 6):
        filesystem.delete_file(f"{folder}/{name_of(step)}/learner.pt")
    assert rescue(filesystem, folder) is None and not has_list(filesystem, folder)


def test_the_version_is_the_one_that_runs():
    assert json.loads(listed(2))["ray_version"] == ray.__version__
