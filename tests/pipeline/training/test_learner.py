"""The learner of the training nodes, in this process: pieces, precision, resume, divergence, want of memory."""

from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from capfilt.cluster.training.trainer import LocalTrainingStop, TrainingStopped, Worker
from capfilt.models.config import (
    AugmentConfig,
    MedConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextConfig,
    VisionConfig,
)
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.sections import ModelSection, TrainSection
from capfilt.pipeline.training import learner as training
from capfilt.pipeline.training.learner import PairLearner
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.step_log import read_steps
from tests.clean_pairs import clean_pairs

WORKER = Worker(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with 24 clean pairs as corpus shards, and a tokenizer of their words."""
    folder = tmp_path_factory.mktemp("training")
    store, shards = clean_pairs(folder)
    tokenizer = Tokenizer.train(["a red circle and a blue square next to a green star"], 120)
    tokenizer.save(folder / "tokenizer")
    return store, str(folder / "tokenizer"), shards


@pytest.fixture(autouse=True)
def blocks_without_ray(monkeypatch):
    def blocks(items, step):
        stage = step.make()
        return (stage(pa.Table.from_pylist([item])) for item in items)

    monkeypatch.setattr(training, "stream_blocks", blocks)


def spec(run, node="pretrain.0", *, losses=("itc", "itm", "lm"), queue=16, lr=1e-3, dropout=0.1, **train):
    store, tokenizer, shards = run
    text = TextConfig(width=16, depth=1, heads=2, ffn=32, max_positions=64, dropout=dropout)
    vision = VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2)
    section = {"batch_size": 8, "steps": 12, "decode_threads": 0, **train}
    return LearnerSpec(
        node=node,
        kind="pretrain",
        run=store,
        train=TrainSection(
            objective=ObjectiveConfig(losses=losses, queue_size=queue, alpha=0.4 if queue else 0.0),
            optimizer=OptimizerConfig(lr=lr, warmup_steps=2, min_lr=0.0, warmup_lr=0.0),
            augment=AugmentConfig(min_scale=0.6),
            **section,
        ),
        model=ModelSection(med=MedConfig(vision=vision, text=text, embed_dim=8)),
        start=None,
        tokenizer=tokenizer,
        shards=shards,
        round=0,
        seed=3,
        total_steps=section["steps"],
        steps_per_epoch=3,
        provenance={},
    )


def train(learner, until=None):
    rows = []
    while learner.step < (until or learner.total_steps):
        rows.append(learner.train_step()())
    learner.settle()
    return rows


def test_resumed_training_is_the_undisturbed_one(run, tmp_path):
    whole = PairLearner(spec(run, "pretrain.0"), WORKER)
    expected = train(whole)
    first = PairLearner(spec(run, "pretrain.1"), WORKER)
    train(first, until=5)
    first.save(str(tmp_path))
    train(first, until=9)  # lost: killed before the next checkpoint
    second = PairLearner(spec(run, "pretrain.1"), WORKER)
    second.load(str(tmp_path))
    assert second.step == 5
    assert train(second) == expected[5:]
    for name, tensor in whole.objective.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, second.objective.state_dict()[name]), name

    def curve(node):
        unlike = ("samples_per_second", "time")
        return [{k: v for k, v in r.items() if k not in unlike} for r in read_steps(run[0] / f"logs/{node}")]

    assert [r["step"] for r in curve("pretrain.1")] == list(range(1, 13))
    assert curve("pretrain.1") == curve("pretrain.0")


def test_pieces_of_a_batch_add_up_to_its_gradient(run):
    """LM over texts of equal length: the mean over pieces is the mean over the batch."""
    gradients = []
    for pieces in (1, 2, 4):
        learner = PairLearner(spec(run, losses=("lm",), queue=0, accumulate=pieces, dropout=0.0), WORKER)
        learner.train_step()
        batch = next(learner._loader())
        assert [len(piece["texts"]) for piece in batch.pieces] == [8 // pieces] * pieces
        for piece in batch.pieces:
            piece["texts"] = ["a red circle"] * len(piece["texts"])
        learner.med.load_state_dict(PairLearner(spec(run, dropout=0.0), WORKER).med.state_dict())
        learner._gradients(batch.pieces)
        gradients.append([p.grad.clone() for p in learner.med.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-6)


def test_pieces_of_two_workers_make_up_those_of_one(run):
    whole = next(PairLearner(spec(run, accumulate=2), WORKER)._loader())
    shares = [
        next(PairLearner(spec(run, accumulate=2), Worker(rank, 2, WORKER.device))._loader())
        for rank in (0, 1)
    ]
    for number, piece in enumerate(whole.pieces):
        parts = [share.pieces[number] for share in shares]
        assert [text for part in parts for text in part["texts"]] == piece["texts"]
        assert torch.equal(torch.cat([part["pixels"] for part in parts]), piece["pixels"])


def test_bfloat16_computes_nearly_the_same_with_float32_weights(run):
    plain, rough = (
        PairLearner(spec(run, precision=precision, dropout=0.0), WORKER)
        for precision in ("float32", "bfloat16")
    )
    one, two = train(plain, until=3), train(rough, until=3)
    assert one != two  # it is not the same arithmetic
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
    assert {p.dtype for p in rough.med.parameters()} == {torch.float32}


def test_loss_that_is_no_number_stops_the_training_with_advice(run):
    learner = PairLearner(spec(run, "pretrain.9"), WORKER)
    learner.train_step()
    with torch.no_grad():
        learner.med.text_proj.bias.fill_(float("nan"))
    learner.train_step()
    with pytest.raises(TrainingStopped, match=r"pretrain.9: the loss is nan at step 2 .*lower optimizer.lr"):
        learner.settle()


class Short:
    """Stands for an objective, or for the batches to come, whose third use finds no memory."""

    def __init__(self, whole, error):
        self.whole, self.error, self.used = whole, error, 0

    def use(self, *args, **options):
        self.used += 1
        if self.used == 3:
            raise self.error
        return self.whole(*args, **options)

    def __iter__(self):
        return self

    def __next__(self):
        return self.use()


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_out_of_memory_in_a_step_stops_the_training_with_advice(run, error):
    learner = PairLearner(spec(run, accumulate=2, precision="float32"), WORKER)
    learner.numbers.flops = 1.0  # counted by a pass of its own, which would be the first use
    learner.objective.forward = short = Short(learner.objective.forward, error).use
    learner.train_step()
    with pytest.raises(LocalTrainingStop) as verdict:
        learner.train_step()
    assert str(verdict.value) == (
        "pretrain.0: out of memory with 4 pairs at a time of the 8 pairs (pretrain.batch_size) of step 2; "
        "raise pretrain.checkpoint_layers (0 of 1; changes no result), "
        "raise pretrain.accumulate (2; ITC and ITM compare within a piece), "
        "set pretrain.precision to bfloat16, or lower pretrain.batch_size"
    )
    assert verdict.value.__cause__ is error and learner.step == 1 and short.__self__.used == 3


def test_advice_names_the_section_and_no_way_that_is_exhausted(run):
    finetuning = replace(spec(run, checkpoint_layers=1, precision="bfloat16"), kind="captioner")
    learner = PairLearner(finetuning, Worker(1, 2, WORKER.device))
    assert learner._shortage(reading=False) == (
        "pretrain.0: out of memory with 4 pairs at a time of the 8 pairs (captioner.finetune.batch_size) of "
        "step 1; raise captioner.finetune.accumulate (1; ITC and ITM compare within a piece), "
        "or lower captioner.finetune.batch_size"
    )
    assert replace(finetuning, kind="filter").section == "filter.finetune"


def test_out_of_memory_while_pairs_are_read_stops_it_too(run):
    learner = PairLearner(spec(run, decode_threads=2), WORKER)
    learner._batches = Short(learner._loader().__next__, MemoryError())
    train(learner, until=2)
    advice = r"host is out of memory while it reads the 8 pairs \(pretrain.batch_size\) of step 3; lower"
    with pytest.raises(
        LocalTrainingStop, match=rf"{advice} pretrain.window_shards \(16\) or pretrain.decode_threads"
    ):
        learner.train_step()


def test_another_error_is_no_verdict(run):
    learner = PairLearner(spec(run), WORKER)
    learner.objective.forward = Short(learner.objective.forward, RuntimeError("NCCL timed out")).use
    with pytest.raises(RuntimeError, match=r"^NCCL timed out$"):
        train(learner)


def test_batch_must_divide_among_workers_and_pieces(run):
    train_section = spec(run).train.model_dump()
    train_section |= {"batch_size": 12, "accumulate": 4, "workers": {"workers": 2}}
    with pytest.raises(ValueError, match=r"2 workers x 4 pieces .* multiples of 8"):
        TrainSection.model_validate(train_section)


def test_speed_is_told_in_samples_and_use_of_the_device(run):
    learner = PairLearner(spec(run), WORKER)
    learner.train_step()
    assert learner.speed(2.0) == {"samples_per_second": 16.0}  # a CPU's peak is in no data sheet
    learner.numbers.peak = 10 * learner.numbers.flops
    assert learner.speed(2.0)["mfu"] == pytest.approx(0.2)
