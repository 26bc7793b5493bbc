"""Ids of the user, under another name, from the manifest through download and filter into an export."""

import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.pipeline.config.load import dump_config, parse_config
from tests.local_chain import run_local
from tests.local_run import local_run
from tests.models.tiny_med import TOKENIZER, build
from tests.pipeline.export.exported_run import export
from tests.stages.carried.laion import png
from tests.stages.fetch.hostile_server import HostileServer, http_response

ROWS, MISSING = 7, 4


class Pictures(HostileServer):
    """Sends a picture for each number, and none for `MISSING`."""

    def respond(self, path, count, host):
        name = path.removeprefix("/").partition(".")[0]
        if not name.isdigit() or int(name) == MISSING:
            return http_response(status="404 None")
        return http_response(png(10 * int(name)))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run that has only filtered, and the ids of its rows."""
    ids = [hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest() for i in range(ROWS)]
    save_checkpoint(tmp_path / "filter", build(), TOKENIZER, {})
    with Pictures() as server:
        urls = [f"http://127.0.0.1:{server.port}/{i}.png" for i in range(ROWS)]
        table = pa.table({"URL": urls, "TEXT": [f"a photo {i}" for i in range(ROWS)], "key": ids})
        pq.write_table(table, tmp_path / "rows.parquet")
        rows = {"manifest": str(tmp_path / "rows.parquet"), "shard_size": 3, "id_column": "key"}
        rows["rename_columns"] = {"key": "pool_uid"}
        data = {
            "run": {"dir": str(tmp_path / "run")},
            "sources": {"web": {"kind": "web", "rows": rows}},
            "fetch": {"allow_private": [f"127.0.0.1:{server.port}"], "image": {"min_side": 8}},
            "captioner": "none",
            "filter": {"checkpoint": str(tmp_path / "filter"), "judge": {"threshold": 0}},
        }
        config = parse_config(data, "test")
        monkeypatch.setattr(
            "capfilt.pipeline.nodes.shards.run_chain", lambda todo, chain, **_: run_local(todo, chain)
        )
        context = local_run(config)
        context.ledger.save_config(dump_config(config))
        for name, node in context.run_dir.nodes.items():
            if name.startswith("bootstrap"):
                inputs = context.fingerprints.inputs(name)
                context.progress.begin(name)
                context.ledger.start(name, inputs)
                context.ledger.finish(name, inputs, node.kind.run(context, node), 1.0)
    return context.run_dir, ids


def test_renamed_ids_reach_every_export(run, tmp_path):
    run_dir, ids = run
    stored = [uid for i, uid in enumerate(ids) if i != MISSING]
    export(run_dir, tmp_path / "parquet", "parquet")
    table = pd.read_parquet(tmp_path / "parquet/data")
    assert dict(
        zip(table["url"].str.extract(r"(\d+)\.png")[0].astype(int), table["pool_uid"], strict=True)
    ) == {i: uid for i, uid in enumerate(ids) if i != MISSING}
    export(run_dir, tmp_path / "uids", "datacomp-uids")
    found = np.load(tmp_path / "uids/uids.npy")
    assert [f"{high:016x}{low:016x}" for high, low in found] == sorted(stored)
    corpus = pd.read_parquet(tmp_path / "run/corpus/web")
    assert corpus["pool_uid"].tolist() == ids and corpus["status"].eq("success").sum() == ROWS - 1
