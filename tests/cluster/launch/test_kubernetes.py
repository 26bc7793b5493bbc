"""The RayJobs of cluster/launch/kubernetes, against the schema of KubeRay and what a run needs."""

import copy
import json
from pathlib import Path

import jsonpatch
import jsonschema
import pytest
import ray
import yaml

import capfilt

LAUNCH = Path(__file__).parents[3] / "cluster/launch"
FOLDER = LAUNCH / "kubernetes"
SCHEMA = Path(__file__).parent / "kuberay-1.7.0-rayjob.schema.json"


def refuse_unknown(schema):
    """The schema with `additionalProperties: false`, as the API server validates what `kubectl` sends."""
    if isinstance(schema, list):
        return [refuse_unknown(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: refuse_unknown(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict.setdefault("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields", False))
    return strict


@pytest.fixture(scope="module")
def validator():
    schema = refuse_unknown(json.loads(SCHEMA.read_text()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def documents(path):
    """{kind: object}; what a YAML anchor names is copied at each place, as patches see it."""
    return {each["kind"]: json.loads(json.dumps(each)) for each in yaml.safe_load_all(path.read_text())}


def build(folder):
    """What `kubectl kustomize` makes of a folder: resources of the folders below it, then the patches."""
    rules = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(rules) <= {"apiVersion", "kind", "resources", "patches"}
    assert rules["apiVersion"] == "kustomize.config.k8s.io/v1beta1" and rules["kind"] == "Kustomization"
    made = {}
    for name in rules["resources"]:
        place = (folder / name).resolve()
        made |= build(place) if place.is_dir() else documents(place)
    for patch in rules.get("patches", ()):
        target = made[patch["target"]["kind"]]
        assert target["metadata"]["name"] == patch["target"]["name"]
        made[target["kind"]] = jsonpatch.apply_patch(
            target, yaml.safe_load((folder / patch["path"]).read_text())
        )
    return made


def pods(job):
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return {group.get("groupName", "head"): group["template"]["spec"] for group in groups}


@pytest.fixture(params=["s3", "pvc"])
def made(request):
    return build(FOLDER / request.param)


def test_job_meets_the_schema_of_kuberay(made, validator):
    validator.validate(made["RayJob"])


CLUSTER = ("spec", "rayClusterSpec")
CONTAINER = (*CLUSTER, "workerGroupSpecs", 0, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "retries"), 5),
        (("spec", "backoffLimit"), "5"),
        ((*CLUSTER, "enableInTreeAutoscaling"), "yes"),
        ((*CLUSTER, "autoscalerOptions", "idleSeconds"), 300),
        ((*CLUSTER, "autoscalerOptions", "version"), "v3"),
        ((*CLUSTER, "authOptions", "mode"), "password"),
        ((*CLUSTER, "workerGroupSpecs", 0, "maxReplica"), 3),
        ((*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ((*CONTAINER, "images"), "capfilt"),
        ((*CONTAINER, "env", 0, "value"), 60),
    ],
)
def test_a_wrong_field_is_found(validator, path, value):
    job = copy.deepcopy(documents(FOLDER / "s3/rayjob.yaml")["RayJob"])
    place = job
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError) as error:
        validator.validate(job)
    named = [*error.value.absolute_path, *str(error.value.message).split("'")]
    assert path[-1] in named


def test_image_and_ray_are_those_of_this_version(made):
    assert ray.__version__ == made["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"]
    for pod in pods(made["RayJob"]).values():
        (container,) = pod["containers"]
        assert container["image"].rpartition(":")[2] == capfilt.__version__


def test_pods_have_account_credentials_and_config(made):
    for pod in pods(made["RayJob"]).values():
        assert pod["serviceAccountName"] == made["ServiceAccount"]["metadata"]["name"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted == {each["name"] for each in pod["volumes"]} >= {"config"}
        assert container["envFrom"][0]["secretRef"]["name"] == "capfilt-storage"
    assert made["RayJob"]["spec"]["entrypoint"] == "capfilt run /config/config.yaml"


def test_the_claim_is_mounted_in_every_pod():
    made = build(FOLDER / "pvc")
    claim = made["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(made["RayJob"]).values():
        (volume,) = [each for each in pod["volumes"] if each["name"] == "data"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert {"name": "data", "mountPath": "/data"} in pod["containers"][0]["volumeMounts"]


def test_workers_scale_and_a_job_is_tried_again(made):
    spec = made["RayJob"]["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"]["mode"] == "token"
    for group in cluster["workerGroupSpecs"]:
        # The chain is sized by the nodes that are there when it starts.
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_workers_may_be_spot_machines_and_only_the_gpu_group_asks_for_gpus(made):
    found = pods(made["RayJob"])
    for name in ("gpu", "fetch"):
        tolerated = {each["key"] for each in found[name]["tolerations"]}
        assert {"cloud.google.com/gke-spot", "spot"} <= tolerated
        resources = found[name]["containers"][0]["resources"]
        for limits in resources.values():
            assert ("nvidia.com/gpu" in limits) == (name == "gpu")
        assert ("nvidia.com/gpu" in tolerated) == (name == "gpu")
    assert "tolerations" not in found["head"]  # the run ends with its head
