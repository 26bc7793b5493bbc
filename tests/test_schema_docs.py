"""docs/schema.md against the code: each column and key has a line with its type; no line is out of date."""

import json
import re
import types
import typing

import msgspec
import pyarrow as pa
import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.pipeline.ablation.scores import SCORES_SCHEMA
from capfilt.pipeline.evaluation.drift import TextDrift
from capfilt.pipeline.evaluation.filter_quality import FilterQuality
from capfilt.pipeline.export.target import ExportSummary
from capfilt.pipeline.node import ValidationResult
from capfilt.pipeline.report import build
from capfilt.pipeline.report.metrics_file import Funnel, StageTime
from capfilt.pipeline.rundir.lease import hold
from capfilt.pipeline.rundir.ledger import NodeRecord, StartRecord
from capfilt.pipeline.submission.record import record_job
from capfilt.pipeline.tasks.inputs import TaskDataRecord
from capfilt.stages.bootstrap.duplicates import DUPLICATES_SCHEMA, SURPLUS_SCHEMA
from capfilt.stages.foreign.join import JOINED_SCHEMA, UNMATCHED_SCHEMA, Joined
from capfilt.stages.manifest.cut import INDEX_SCHEMA
from capfilt.stages.manifest.index import Index
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA, ROW_SCHEMA, table_of
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, ExportRecord, StagedShard
from capfilt.stages.storage.store import Store
from capfilt.stages.taskdata.rows import TASK_SCHEMA
from capfilt.stages.verdicts.sets import VERDICTS_SCHEMA, VerdictSet, VerdictsRecord
from tests.models.tiny_med import TOKENIZER
from tests.models.tiny_med import build as build_med
from tests.schema_docs import documented, fits, nested, optional, sections

SCHEMAS = {
    "manifests/web/parts/00000.parquet": INDEX_SCHEMA,
    "captions/web/parts/00000.parquet": JOINED_SCHEMA,
    "captions/web/unmatched/00000.parquet": UNMATCHED_SCHEMA,
    "corpus/web/000012.parquet": CORPUS_SCHEMA,
    "duplicates/duplicates.parquet": DUPLICATES_SCHEMA,
    "duplicates/surplus.parquet": SURPLUS_SCHEMA,
    "rounds/1/web/000012.parquet": CANDIDATE_SCHEMA,
    "verdicts/NAME/1/web/000012.parquet": VERDICTS_SCHEMA,
    "tasks/vqa/train/000012.parquet": TASK_SCHEMA,
    "reports/1/noise.parquet": build.NOISE_SCHEMA,
    "reports/1/captioners.parquet": build.CAPTIONER_SCHEMA,
    "reports/1/statuses.parquet": build.STATUS_SCHEMA,
    "reports/1/hosts.parquet": build.HOST_SCHEMA,
    "tables/decoding.parquet": SCORES_SCHEMA,
    "reports/1/groups.parquet": build.GROUP_SCHEMA,
}
RECORDS = {
    "manifests/web/index.json": Index,
    "captions/web/captions.json": Joined,
    "records/corpus/web/000012.json": CorpusRecord,
    "records/rounds/1/web/000012.json": CandidatesRecord,
    "records/verdicts/NAME/1.json": VerdictSet,
    "records/verdicts/NAME/1/web/000012.json": VerdictsRecord,
    "replacing/web/000012.json": StagedShard,
    "exports/1/capfilt-export.json": ExportSummary,
    "exports/1/records/data/000012.json": ExportRecord,
    "records/tasks/vqa/data.json": TaskDataRecord,
    "nodes/filter.1.started.json": StartRecord,
    "nodes/filter.1.json": NodeRecord,
}
ARROW_NAMES = {"float": "float32", "double": "float64"}
SIDECAR = "<key>.json"
JSON_NAMES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    typing.Any: "any",
}


def arrow_name(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"list of {arrow_name(type_.value_type)}"
    return ARROW_NAMES.get(str(type_), str(type_))


def json_name(annotation: object) -> str:
    """Type of a key as the page has it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(json_name(each) for each in arguments if each is not msgspec.UnsetType)
    if origin in (tuple, list):
        return f"list of {json_name(arguments[0])}"
    if origin is dict:
        values = "object" if typing.get_origin(arguments[1]) is dict else json_name(arguments[1])
        return f"map of {values}"
    return JSON_NAMES.get(annotation, "object")  # type: ignore[arg-type]


def record_keys(record: type, prefix: str = "") -> dict[str, str]:
    """{key: type} of a record; keys of records inside it are written with dots. Inner commit records are
    left out, they have a heading of their own."""
    tag = record.__struct_config__.tag_field
    keys = {f"{prefix}{tag}": "string"} if tag else {}
    for name, annotation in typing.get_type_hints(record).items():
        if name.startswith("__"):
            continue
        keys[f"{prefix}{name}"] = json_name(annotation)
        for inner in (annotation, *typing.get_args(annotation)):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct) and inner is not CorpusRecord:
                is_list = typing.get_origin(annotation) in (tuple, list)
                keys |= record_keys(inner, f"{prefix}{name}{'[]' if is_list else ''}.")
    return keys


@pytest.mark.parametrize("file", SCHEMAS)
def test_columns_of_parquet_files(file):
    assert documented(file) == {field.name: arrow_name(field.type) for field in SCHEMAS[file]}


@pytest.mark.parametrize("file", RECORDS)
def test_keys_of_records(file):
    assert documented(file) == record_keys(RECORDS[file])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A folder with the report of a round without shards."""
    folder = tmp_path_factory.mktemp("report")
    build.build_report(
        build.ReportInputs(
            run="tiny", round=1, candidate_files=[], corpus_files=[], read_image=lambda source, key: None
        ),
        Store(str(folder)),
    )
    (metrics,) = folder.rglob("metrics.json")
    return metrics.parent


def test_keys_of_metrics(report):
    content = json.loads((report / "metrics.json").read_text())
    shown = documented("reports/1/metrics.json")
    absent = {name for name in shown if "." not in name} - set(content)
    assert set(content) <= set(shown) and absent <= optional("reports/1/metrics.json")
    assert all(fits(value, shown[name]) for name, value in content.items())
    for key, model in (("funnel", Funnel), ("stages", StageTime)):
        (inside,) = nested("reports/1/metrics.json", key)
        names = {name: str(field.annotation) for name, field in model.model_fields.items()}
        kinds = {"<class 'int'>": "integer", "<class 'float'>": "number", "float | None": "number or null"}
        assert inside == {name: kinds.get(kind, "string") for name, kind in names.items()}
    (inside,) = nested("reports/1/metrics.json", "validation")
    assert inside == {k: json_name(kind) for k, kind in typing.get_type_hints(ValidationResult).items()}
    of_filter = {name.removeprefix("filter."): kind for name, kind in shown.items() if "." in name}
    assert of_filter == {name: json_name(kind) for name, kind in typing.get_type_hints(FilterQuality).items()}


def test_keys_of_drift(report):
    content = json.loads((report / "drift.json").read_text())
    shown = documented("reports/1/drift.json")
    assert set(content) == set(shown)
    assert all(fits(value, shown[name]) for name, value in content.items())
    (texts,) = nested("reports/1/drift.json", "texts")
    assert texts == {name: json_name(kind) for name, kind in typing.get_type_hints(TextDrift).items()}


def test_keys_of_the_lease(tmp_path):
    with hold(Store(str(tmp_path)), print):
        content = json.loads((tmp_path / "lease/000001.json").read_text())
    shown = documented("lease/000001.json")
    assert set(content) == set(shown)
    assert all(fits(value, shown[name]) for name, value in content.items())


def test_keys_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "capfilt-1"}}')
    record_job(Store(str(tmp_path)))
    content = json.loads((tmp_path / "lease/job.json").read_text())
    shown = documented("lease/job.json")
    assert set(content) == set(shown)
    assert all(fits(value, shown[name]) for name, value in content.items())


def test_keys_of_a_sidecar():
    row = {field.name: 1 if pa.types.is_integer(field.type) else None for field in ROW_SCHEMA}
    row |= {
        "key": "00000000000",
        "source": "web",
        "texts": ["a"],
        "status": "success",
        "image": b"\xff\xd8\xff",
    }
    packed = Pack()(table_of([row], ROW_SCHEMA))
    assert list(json.loads(packed["sidecar"][0].as_py())) == list(documented(SIDECAR))
    assert list(documented(SIDECAR)) == list(documented("corpus/web/000012.parquet"))


def test_keys_of_a_checkpoint_s_config(tmp_path):
    save_checkpoint(tmp_path, build_med(), TOKENIZER, {})
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config) == set(documented("models/filter.1/config.json"))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == set(re.findall(r"`([\w.]+\.\w+)`", sections()["models/filter.1/"]))
