"""The same stages give the same rows with and without Ray, for any batch size, worker count and order."""

import json
from dataclasses import replace

import duckdb
import pytest
import torch

from capfilt.cluster.chain.engine import run_chain
from capfilt.cluster.chain.isolation import RowsLost
from capfilt.cluster.chain.steps import Step
from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.corpora.shapes import make_shapes
from capfilt.stages.storage.store import Store
from tests.local_chain import run_local
from tests.web_bootstrap import bootstrap_web

TEXTS = ["a red circle", "a blue square next to a green star", "two yellow triangles", "click here"]


@pytest.fixture(scope="module")
def scene(tiny, tmp_path_factory):
    """(config, checkpoint) with random weights whose captions and scores vary."""
    _, data = tiny
    checkpoint = tmp_path_factory.mktemp("random")
    config = parse_config(data, "tiny")
    make_shapes(config.shapes, config.shapes_dir)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS, vocab_size=100)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, width=16, depth=1, heads=2, ffn=32, max_positions=64, dropout=0.0
    )
    vision = VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2)
    med = MED(MedConfig(vision=vision, text=text, embed_dim=8))
    for parameter in med.parameters():
        if parameter.ndim > 1:
            # Large enough that scores spread over both verdicts.
            torch.nn.init.normal_(parameter, std=0.4)
    save_checkpoint(checkpoint, med, tokenizer, {})
    return config, str(checkpoint)


def candidates(scene, run, *, engine, batch_size=64, **options):
    """Bootstrap the tiny web source in one pass from urls to candidates; return (candidate rows, scores).

    `options` are those of `bootstrap_web`.
    """
    config, checkpoint = scene
    generate = replace(config.captioner.generate, batch_size=batch_size)
    judge = replace(config.filter.judge, batch_size=batch_size, threshold=0.5)
    config = config.model_copy(
        update={
            "captioner": config.captioner.model_copy(update={"generate": generate}),
            "filter": config.filter.model_copy(update={"judge": judge}),
        }
    )
    store = Store(str(run))
    models = {"captioner": checkpoint, "filter": checkpoint}
    index, results = bootstrap_web(config, store, models, engine, **options)
    assert sorted(row["shard"] for row in results) == list(range(index.shards))
    read = sum(json.loads(row["records"])["candidates"]["rows"]["read"] for row in results)
    assert read == index.rows == 90
    source = f"FROM '{run}/rounds/1/**/*.parquet' ORDER BY key, origin, caption_index"
    rows = duckdb.sql(f"SELECT * EXCLUDE (itm_prob, itc_sim, text_sim, logprob) {source}").fetchall()
    optional = "coalesce(text_sim, 0), coalesce(logprob, 0)"
    scores = duckdb.sql(f"SELECT itm_prob, itc_sim, {optional} {source}").fetchall()
    return rows, [score for row in scores for score in row]


@pytest.fixture(scope="module")
def direct(scene, tmp_path_factory):
    return candidates(scene, tmp_path_factory.mktemp("direct"), engine=run_local)


def test_random_models_give_various_captions_and_scores(direct):
    rows, scores = direct
    texts = {row[6] for row in rows}
    assert len(texts) > 50 and max(scores) - min(scores) > 0.2


@pytest.mark.parametrize("variant", [{"batch_size": 7, "fused": True}, {"batch_size": 1, "reverse": True}])
def test_batch_size_and_order_change_nothing(scene, direct, tmp_path, variant):
    rows, scores = candidates(scene, tmp_path, engine=run_local, **variant)
    assert rows == direct[0] and scores == pytest.approx(direct[1], abs=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_ray_with_two_workers_per_stage_gives_the_same_rows(scene, direct, tmp_path, ray_session, fused):
    variant = {"actors": 2, "reverse": True, "batch_size": 16, "fused": fused}
    rows, scores = candidates(scene, tmp_path, engine=run_chain, **variant)
    assert rows == direct[0] and scores == pytest.approx(direct[1], abs=1e-5)


class _LosesARow:
    def __call__(self, batch):
        return batch.slice(1)


def test_a_stage_that_loses_a_row_is_named_in_the_error():
    steps = [Step(name="read", make=_MakesRows, kind="read"), Step(name="picky", make=_LosesARow)]
    with pytest.raises(RowsLost, match="stage picky received 3 rows and returned 2"):
        list(run_local([{"n": 3}], steps))


class _MakesRows:
    def __call__(self, batch):
        return batch.take([0] * batch["n"][0].as_py())
