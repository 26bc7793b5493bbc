"""A cluster whose machines come late, come later, and are lost while a run works."""

import os
import signal
import time
from collections import Counter

import pytest

from tests.faults.elastic import FETCH_LABELS, ElasticCluster, Output
from tests.faults.harness import chain_data, find_differences, start, wait_for_exit
from tests.tiny import write_config

SHARDS = 90
MOST_REPEATED = 8
"""Shards that may be captioned again: of each of the two GPUs that are lost without notice, what it was given
and what it had captioned but nobody had written."""


def elastic_data(folder, models, **cluster):
    """A bootstrap of 90 shards with one row each, for a cluster."""
    data = chain_data(folder, models)
    data["sources"]["web"]["rows"]["shard_size"] = 1
    data["cluster"] = {"address": "auto", "resize_seconds": 5, **cluster}
    return data


@pytest.fixture
def undisturbed(models, tmp_path):
    """The run directory of the same run on one machine."""
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    data = elastic_data(folder, models)
    code, output = wait_for_exit(start(write_config(folder / "config.yaml", data)), 300)
    assert code == 0, output
    return folder / "run"


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_run_waits_for_machines_uses_later_ones_and_loses_half_of_them_twice(models, tmp_path, undisturbed):
    wait_for = {"gpus": 2, "seconds": 600}
    data = elastic_data(tmp_path, models, wait_for=wait_for, fetch_labels=FETCH_LABELS)
    config = write_config(tmp_path / "config.yaml", data)
    began = time.time()

    def say(line):
        print(f"[{time.time() - began:5.0f} s] {line}", flush=True)

    with ElasticCluster(tmp_path, {"caption": 8.0}) as cluster:
        output = Output(start(config, None, cluster.environment), say)
        try:
            output.wait_until(lambda: output.count("waiting: the cluster has 0 of 2 GPUs") > 0, "it waits")
            assert not cluster.trace.exists(), "nothing runs without GPUs"
            say("add 2 nodes")
            first = cluster.add(2)
            output.wait_until(lambda: len(cluster.events("write", "end")) >= 3, "three shards are done")
            assert cluster.events("caption", "begin", first) == cluster.events("caption", "begin")
            say("add 2 nodes")
            later = cluster.add(2)
            output.wait_until(lambda: bool(cluster.events("caption", "end", later)), "later nodes are used")
            assert output.count("; continuing with ") == 1
            say("kill 2 nodes")
            cluster.kill([first[0], later[0]])
            output.wait_until(lambda: output.count("; continuing with ") == 2, "it is resized for the loss")
            written = len(cluster.events("write", "end"))
            output.wait_until(lambda: len(cluster.events("write", "end")) > written + 1, "it goes on")
            say("notice to 1 node")
            cluster.give_notice([first[1]], seconds=300)
            noticed = time.time()

            def since(event):
                events = cluster.events("caption", event, [first[1]])
                return {each["shard"] for each in events if each["time"] > noticed}

            output.wait_until(lambda: output.count("; continuing with ") == 3, "it is resized again")
            assert output.count("(without the machines that will be taken away: 1)") == 1
            begun = since("begin")
            assert begun and begun <= since("end"), "it has finished what it had begun"
            written = len(cluster.events("write", "end"))
            output.wait_until(lambda: len(cluster.events("write", "end")) > written + 1, "it goes on")
            assert since("begin") == begun, "the node gets no new work"
            say("kill it")
            cluster.kill([first[1]])
            say("fast")
            cluster.speed_up()
            code = output.wait_for_exit(600)
        finally:
            if output.process.poll() is None:
                os.killpg(output.process.pid, signal.SIGKILL)
        assert code == 0, output.text
        captioned = Counter(event["shard"] for event in cluster.events("caption", "begin"))
        repeated = sum(captioned.values()) - SHARDS
        say(f"captioned more than once: {repeated}")
    assert find_differences(tmp_path / "run", undisturbed) == []
    assert output.count("; continuing with ") == 3, output.text
    assert sorted(captioned) == list(range(SHARDS))
    assert repeated <= MOST_REPEATED
    assert {event["node"] for event in cluster.events("fetch", "begin")} == {cluster.head.node_id}
    assert cluster.events("caption", "begin", [cluster.head]) == []
