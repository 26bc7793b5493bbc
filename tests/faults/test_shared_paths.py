"""A cluster of several nodes, of which one does not see the driver's disk."""

import os

import pytest

from tests.faults.harness import start, wait_for_exit
from tests.faults.nodes import LocalCluster
from tests.tiny import tiny_data, write_config


def write_download(folder, run_dir):
    """A config that only downloads: 90 images in 5 shards."""
    data = tiny_data(folder, dir=str(run_dir))
    data["sources"] = {"web": data["sources"]["web"]}
    for name in ("pretrain", "captioner", "filter", "evaluate"):
        del data[name]
    return write_config(folder / "config.yaml", data)


@pytest.mark.timeout(600)
def test_a_run_directory_that_one_node_does_not_see_is_refused_and_a_shared_one_is_used(tmp_path):
    with LocalCluster(tmp_path, None, blind_to=str(tmp_path / "unshared")) as cluster:

        def run(run_dir):
            code, output = wait_for_exit(
                start(write_download(tmp_path, run_dir), None, cluster.environment), 150
            )
            assert "Traceback" not in output, output
            return code, output, [line for line in output.splitlines() if line.startswith("error")]

        code, output, errors = run(tmp_path / "unshared/run")
        assert code == 2 and len(errors) == 1, output
        assert f"run.dir: {tmp_path}/unshared/run lacks the file that this process has just" in errors[0]
        assert "on 1 of 2 nodes (" in errors[0] and "s3://" in errors[0]
        assert not list((tmp_path / "unshared/run").glob(".tmp-*"))
        code, output, errors = run(os.path.relpath(tmp_path / "relative"))
        assert code == 2 and "/relative is relative, and the 3 nodes of this cluster" in errors[0]
        code, output, errors = run(tmp_path / "run")
        assert code == 0 and errors == [], output
    assert len(list((tmp_path / "run/images/web").glob("*.tar"))) == 5
