"""Validation of a finetuning: which pairs it reads, which step it keeps, and when it ends."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from capfilt.cluster.training.trainer import TrainingStopped, Worker
from capfilt.models.caption_text import normalize_caption
from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.pipeline.config.training import ValidationSection
from capfilt.pipeline.training.learner import PairLearner
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from tests.pipeline.training.training_scene import WORKER
from tests.step_logs import read_steps

SHARE = 0.3


def make_learner(scene, node="pretrain.0", *, losses=("lm",), worker=WORKER, every=2, patience=9, **train):
    validation = ValidationSection(share=SHARE, every=every, patience=patience)
    spec = replace(scene.spec(node, losses=losses, queue=0, **train), validation=validation)
    return PairLearner(spec, worker)


def train(learner, until=None):
    while learner.step < (until or learner.total_steps):
        learner.train_step()
    learner.flush_metrics()


def held_out_rows(scene, part):
    read = ReadPairs(PairsConfig(run_dir=scene.run_dir, validation=SHARE, part=part))
    return [row for ref in scene.shards for row in read.read(ref).to_pylist()]


def weights_of(learner):
    return {name: tensor.clone() for name, tensor in learner.med.state_dict().items()}


def follow(learner, monkeypatch, losses):
    """Train with these losses of the validations, in order; returns the weights after each of them."""
    given, seen = iter(losses), {}

    def measure(batches, autocast):
        list(batches)
        seen[learner.step] = weights_of(learner)
        return {"loss": next(given)}

    monkeypatch.setattr(learner.validation, "measure", measure)
    train(learner)
    return seen


def test_images_are_trained_on_or_validated_on(scene):
    training, validation = (
        {(row["source"], row["key"]) for row in held_out_rows(scene, part)}
        for part in ("training", "validation")
    )
    whole = {
        (row["source"], row["key"])
        for ref in scene.shards
        for row in ReadPairs(PairsConfig(run_dir=scene.run_dir)).read(ref).to_pylist()
    }
    assert training | validation == whole and not training & validation
    assert 0 < len(validation) < len(training)


def test_no_held_out_image_is_in_a_training_batch(scene, monkeypatch):
    learner = make_learner(scene, decode_threads=0)
    of = {"training": set(), "validation": set()}
    held_out = {row["image_id"] for row in held_out_rows(scene, "validation")}
    measure, compute = learner.validation.measure, learner.compute_gradients

    def note_validation(batches, autocast):
        batches = list(batches)
        of["validation"] |= {i for b in batches for p in b.pieces for i in p["image_ids"].tolist()}
        return measure(batches, autocast)

    def note_training(pieces):
        of["training"] |= {i for piece in pieces for i in piece["image_ids"].tolist()}
        return compute(pieces)

    monkeypatch.setattr(learner.validation, "measure", note_validation)
    monkeypatch.setattr(learner, "compute_gradients", note_training)
    train(learner)
    assert of["validation"] == held_out
    assert of["training"] == {row["image_id"] for row in held_out_rows(scene, "training")}


def test_web_images_are_never_held_out_for_it(scene):
    read = ReadPairs(PairsConfig(run_dir=scene.run_dir, validation=0.999))
    web = [replace(ref, kind="web") for ref in scene.shards]
    assert sum(read.read(ref).num_rows for ref in web) == 24


def test_the_loss_is_the_mean_over_the_held_out_texts(scene):
    """Computed text by text. The texts fill two batches, in which the first ones occur again."""
    learner = make_learner(scene, every=1, dropout=0.5)
    learner.train_step()
    learner.flush_metrics()
    med, tokenizer = learner.med.eval(), learner.tokenizer
    pairs = [pair for batch in learner.open_held_out().batches() for pair in batch.samples]
    assert len(pairs) % 8 == 0 and len({pair.key for pair in pairs}) == learner._held_out.samples < len(pairs)
    totals = []
    for start in range(0, len(pairs), 8):
        losses, count = 0.0, 0
        for pair in pairs[start : start + 8]:
            pixels = normalize(to_pixels([decode_image(pair.image)], learner.image_size))
            text = learner.spec.train.objective.prompt + normalize_caption(pair.text)
            ids, _ = tokenizer.encode([text], 64, first="dec")
            prompt, _ = tokenizer.encode([learner.spec.train.objective.prompt], 64, first="dec", sep=False)
            with torch.no_grad():
                kv = med.cross_kv(med.encode_image(pixels), which="decoder")
                logits = med.lm_logits(med.decode_states(ids[:, :-1], kv))[0, prompt.shape[1] - 1 :]
            losses += float(F.cross_entropy(logits, ids[0, prompt.shape[1] :], reduction="sum"))
            count += len(logits)
        totals.append(losses / count)
    (row,) = read_steps(scene.run_dir / "logs/pretrain.0")
    expected = pytest.approx(sum(totals) / len(totals), rel=1e-5)
    assert row["validation_loss"] == row["validation_lm"] == expected
    assert learner.validation.losses == [row["validation_loss"]]


@pytest.mark.parametrize(
    ("losses", "patience", "last", "best"),
    [
        ([3, 2, 1, 0.5, 0.4, 0.3], 1, 12, 12),
        ([3, 2, 2.5, 2.4, 2.3, 2.2], 3, 10, 4),
        ([3, 2, 2.5, 2.4, 1, 2], 3, 12, 10),  # just in time
        ([3, 3, 3, 3, 3, 3], 2, 6, 2),  # an equal loss is no lower one
        ([3, 4, 2, 4, 4, 4], 2, 10, 6),  # a lower loss restores the patience
        ([3, 4, 4, 4, 4, 4], 6, 12, 2),
    ],
)
def test_a_training_ends_when_its_patience_is_over_and_keeps_the_best_step(
    scene, monkeypatch, losses, patience, last, best
):
    learner = make_learner(scene, "pretrain.7", patience=patience)
    weights = follow(learner, monkeypatch, losses)
    assert learner.step == learner.total_steps == last
    learner.finish()
    folder = scene.run_dir / "models/pretrain.7"
    med, _, _ = load_checkpoint(folder.path(""), parts="pretrain")
    assert all(torch.equal(tensor, weights[best][name]) for name, tensor in med.state_dict().items())
    provenance = folder.read_json("provenance.json")
    assert provenance["steps"] == last
    assert provenance["validation"] == {
        "pairs": len(held_out_rows(scene, "validation")),
        "best_step": best,
        "steps": list(range(2, last + 1, 2)),
        "losses": losses[: last // 2],
    }
    scene.run_dir.remove("models/pretrain.7")


@pytest.mark.parametrize(("every", "validated"), [(5, [5, 10, 12]), (6, [6, 12]), (100, [12])])
def test_the_last_step_is_validated_too(scene, every, validated):
    learner = make_learner(scene, every=every)
    train(learner)
    assert learner.validation.steps == validated


def test_a_validation_changes_nothing_of_the_training(scene):
    learner = make_learner(scene, losses=("itc", "itm", "lm"), every=1)
    other = make_learner(scene, losses=("itc", "itm", "lm"), every=100)
    train(learner, until=6)
    train(other, until=6)
    for name, tensor in weights_of(other).items():
        assert torch.equal(tensor, learner.med.state_dict()[name]), name


@pytest.mark.parametrize("at", [3, 6, 7])
def test_a_resumed_training_keeps_and_ends_as_an_uninterrupted_one(scene, tmp_path, monkeypatch, at):
    losses = [3, 1, 2, 2, 2, 2]  # ends after step 10, keeps step 4
    whole = make_learner(scene, "pretrain.1", patience=3)
    weights = follow(whole, monkeypatch, losses)
    first = make_learner(scene, "pretrain.2", patience=3)
    given = iter(losses)
    monkeypatch.setattr(first.validation, "measure", lambda batches, autocast: {"loss": next(given)})
    train(first, until=at)
    first.save(str(tmp_path))
    train(first, until=9)  # lost
    second = make_learner(scene, "pretrain.2", patience=3)
    second.load(str(tmp_path))
    follow(second, monkeypatch, losses[at // 2 :])
    assert (second.step, second.validation.best_step) == (whole.step, whole.validation.best_step) == (10, 4)
    assert second.validation.losses == whole.validation.losses == losses[:5]
    second.finish()
    assert all(torch.equal(tensor, weights[4][name]) for name, tensor in weights_of(second).items())
    logs = [read_steps(scene.run_dir / f"logs/{node}") for node in ("pretrain.1", "pretrain.2")]
    curves = [[(row["step"], row["loss"], row.get("validation_loss")) for row in log] for log in logs]
    assert curves[0] == curves[1] and len(curves[0]) == 10


def test_workers_measure_the_same_pairs_together(scene):
    """Each its part of every batch, and none less than the others."""
    parts = []
    for rank in (0, 1):
        learner = make_learner(scene, worker=Worker(rank, 2, torch.device("cpu")))
        batches = []
        learner.validation.measure = lambda of, autocast, found=batches: found.extend(of) or {"loss": 1.0}
        learner._validate(learner.validation)
        parts.append([batch.pieces[0]["texts"] for batch in batches])
        assert bool(learner.validation.state()["weights"]) == (rank == 0)
    whole = make_learner(scene).open_held_out().batches()
    alone = [pair.text for batch in whole for pair in batch.samples]
    assert [text for batch in zip(*parts, strict=True) for part in batch for text in part] == alone
    assert {len(part) for of_worker in parts for part in of_worker} == {4}


def test_a_validation_without_pairs_and_one_that_diverges_end_the_training(scene, monkeypatch):
    learner = make_learner(scene, every=1)
    learner._held_out.source = replace(learner._held_out.source, unpack=lambda tables, epoch: iter(()))
    with pytest.raises(
        TrainingStopped, match=r"no human image is held out .* raise pretrain\.validation\.share"
    ):
        learner.train_step()
    learner = make_learner(scene, every=1)
    monkeypatch.setattr(learner.validation, "measure", lambda batches, autocast: {"loss": float("nan")})
    with pytest.raises(TrainingStopped, match=r"the validation loss is nan after step 1; lower pretrain\."):
        learner.train_step()
