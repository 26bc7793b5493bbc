"""The cluster files of `ray up`, against Ray's schema and the request types of the clouds."""

import copy
import json
from pathlib import Path

import botocore.session
import jsonschema
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from google.cloud import compute_v1
from google.protobuf import json_format

import capfilt

LAUNCH = Path(__file__).parents[3] / "cluster/launch/ray_up"
CLOUDS = ["aws", "gcp"]


def read(cloud):
    return yaml.safe_load((LAUNCH / f"{cloud}.yaml").read_text())


def check_aws(node):
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node}, shape.input_shape)
    assert not report.has_errors(), report.generate_report()


def check_gcp(node):
    json_format.ParseDict(node, compute_v1.Instance.pb(compute_v1.Instance()))


CHECKS = {"aws": check_aws, "gcp": check_gcp}


def check(cloud, config):
    """Raise an error if Ray or the cloud would refuse the file."""
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(config)
    for node_type in config["available_node_types"].values():
        CHECKS[cloud](node_type["node_config"])


@pytest.mark.parametrize("cloud", CLOUDS)
def test_file_is_accepted(cloud):
    check(cloud, read(cloud))


@pytest.mark.parametrize(
    ("cloud", "path", "value"),
    [
        ("aws", ("max_worker",), 3),
        ("aws", ("docker", "imag"), "x"),
        ("aws", ("provider", "cache_stopped_nodes"), "no"),
        ("aws", ("available_node_types", "gpu", "min_worker"), 1),
        ("aws", ("available_node_types", "gpu", "node_config", "InstanceTypes"), "g6.4xlarge"),
        ("aws", ("available_node_types", "head", "node_config", "IamInstanceProfile"), "capfilt"),
        ("gcp", ("idle_timeout_minutes",), "10"),
        ("gcp", ("available_node_types", "gpu", "node_config", "machine_types"), "g2-standard-16"),
        ("gcp", ("available_node_types", "gpu", "node_config", "scheduling", "spot"), True),
    ],
)
def test_a_wrong_field_is_found(cloud, path, value):
    config = copy.deepcopy(read(cloud))
    place = config
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, AssertionError, json_format.ParseError)):
        check(cloud, config)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_machine_runs_the_image_of_this_version(cloud):
    docker = read(cloud)["docker"]
    assert docker["image"].rpartition(":")[2] == capfilt.__version__
    assert not {"head_image", "worker_image"} & set(docker)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_only_the_token_is_copied(cloud):
    config = read(cloud)
    assert config["file_mounts"] == {"/home/capfilt/.ray/auth_token": "~/.ray/auth_token"}
    assert "setup_commands" not in config and "cluster_synced_files" not in config
    for kind in ("head", "worker"):
        *_, start = config[f"{kind}_start_ray_commands"]
        assert "RAY_AUTH_MODE=token" in start and "ray start" in start


@pytest.mark.parametrize("cloud", CLOUDS)
def test_workers_are_spot_machines_with_access_to_the_bucket(cloud):
    config = read(cloud)
    types = config["available_node_types"]
    account = {"aws": "IamInstanceProfile", "gcp": "serviceAccounts"}[cloud]
    assert config["head_node_type"] == "head" and types["head"]["resources"] == {"CPU": 0}
    for name, node_type in types.items():
        node = node_type["node_config"]
        assert node[account] == types["head"]["node_config"][account]
        spot = node.get("InstanceMarketOptions") or node.get("scheduling", {}).get("preemptible")
        assert bool(spot) == (name != "head")
        if name != "head":
            assert 1 <= node_type["min_workers"] <= node_type["max_workers"] <= config["max_workers"]
