"""Every file of a whole run, and every key of its JSON files, has a line in docs/schema.md."""

import json
import re

import pyarrow.parquet as pq
import pytest

from tests.schema_docs import documented, fits, nested, optional, sections, tree
from tests.test_schema_docs import SCHEMAS, arrow_name

SHARD, NODE = r"\d{6}", r"[a-z]+(\.\d+)?"
PLACES = {
    r"config\.yaml": "config.yaml",
    r"manifests/\w+/parts/\d{5}\.parquet": "manifests/web/parts/00000.parquet",
    r"manifests/\w+/index\.json": "manifests/web/index.json",
    rf"corpus/\w+/{SHARD}\.parquet": "corpus/web/000012.parquet",
    rf"images/\w+/{SHARD}\.tar": "images/web/000012.tar",
    r"duplicates/(duplicates|surplus)\.parquet": r"duplicates/\1.parquet",
    rf"rounds/\d+/\w+/{SHARD}\.parquet": "rounds/1/web/000012.parquet",
    r"records/layout\.json": "records/layout.json",
    rf"records/corpus/\w+/{SHARD}\.json": "records/corpus/web/000012.json",
    rf"records/rounds/\d+/\w+/{SHARD}\.json": "records/rounds/1/web/000012.json",
    rf"models/{NODE}/(config|provenance)\.json": r"models/filter.1/\2.json",
    rf"models/{NODE}/(model\.safetensors|\w+\.json)": r"models/filter.1/",
    r"logs/[a-z]+\.\d+/\d{9}\.jsonl": "logs/filter.1/000000001.jsonl",
    r"logs/[a-z]+\.\d+/events\.out\.tfevents\.\d{9}": "logs/filter.1/000000001.jsonl",
    rf"nodes/{NODE}\.json": "nodes/filter.1.json",
    r"reports/\d+/report\.html": "reports/1/report.html",
    r"reports/\d+/(\w+)\.(json|parquet)": r"reports/1/\1.\2",
}
"""Pattern of a path in a run → the heading that describes the file; of several patterns the first counts."""
OF_AN_ABLATION = {"tables/decoding.parquet"}
"""Described, and in no run directory."""
ON_DEMAND = {"verdicts/NAME/1/web/000012.parquet", "reports/1/groups.parquet"}
ON_DEMAND |= {"croissant.json", "lease/job.json", "plan.json"}
"""Files that only a command of the user writes."""
OF_TASKS = {"tasks/vqa/train/000012.parquet", "results/task.vqa.1/"}
OF_TASKS |= {"records/tasks/vqa/data.json", "records/tasks/vqa/answers.json"}
"""Files of runs with downstream tasks."""
OF_FOREIGN_CAPTIONS = {"captions/web/parts/00000.parquet", "captions/web/unmatched/00000.parquet"}
OF_FOREIGN_CAPTIONS |= {"captions/web/captions.json", "reports/1/captioners.parquet"}
"""Files of runs that judge captions from elsewhere."""
WITHOUT_HEADING = {"config.yaml", "reports/1/report.html"}


def heading_of(path: str) -> str:
    for pattern, heading in PLACES.items():
        if match := re.fullmatch(pattern, path):
            return match.expand(heading)
    raise AssertionError(f"docs/schema.md does not describe {path}")


@pytest.fixture(scope="module")
def files(finished):
    """(path in the run, path on disk, heading of the page) of every file."""
    run, _, _ = finished
    paths = sorted(path for path in run.rglob("*") if path.is_file())
    return [(str(path.relative_to(run)), path, heading_of(str(path.relative_to(run)))) for path in paths]


def test_every_file_has_a_heading_and_its_folder_a_line_in_the_tree(files):
    found = {heading for _, _, heading in files}
    assert found - set(sections()) == WITHOUT_HEADING
    others = {h for h in sections() if "verdicts/NAME" in h or h.startswith("exports/")} | ON_DEMAND
    others |= {"replacing/web/000012.json", "lease/000001.json", "nodes/filter.1.started.json", "<key>.json"}
    assert set(sections()) - found == others | OF_AN_ABLATION | OF_FOREIGN_CAPTIONS | OF_TASKS
    for heading in found | others - {"<key>.json"}:
        assert any(heading.startswith(line) for line in tree()), heading


def test_folders_of_tables_hold_parquet_files_of_one_schema(files):
    headings: dict[str, set[str]] = {}
    for path, _, heading in files:
        top = path.partition("/")[0]
        if top in ("corpus", "rounds") or "/parts/" in path:
            headings.setdefault(top, set()).add(heading)
    assert headings == {
        "corpus": {"corpus/web/000012.parquet"},
        "rounds": {"rounds/1/web/000012.parquet"},
        "manifests": {"manifests/web/parts/00000.parquet"},
    }


def test_parquet_files_have_the_documented_columns(files):
    for path, place, heading in files:
        if path.endswith(".parquet"):
            columns = {field.name: arrow_name(field.type) for field in pq.read_schema(place)}
            assert columns == documented(heading), path
    found = {heading for path, _, heading in files if path.endswith(".parquet")}
    missing = ON_DEMAND | OF_AN_ABLATION | OF_FOREIGN_CAPTIONS | OF_TASKS
    assert set(SCHEMAS) - found == {heading for heading in missing if heading.endswith(".parquet")}


def test_json_files_have_the_documented_keys(files):
    for path, place, heading in files:
        if heading in sections() and path.endswith((".json", ".jsonl")) and not heading.endswith("/"):
            for line in place.read_text().splitlines() if path.endswith("l") else [place.read_text()]:
                check_keys(path, json.loads(line), documented(heading), optional(heading))


def test_counts_of_nodes_are_documented(files):
    of_shards, _, of_trainings, of_others = nested("nodes/filter.1.json", "counts")
    for path, place, heading in files:
        if heading == "nodes/filter.1.json" and (counts := json.loads(place.read_text())["counts"]):
            keys = of_trainings if "steps" in counts else of_shards if "rows" in counts else of_others
            check_keys(path, counts, keys, set(of_others) if keys is of_others else {"efficiency"})


def test_names_of_metrics(files):
    (metrics,) = (json.loads(place.read_text()) for path, place, _ in files if path.endswith("/metrics.json"))
    text = sections()["reports/1/metrics.json"].partition("Names of the metrics")[2]
    names = re.findall(
        r"`([^`]+)`", "".join(line.split("|")[1] for line in text.splitlines() if "| 0." in line)
    )
    for model in metrics["retrieval"]:
        assert {*metrics["retrieval"][model], *metrics["caption"][model]} == set(names)


def check_keys(path: str, content: dict, shown: dict[str, str], absent: set[str]) -> None:
    """Check that the keys of an object, and of the objects in it, are those of the page, with its types."""
    top = {name for name in shown if not re.search(r"[.\[]", name)}
    assert set(content) <= top and top - set(content) <= absent, path
    for name, value in content.items():
        assert fits(value, shown[name]), f"{path}: {name}"
        for element in value if isinstance(value, list) else [value]:
            inner = {
                key.partition(".")[2]: kind
                for key, kind in shown.items()
                if re.match(rf"{name}(\[\])?\.", key)
            }
            if inner and element is not None:
                check_keys(path, element, inner, set())
