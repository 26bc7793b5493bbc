"""With checkpoints written by transformers, the chain gives the captions and scores of transformers."""

import io
from types import SimpleNamespace

import duckdb
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast
from transformers.models.blip import BlipImageProcessorPil

from capfilt.models.caption_text import normalize_caption
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.corpora.shapes import make_shapes
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import Store
from tests.local_chain import run_local
from tests.models.blip_oracle import SIZE, hf_captioner, hf_matcher, tiny_tokenizer
from tests.tiny import tiny_data
from tests.web_bootstrap import bootstrap_web

IMAGES = 20
NEW_TOKENS = 8
TEXT_TOKENS = 35


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Models of transformers, their preprocessing, and the rows of a chain with their checkpoints."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer = tiny_tokenizer()
    models = {"captioner": hf_captioner(tokenizer), "filter": hf_matcher(tokenizer, seed=2)}
    processor = BlipImageProcessorPil(size={"height": SIZE, "width": SIZE})
    tokenizer.save(folder)
    words = BertTokenizerFast.from_pretrained(folder)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    data = tiny_data(folder)
    data["shapes"] |= {"web": IMAGES, "image_size": SIZE + 12}  # not the size of the model
    sampling = {"strategy": "greedy", "max_new_tokens": NEW_TOKENS}
    data["captioner"] = {
        "checkpoint": str(folder / "captioner"),
        "generate": {"prompt": "a picture of ", "sampling": sampling},
    }
    data["filter"] = {"checkpoint": str(folder / "filter")}
    config = parse_config(data, "released")
    make_shapes(config.shapes, config.shapes_dir)
    rows = bootstrap(config, Store(str(folder / "run")))
    corpus = read_corpus_shard(Store(str(folder / "run")), corpus_shard("web", 0)).to_pylist()
    images = {row["key"]: Image.open(io.BytesIO(row["image"])) for row in corpus}
    return SimpleNamespace(
        **models, judge=models["filter"], ours=tokenizer, processor=processor, rows=rows, images=images
    )


def bootstrap(config, store):
    models = {"captioner": config.captioner.checkpoint, "filter": config.filter.checkpoint}
    bootstrap_web(config, store, models, run_local)
    query = f"SELECT key, origin, text, itm_prob, itc_sim, kept FROM '{store.path('rounds/1')}/web/*.parquet'"
    names = ("key", "origin", "text", "itm_prob", "itc_sim", "kept")
    return [dict(zip(names, row, strict=True)) for row in duckdb.sql(query).fetchall()]


def pixels(released, key):
    return released.processor(images=released.images[key].convert("RGB"), return_tensors="pt")["pixel_values"]


@torch.no_grad()
def test_captions_are_those_of_transformers(released):
    prompt = released.ours.encode(["a picture of "], 20, first="dec")[0][:, :-1]
    captions = {row["key"]: row["text"] for row in released.rows if row["origin"] == "synthetic"}
    assert len(captions) == IMAGES and len(set(captions.values())) > 3
    for key, text in captions.items():
        ids = torch.cat(
            [prompt, torch.tensor([[released.ours.sep_id]])], dim=1
        )  # transformers drops the last token of its input
        length = prompt.shape[1]
        out = released.captioner.generate(
            pixel_values=pixels(released, key),
            input_ids=ids,
            min_length=length + 1,
            max_length=length + NEW_TOKENS,
            num_beams=1,
            do_sample=False,
        )
        whole = released.ours.decode(out[0].tolist())
        assert text == whole.removeprefix("a picture of").strip(), key


@torch.no_grad()
def test_scores_are_those_of_transformers(released):
    """By itself, transformers starts a text with [CLS]; the test passes [ENC], as BLIP was trained."""
    for row in released.rows:
        text = normalize_caption(row["text"], 30)
        image = pixels(released, row["key"])
        ids, mask = released.ours.encode([text], TEXT_TOKENS, first="enc")
        matched = released.judge(pixel_values=image, input_ids=ids, attention_mask=mask).itm_score.softmax(
            -1
        )[0, 1]
        assert row["itm_prob"] == pytest.approx(matched.item(), abs=1e-5)
        assert row["kept"] == (matched.item() >= 0.5)
        ids, mask = released.ours.encode([text], TEXT_TOKENS)
        similarity = released.judge(
            pixel_values=image, input_ids=ids, attention_mask=mask, use_itm_head=False
        ).itm_score
        assert row["itc_sim"] == pytest.approx(similarity.item(), abs=1e-5)
    assert {row["kept"] for row in released.rows} == {True, False}
