"""The card of a run: its header is what the hub reads, its numbers are those of DuckDB."""

import re
from dataclasses import replace
from glob import glob

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

from capfilt.pipeline.card import facts as module
from capfilt.pipeline.card import licenses
from capfilt.pipeline.card.facts import collect_facts
from capfilt.pipeline.card.readme import make_readme, size_category, to_markdown
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.evaluation.intervals import wilson_interval
from capfilt.pipeline.node import NodeResult
from tests.pipeline.export.exported_run import export, kept_pairs, make_run
from tests.tiny import tiny_data


@pytest.fixture
def counted_run(tmp_path):
    """A run whose bootstrap has counted its candidates."""
    run_dir = make_run(tmp_path)
    verdict = "CASE WHEN kept THEN 'kept' WHEN kept IS NULL THEN 'unjudged' ELSE 'dropped' END"
    query = f"""SELECT origin, {verdict}, count(*)
                FROM '{run_dir.store.url}/rounds/1/**/*.parquet' GROUP BY ALL"""
    candidates = {}
    for origin, verdict, count in duckdb.sql(query).fetchall():
        candidates.setdefault(origin, {})[verdict] = count
    counts = {"status": {"success": 24, "dns": 4}, "candidates": candidates}
    result = NodeResult("", counts=counts, models={"captioner": "c" * 16, "filter": "f" * 16})
    run_dir.ledger.finish("bootstrap.1", {}, result, 1.0)
    return run_dir


def test_the_hub_reads_the_header_and_the_numbers_are_those_of_the_run(counted_run):
    text = make_readme(collect_facts(counted_run))
    data = DatasetCard(text).data.to_dict()
    assert (data["pretty_name"], data["license"], data["size_categories"]) == ("tiny", "other", ["n<1K"])
    kept = kept_pairs(counted_run.store.url, human=False)
    for origin in ("web", "synthetic"):
        row = re.search(rf"\| {origin} \| (\d+) \| (\d+) \| \d+ \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", text)
        count, dropped, ratio = int(row[1]), int(row[2]), float(row[3])
        assert count == sum(pair["origin"] == origin for pair in kept)
        assert ratio == pytest.approx(dropped / (count + dropped), abs=5e-4)
        limits = wilson_interval(dropped, count + dropped)
        assert (float(row[4]), float(row[5])) == pytest.approx(limits, abs=5e-4)
    assert "| success | 24 |" in text and "| dns | 4 |" in text
    assert "captioner: trained by the run, digest `cccccccccccccccc`" in text
    assert "| host.test | 20 | 100.00% |" in text and "1 of 1 hosts" in text
    assert "robots.txt was obeyed" in text


def test_licenses_are_counted_over_kept_texts(counted_run):
    assert "The rows of the run brought no license" in make_readme(collect_facts(counted_run))
    folder = f"{counted_run.store.url}/rounds/1"
    for file in glob(f"{folder}/*/*.parquet"):
        table = pq.read_table(file)
        names = [None if k.endswith("0") else f"cc|{k[-1]}" for k in table["key"].to_pylist()]
        pq.write_table(table.append_column("my_Licence", pa.array(names, pa.string())), file)
    text = make_readme(collect_facts(counted_run))
    query = f"""SELECT my_Licence, count(DISTINCT (source, key)), count(*) FROM '{folder}/*/*.parquet'
                WHERE kept GROUP BY 1"""
    rows = duckdb.sql(query).fetchall()
    assert len(rows) > 2
    for value, images, texts in rows:
        shown = "none given" if value is None else value.replace("|", r"\|")
        assert f"| {shown} | {images} | {texts} |" in text
    assert r"| my\_Licence | images | kept texts |" in text


def test_licenses_beyond_the_limit_are_counted(counted_run, monkeypatch):
    monkeypatch.setattr(licenses, "MOST_LICENSES", 2)
    for file in glob(f"{counted_run.store.url}/rounds/1/*/*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.append_column("LICENSE", table["key"]), file)
    facts = collect_facts(counted_run)
    (found,) = facts.licenses
    kept = duckdb.sql(f"""SELECT count(DISTINCT key) FROM '{counted_run.store.url}/rounds/1/*/*.parquet'
                      WHERE kept""").fetchall()[0][0]
    assert len(found.rows) == 2 and found.others == kept - 2
    assert f"{found.others} further licenses are not listed" in make_readme(facts)


def test_captioners_from_elsewhere_are_named(counted_run, tmp_path):
    assert "captions from elsewhere" not in make_readme(collect_facts(counted_run))
    sources = tiny_data(tmp_path)["sources"]
    sources["web"]["rows"] |= {"synthetic_columns": {"recap_8b": "re_caption"}}
    run_dir = make_run(tmp_path / "other", sources=sources)
    assert r"captioner: recap\_8b" in make_readme(collect_facts(run_dir))


def test_opt_outs_are_counted(counted_run):
    facts = collect_facts(counted_run)
    text = make_readme(replace(facts, status={"success": 24, "robots": 1234, "optout": 5}))
    assert "| robots.txt | 1,234 |" in text and "| another opt-out of the site | 5 |" in text
    local = replace(facts, hosts=0, images=0, top_hosts=[])
    assert "No image has a web address, so no host could be asked." in make_readme(local)
    asked = make_readme(replace(local, status={"robots": 3}))
    assert "No image has a web address" not in asked and "| robots.txt | 3 |" in asked


def test_hosts_are_the_top_tenth_but_at_least_ten(counted_run, monkeypatch):
    store = counted_run.store.url
    urls = [f"http://h{n}.test/{i}.jpg" for n in range(120) for i in range(n + 1)]
    file = f"{store}/corpus/more/000000.parquet"
    duckdb.sql("SELECT unnest(?) AS url, 'success' AS status", params=[urls]).write_parquet(file)
    found = collect_facts(counted_run)
    assert found.hosts == 121 and len(found.top_hosts) == 12
    assert found.top_hosts[:2] == [("h119.test", 120), ("h118.test", 119)]
    monkeypatch.setattr(module, "MOST_HOSTS", 5)
    assert len(collect_facts(counted_run).top_hosts) == 5


def test_an_export_for_datasets_has_the_card(counted_run, tmp_path):
    done = export(counted_run, tmp_path / "out", "hf", human=True)
    text = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    files = [{"split": "train", "path": "data/*.parquet"}]
    assert header["configs"] == [{"config_name": "default", "data_files": files}]
    assert f"| human | {done.summary.pairs['human']} |" in text


@pytest.mark.parametrize(("pairs", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**9, "n>1B")])
def test_size_categories(pairs, name):
    assert size_category(pairs) == name


def test_opt_outs_count_only_if_every_web_source_honored_them(tmp_path):
    data = tiny_data(tmp_path)["sources"]
    data["more"] = {
        **data["web"],
        "rows": {"manifest": "m.csv"},
        "fetch": {"robots": False, "optout": ["noai"]},
    }
    text = make_readme(collect_facts(make_run(tmp_path, sources=data)))
    assert "robots.txt was not obeyed for all sources" in text and "had `noai` were" in text


def test_names_are_no_markup():
    assert to_markdown("a|b <c> [d](e)") == r"a\|b \<c\> \[d\](e)"


def test_the_command_writes_a_new_file_only(counted_run, tmp_path):
    path = tmp_path / "card.md"
    done = CliRunner().invoke(app, ["card", counted_run.store.url, str(path)])
    assert done.exit_code == 0 and path.read_text().startswith("---\npretty_name: tiny\n")
    again = CliRunner().invoke(app, ["card", counted_run.store.url, str(path)])
    assert again.exit_code == 2 and "already exists" in again.output
    later = CliRunner().invoke(app, ["card", counted_run.store.url, str(tmp_path / "x"), "--round", "2"])
    assert later.exit_code == 2 and "round 2 is not bootstrapped" in later.output
