"""A run that only judges captions from elsewhere: from a Parquet of urls and captions to a report."""

import json

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.pipeline.config.load import ConfigError, load_config, parse_config
from capfilt.pipeline.plan import plan
from capfilt.pipeline.prepare import hold_run, prepare
from capfilt.stages.foreign.config import CandidatesError
from tests.local_chain import call_local, map_local, run_local
from tests.local_run import local_run
from tests.models.tiny_med import TOKENIZER, build
from tests.runs import NO_RESULT, prepared_run
from tests.stages.carried.laion import png

ROWS = 7


def config_data(folder):
    """A manifest of urls with web texts and captions of `recap`; those of `vlm` have a file of their own."""
    images = folder / "images"
    images.mkdir(parents=True)
    for i in range(ROWS - 1):  # the last url has no image
        (images / f"{i}.png").write_bytes(png(10 * i))
    table = {
        "url": [f"{i}.png" for i in range(ROWS)],
        "caption": [f"a photo {i}" for i in range(ROWS)],
        "recap": [f"a gray picture {i}" if i else None for i in range(ROWS)],
        "license": ["cc-by" if i % 2 else "?" for i in range(ROWS)],
    }
    pq.write_table(pa.table(table), folder / "rows.parquet")
    urls = [f"{i}.png" for i in (0, 0, 3, 99)]
    pq.write_table(pa.table({"url": urls, "text": ["one", "two", "three", "lost"]}), folder / "vlm.parquet")
    save_checkpoint(folder / "filter", build(), TOKENIZER, {})
    return {
        "run": {"dir": str(folder / "run")},
        "sources": {
            "web": {
                "kind": "web",
                "rows": {
                    "manifest": str(folder / "rows.parquet"),
                    "synthetic_columns": {"recap": "recap"},
                    "keep_columns": ["license"],
                    "shard_size": 3,
                },
                "images": str(images),
            }
        },
        "candidates": [{"name": "vlm", "files": str(folder / "vlm.parquet"), "join": "url"}],
        "captioner": "none",
        "filter": {"checkpoint": str(folder / "filter")},
    }


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The finished run: (folder, config, lines said)."""
    folder = tmp_path_factory.mktemp("judged")
    config = parse_config(config_data(folder), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "capfilt.pipeline.nodes.shards.run_chain", lambda todo, chain, **_: run_local(todo, chain)
        )
        patch.setattr("capfilt.cluster.remote.map_remote", map_local)
        patch.setattr("capfilt.cluster.remote.resources_of_call", call_local)
        context = local_run(config)
        said = []
        patch.setattr(context.progress, "say", lambda node, line: said.append(line))
        for name, node in context.run_dir.nodes.items():
            inputs = context.fingerprints.inputs(name)
            context.progress.begin(name)
            context.ledger.start(name, inputs)
            context.ledger.finish(name, inputs, node.kind.run(context, node), 1.0)
    return folder, config, said


def test_no_captioner_is_planned(judged):
    _, config, _ = judged
    nodes = plan(config)
    assert list(nodes) == ["join", "bootstrap.1", "calibrate.1", "report.1"]
    assert nodes["bootstrap.1"].needs == ("join",)


def test_captions_from_elsewhere_are_candidates_of_their_captioner(judged):
    folder, _, _ = judged
    candidates = pd.read_parquet(folder / "run/rounds/1/web")
    found = candidates.sort_values(["url", "origin", "caption_index"], ascending=[True, False, True])
    expected = []
    for i in range(ROWS - 1):
        of_image = [("web", None, f"a photo {i}")]
        of_image += [("synthetic", "recap", f"a gray picture {i}")] if i else []
        of_image += [("synthetic", "vlm", text) for text in {0: ["one", "two"], 3: ["three"]}.get(i, [])]
        expected += [(f"{i}.png", "cc-by" if i % 2 else "?", *each) for each in of_image]
    columns = ["url", "license", "origin", "captioner", "text"]
    assert [tuple(None if pd.isna(v) else v for v in row) for row in found[columns].values] == expected
    assert found["itm_prob"].between(0, 1).all() and found["kept"].notna().all()
    assert found["top_p"].isna().all() and found["seed"].isna().all()
    assert not found.duplicated(["key", "origin", "caption_index"]).any()


def test_captions_without_an_image_are_counted_and_listed(judged):
    folder, _, said = judged
    lost = pq.read_table(folder / "run/captions/web/unmatched").to_pylist()
    assert lost == [{"captioner": "vlm", "value": "99.png", "text": "lost"}]
    assert [line for line in said if line.startswith("vlm: 1 of 4 captions belong to no image of web")]


def test_report_has_the_noise_ratio_of_each_captioner(judged):
    folder, _, _ = judged
    query = (
        f"SELECT captioner, avg((NOT kept)::INT) FROM '{folder}/run/rounds/1/**/*.parquet' "
        "WHERE origin = 'synthetic' GROUP BY ALL"
    )
    expected = dict(duckdb.sql(query).fetchall())
    metrics = json.loads((folder / "run/reports/1/metrics.json").read_text())
    assert metrics["noise_ratio_by_captioner"]["web"] == pytest.approx(expected)
    table = pq.read_table(folder / "run/reports/1/captioners.parquet").to_pylist()
    assert {row["captioner"]: row["noise_ratio"] for row in table} == pytest.approx(expected)
    assert {row["captioner"]: row["judged"] for row in table} == {"recap": 5, "vlm": 3}
    page = (folder / "run/reports/1/report.html").read_text()
    assert "Noise ratios of synthetic texts by captioner" in page and ">vlm<" in page


def test_corpus_keeps_the_captions_of_the_manifest(judged):
    folder, _, _ = judged
    corpus = pq.read_table(folder / "run/corpus/web")
    assert corpus["synthetic"].to_pylist()[:2] == [
        [], [{"captioner": "recap", "text": "a gray picture 1"}]
    ]  # fmt: skip


def test_the_written_config_is_the_same_run(judged):
    folder, config, _ = judged
    assert load_config(folder / "run/config.yaml") == config


def test_changed_captions_are_refused(judged):
    folder, config, _ = judged
    file = folder / "vlm.parquet"
    before = file.read_bytes()
    try:
        pq.write_table(pa.table({"url": ["0.png"], "text": ["other"]}), file)
        with pytest.raises(CandidatesError, match=r"candidates\.vlm\.files: .* have changed .*--fresh join"):
            prepared_run(config)
    finally:
        file.write_bytes(before)


def change(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data[name]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("candidates", [{"name": "a b", "files": "f", "join": "url"}], r"candidates\.a b"),
        ("candidates", [{"name": "none", "files": "f", "join": "url"}], "'none' cannot be the name"),
        ("candidates", {"recap": {"files": "f", "join": "url"}}, "synthetic_columns has a captioner of this"),
        ("candidates", [{"name": "v", "files": "f", "join": "url"}] * 2, "two captioners have one name"),
        (
            "candidates",
            {"v": {"files": "f", "join": "uid"}},
            r"join: uid needs sources\.web\.rows\.id_column",
        ),
        ("candidates", {"v": {"files": "f", "join": "path"}}, "'key', 'url' or 'uid'"),
        ("candidates", {"v": {"join": "url"}}, r"candidates\.v\.files: empty; give a file"),
        (
            "candidates",
            {"v": {"files": "f", "join": "url", "source": "x"}},
            "'x' is not a source of kind web",
        ),
        ("sources.web.rows.synthetic_columns", {"0123456789abcdef": "recap"}, "not 16 hex digits"),
        ("captioner", {"checkpoint": "none", "finetune": {}}, "captioner.finetune"),
        ("filter", {}, "filter: give filter.checkpoint"),
    ],
)
def test_mistakes_in_the_config_are_one_line(tmp_path, path, value, message):
    data = config_data(tmp_path)
    change(data, path, value)
    with pytest.raises(ConfigError, match=message):
        parse_config(data, "test")


@pytest.mark.parametrize("file", ["absent.parquet", "rows.parquet"])
def test_captions_that_cannot_be_read_end_the_run_before_anything_is_written(tmp_path, file):
    data = config_data(tmp_path)
    change(data, "candidates", {"v": {"files": str(tmp_path / file), "join": "url", "text_column": "said"}})
    with pytest.raises(CandidatesError):
        prepared_run(parse_config(data, "test"))
    assert not (tmp_path / "run/config.yaml").exists() and not (tmp_path / "run/manifests").exists()


def test_images_in_tars_are_unpacked_before_captions_are_joined(tmp_path):
    data = config_data(tmp_path)
    change(data, "sources.web.rows.manifest", "images-{00000..00003}.tar")
    nodes = plan(parse_config(data, "test"))
    assert list(nodes) == ["fetch", "join", "bootstrap.1", "calibrate.1", "report.1"]
    assert nodes["fetch"].sources == ("web",) and nodes["join"].needs == ("fetch",)


def test_fresh_fetch_joins_again(tmp_path):
    config = parse_config(config_data(tmp_path), "test")
    folder = tmp_path / "run/captions/web"
    with hold_run(config, print) as run_dir:
        prepare(run_dir)
        run_dir.ledger.start("join", run_dir.fingerprints.inputs("join"))
        run_dir.ledger.finish("join", run_dir.fingerprints.inputs("join"), NO_RESULT, 1.0)
        folder.mkdir(parents=True)
        assert prepare(run_dir).state["join"] == "done"
        assert prepare(run_dir, fresh=["fetch"]).state["join"] == "new" and not folder.exists()
