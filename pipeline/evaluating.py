"""How good the pretrained MEDs of a run are, on its test sources: retrieval and captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.engine import call_all
from cluster.sizing import Sizing
from models.captions import normalise_caption
from pipeline.config import Config, EvaluateSection
from pipeline.ledger import Ledger
from pipeline.metrics import caption_metrics
from stages.artifacts import local_artifact
from stages.pairs import PairsConfig, ReadPairs, ShardRef
from stages.store import Store

PIXEL_BATCH = 256


@dataclass(frozen=True)
class Test:
    """One model's evaluation; picklable."""

    model: str
    run: Store
    shards: tuple[ShardRef, ...]
    config: EvaluateSection
    seed: int


def evaluate_models(
    config: Config, run: Store, ledger: Ledger, names: list[str], sizing: Sizing
) -> dict[str, dict[str, Any]]:
    """{model: {"retrieval": …, "caption": …}} for the models of these nodes, side by side where there is room."""
    shards = [
        ShardRef(source, shard, "human")
        for source in config.of_kind("test")
        for shard in ledger.committed(f"corpus/{source}")
    ]
    tests = [Test(name, run, tuple(shards), config.evaluate, config.run.seed) for name in names]
    gpus = min(1.0, sizing.gpus)
    return dict(zip(names, call_all(evaluate, tests, cpus=1.0, gpus=gpus), strict=True))


def evaluate(test: Test) -> dict[str, Any]:
    """Evaluate one model in this process; the driver, which only lists the tests, needs no torch."""
    from models.captioner import Captioner
    from models.checkpoints import load_checkpoint
    from models.inference import load_pixels, place
    from models.retrieval import evaluate_retrieval

    checkpoint = local_artifact(test.run.address(f"models/{test.model}"), test.model, test.run)
    med, tokenizer, _ = load_checkpoint(checkpoint, parts="pretrain")
    caption = test.config.caption
    med = place(med, tokenizer, "auto", caption.precision)
    device = next(med.parameters()).device
    images, texts, keys = _read(test)
    batches = load_pixels(images, med.config.vision.image_size, PIXEL_BATCH)
    flat = [normalise_caption(text) for of_image in texts for text in of_image]
    owner = [i for i, of_image in enumerate(texts) for _ in of_image]
    retrieval = evaluate_retrieval(med, tokenizer, batches, flat, owner, test.config.k, device)
    captioner = Captioner.from_checkpoint(
        checkpoint,
        device=device,
        precision=caption.precision,
        prompt=caption.prompt,
        sampling=caption.sampling,
        batch_size=caption.batch_size,
    )
    written = captioner.caption(images, keys, n=1, run_seed=test.seed, round=0)
    candidates = {key: of_image[0].text for key, of_image in zip(keys, written, strict=True)}
    references = {key: [normalise_caption(t) for t in ts] for key, ts in zip(keys, texts, strict=True)}
    return {
        "images": len(images),
        "texts": len(flat),
        "retrieval": retrieval,
        "caption": caption_metrics(candidates, references),
    }


def _read(test: Test) -> tuple[list[bytes], list[list[str]], list[str]]:
    """Encoded images, their texts and their ids, in manifest order."""
    reader = ReadPairs(PairsConfig(run=test.run))
    images: list[bytes] = []
    texts: list[list[str]] = []
    keys: list[str] = []
    for ref in test.shards:
        for row in reader.read(ref).to_pylist():
            if test.config.limit is None or len(images) < test.config.limit:
                images.append(row["image"])
                texts.append(row["texts"])
                keys.append(f"{row['source']}/{row['key']}")
    return images, texts, keys
