"""The learner in this process: pieces, precision, resume, divergence, lack of memory."""

from dataclasses import replace

import pytest
import torch

from capfilt.cluster.training.trainer import LocalTrainingStop, TrainingStopped, Worker
from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.pipeline.config.training import TrainSection
from capfilt.pipeline.training.build import build_learner
from capfilt.pipeline.training.learner import PairLearner
from tests.pipeline.training.training_scene import WORKER
from tests.step_logs import read_steps


def train(learner, until=None):
    rows = []
    while learner.step < (until or learner.total_steps):
        rows.append(learner.train_step()())
    learner.flush_metrics()
    return rows


def logged_curve(scene, node):
    """The log of a training without what differs from run to run."""
    varying = ("samples_per_second", "time", "epoch_read_mb", "epoch_received_mb")
    rows = read_steps(scene.run_dir / f"logs/{node}")
    return [{k: v for k, v in row.items() if k not in varying} for row in rows]


def test_a_resumed_training_equals_an_uninterrupted_one(scene, tmp_path):
    whole = PairLearner(scene.spec("pretrain.0"), WORKER)
    expected = train(whole)
    first = PairLearner(scene.spec("pretrain.1"), WORKER)
    train(first, until=5)
    first.save(str(tmp_path))
    train(first, until=9)  # lost: killed before the next checkpoint
    second = PairLearner(scene.spec("pretrain.1"), WORKER)
    second.load(str(tmp_path))
    assert second.step == 5
    assert train(second) == expected[5:]
    for name, tensor in whole.objective.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(tensor, second.objective.state_dict()[name]), name
    assert [r["step"] for r in logged_curve(scene, "pretrain.1")] == list(range(1, 13))
    assert logged_curve(scene, "pretrain.1") == logged_curve(scene, "pretrain.0")


def test_a_load_restarts_the_stream_at_the_checkpoint(scene, tmp_path):
    """Also in a learner that has already read further."""
    learner = PairLearner(scene.spec(), WORKER)
    train(learner, until=2)
    learner.save(str(tmp_path))
    after = train(learner, until=4)[-2:]
    learner.load(str(tmp_path))
    assert train(learner, until=4) == after


def test_the_result_is_a_checkpoint_of_the_trained_weights(scene):
    learner = build_learner(scene.spec("pretrain.5"), WORKER)
    train(learner, until=2)
    learner.finish()
    folder = scene.run_dir / "models/pretrain.5"
    med, _, info = load_checkpoint(folder.path(""), parts="pretrain")
    for name, tensor in learner.med.state_dict().items():
        assert torch.equal(tensor, med.state_dict()[name]), name
    provenance = folder.read_json("provenance.json")
    assert (provenance["steps"], provenance["node"]) == (2, "pretrain.5")
    assert {file["name"] for file in provenance["files"]} >= {"model.safetensors", "config.json"}
    assert info.provenance["steps"] == 2


def test_pieces_of_a_batch_add_up_to_its_gradient(scene):
    """LM over texts of equal length: the mean over pieces is the mean over the batch."""
    gradients = []
    for pieces in (1, 2, 4):
        spec = scene.spec(losses=("lm",), queue=0, accumulate=pieces, dropout=0.0)
        learner = PairLearner(spec, WORKER)
        learner.train_step()
        batch = next(learner.open_batches())
        assert [len(piece["texts"]) for piece in batch.pieces] == [8 // pieces] * pieces
        for piece in batch.pieces:
            piece["texts"] = ["a red circle"] * len(piece["texts"])
        learner.med.load_state_dict(PairLearner(scene.spec(dropout=0.0), WORKER).med.state_dict())
        learner.compute_gradients(batch.pieces)
        gradients.append([p.grad.clone() for p in learner.med.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-6)


def test_dropout_depends_on_seed_step_and_rank_only(scene):
    pieces = next(PairLearner(scene.spec(), WORKER).open_batches()).pieces
    learner = PairLearner(scene.spec(losses=("lm",), queue=0), WORKER)

    def loss(step, rank, seed):
        learner.step, learner.spec = step, replace(learner.spec, seed=seed)
        learner.worker = replace(WORKER, rank=rank)
        return float(learner.compute_gradients(pieces)["loss"])

    torch.manual_seed(1)
    first = loss(0, 0, 3)
    others = [loss(1, 0, 3), loss(0, 1, 3), loss(0, 0, 4)]
    assert len({first, *others}) == 4
    torch.manual_seed(2)
    assert loss(0, 0, 3) == first


def test_bfloat16_computes_nearly_the_same_with_float32_weights(scene):
    exact, reduced = (
        PairLearner(scene.spec(precision=precision, dropout=0.0), WORKER)
        for precision in ("float32", "bfloat16")
    )
    one, two = train(exact, until=3), train(reduced, until=3)
    assert one != two  # it is not the same arithmetic
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
    assert {p.dtype for p in reduced.med.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_training_with_advice(scene):
    learner = PairLearner(scene.spec("pretrain.9"), WORKER)
    learner.train_step()
    with torch.no_grad():
        learner.med.text_proj.bias.fill_(float("nan"))
    learner.train_step()
    message = r"pretrain.9: the loss is nan at step 2 .*lower pretrain.optimizer.lr"
    with pytest.raises(TrainingStopped, match=message):
        learner.flush_metrics()


class FailsOnThirdUse:
    """Wraps a function or an iterator's `next`."""

    def __init__(self, function, error):
        self.function, self.error, self.uses = function, error, 0

    def use(self, *args, **options):
        self.uses += 1
        if self.uses == 3:
            raise self.error
        return self.function(*args, **options)

    def __iter__(self):
        return self

    def __next__(self):
        return self.use()


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_in_a_step_stops_the_training_with_advice(scene, error):
    learner = PairLearner(scene.spec(accumulate=2, precision="float32"), WORKER)
    learner.metrics.step_flops = 1.0  # otherwise counted by a forward pass, which would be the first use
    learner.objective.forward = wrapped = FailsOnThirdUse(learner.objective.forward, error).use
    learner.train_step()
    with pytest.raises(LocalTrainingStop) as stop:
        learner.train_step()
    assert str(stop.value) == (
        "pretrain.0: out of memory with 4 pairs at a time of the 8 pairs (pretrain.batch_size) of step 2; "
        "raise pretrain.checkpoint_layers (0 of 1; does not change the result), "
        "raise pretrain.accumulate (2; ITC and ITM compare within a piece), "
        "set pretrain.precision to bfloat16, or lower pretrain.batch_size"
    )
    assert stop.value.__cause__ is error and learner.step == 1 and wrapped.__self__.uses == 3


def test_advice_names_the_section_and_omits_exhausted_settings(scene):
    finetuning = replace(scene.spec(checkpoint_layers=1, precision="bfloat16"), kind="captioner")
    learner = PairLearner(finetuning, Worker(1, 2, WORKER.device))
    assert learner._out_of_memory_advice(reading=False) == (
        "pretrain.0: out of memory with 4 pairs at a time of the 8 pairs (captioner.finetune.batch_size) of "
        "step 1; raise captioner.finetune.accumulate (1; ITC and ITM compare within a piece), "
        "or lower captioner.finetune.batch_size"
    )
    assert replace(finetuning, kind="filter").section == "filter.finetune"


def test_out_of_memory_while_reading_pairs_stops_the_training_too(scene):
    learner = PairLearner(scene.spec(decode_threads=2), WORKER)
    learner._batches = FailsOnThirdUse(learner.open_batches().__next__, MemoryError())
    train(learner, until=2)
    advice = r"host is out of memory while reading the 8 pairs \(pretrain.batch_size\) of step 3; lower"
    with pytest.raises(
        LocalTrainingStop, match=rf"{advice} pretrain.window_shards \(16\) or pretrain.decode_threads \(2\)$"
    ):
        learner.train_step()


def test_any_other_error_is_raised_as_it_is(scene):
    learner = PairLearner(scene.spec(), WORKER)
    learner.objective.forward = FailsOnThirdUse(learner.objective.forward, RuntimeError("NCCL timed out")).use
    with pytest.raises(RuntimeError, match=r"^NCCL timed out$"):
        train(learner)


def test_a_batch_must_divide_among_workers_and_pieces(scene):
    train_section = scene.spec().train.model_dump()
    train_section |= {"batch_size": 12, "accumulate": 4, "workers": {"workers": 2}}
    with pytest.raises(ValueError, match=r"2 workers x 4 pieces .* multiples of 8"):
        TrainSection.model_validate(train_section)


def test_throughput_is_given_in_samples_and_utilization(scene):
    learner = PairLearner(scene.spec(accumulate=2), WORKER)
    learner.train_step()
    found = learner.throughput(2.0)
    assert found.pop("epoch_read_mb") > 0
    assert found == {"samples_per_second": 16.0}  # no data sheet gives the peak of a CPU
    learner.metrics.peak_flops = 10 * learner.metrics.step_flops
    assert learner.throughput(2.0)["mfu"] == pytest.approx(0.2)


def test_the_operations_of_a_step_are_those_of_all_its_pieces(scene):
    def step_flops(pieces):
        spec = scene.spec(losses=("lm",), queue=0, accumulate=pieces)
        learner = PairLearner(spec, WORKER)
        learner.train_step()
        return learner.metrics.step_flops

    # Texts are padded per piece, so four pieces need somewhat less; a single piece would need about a
    # quarter.
    assert 0.5 < step_flops(4) / step_flops(1) <= 1.0


def test_a_shared_finetuning_makes_a_model_that_is_captioner_and_filter(scene):
    first = build_learner(scene.spec("pretrain.7"), WORKER)
    train(first, until=1)
    first.finish()
    start = scene.run_dir.address("models/pretrain.7")
    spec = replace(scene.spec("shared.7"), kind="shared", start=start, tokenizer="")
    assert spec.section == "filter.finetune"
    learner = build_learner(spec, WORKER)
    assert {"itc", "itm", "lm"} <= set(train(learner, until=2)[-1])
    learner.finish()
    folder = scene.run_dir.address("models/shared.7")
    for parts in ("captioner", "filter"):
        med, _, _ = load_checkpoint(folder, parts=parts)
        assert med.config.parts == parts


def test_weights_of_pairs_reach_the_stream(scene):
    """24 pairs in batches of 8: with weight 2 an epoch has six batches, with 0.5 one and a half."""

    def batches_of_two_epochs(weight):
        learner = PairLearner(replace(scene.spec(), weights={"human": weight}), WORKER)
        found, batches = 0, learner.open_batches()
        while next(batches).position.epoch < 2:
            found += 1
        return found

    assert [batches_of_two_epochs(weight) for weight in (0.5, 1, 2)] == [3, 6, 12]
