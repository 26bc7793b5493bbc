"""The scripts of examples/ that start runs on an embedded Ray."""

import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from tests.examples.scripts import run_example
from tests.models.blip_oracle import SIZE, hf_captioner, hf_matcher, tiny_tokenizer

IMAGES = 20


@pytest.fixture
def server(tmp_path):
    """Address of a server on loopback that has the images of the shapes corpus."""
    make_shapes(ShapesConfig(human=1, web=IMAGES, test=1), str(tmp_path / "shapes"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "shapes/web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_released_checkpoints(server, tmp_path):
    """A tiny twin of the example: random BLIP checkpoints of transformers, urls of a local server."""
    tokenizer = tiny_tokenizer()
    for name, model in (("captioner", hf_captioner(tokenizer)), ("filter", hf_matcher(tokenizer, seed=2))):
        model.save_pretrained(tmp_path / name)
        tokenizer.save(tmp_path / name)
    urls = [f"http://{server}/images/{number:06d}.jpg" for number in range(IMAGES)]
    urls += [f"http://{server}/missing.jpg", "http://127.0.0.1:1/refused.jpg"]
    pq.write_table(
        pa.table({"url": urls, "caption": ["a red circle"] * len(urls)}), tmp_path / "urls.parquet"
    )
    settings = {
        "sources.web.rows.manifest": "urls.parquet",
        "captioner.checkpoint": "captioner",
        "captioner.generate.sampling.max_new_tokens": 8,
        "filter.checkpoint": "filter",
        "fetch.image.min_side": SIZE,
        "fetch.allow_private": "[127.0.0.1]",
        "fetch.retries": 0,
    }
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    output = run_example("released-checkpoints/run.sh", "run", *options, folder=tmp_path)

    assert "0 differences; 0 not finished" in output
    assert re.search(r"│ 127\.0\.0\.1 +│ web +│ +20 │", output)
    corpus = duckdb.sql(
        f"SELECT status, count(*) FROM '{tmp_path}/run/corpus/web/*.parquet' GROUP BY ALL ORDER BY 1"
    )
    assert corpus.fetchall() == [("connect", 1), ("http_404", 1), ("success", IMAGES)]
    candidates = duckdb.sql(
        f"SELECT origin, count(*) FROM '{tmp_path}/run/rounds/1/web/*.parquet' GROUP BY ALL"
    )
    assert sorted(candidates.fetchall()) == [("synthetic", IMAGES), ("web", IMAGES)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_run_resumes_and_verifies(tmp_path):
    output = run_example("resume_and_verify.py", folder=tmp_path)
    (before,) = re.findall(r"killed with (\d) of 6 shards committed", output)
    assert 1 <= int(before) <= 6
    assert "\n6 of 6 shards committed" in output
    assert "12 shards, 120 rows" in output and "0 differences; 0 not finished" in output
