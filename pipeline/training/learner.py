"""The learner that training nodes run: a MED, an objective, an optimizer, and a stream of pairs.

Everything random is keyed by the seed and the step (dropout also by the rank, augmentation by the number of
the sample), so that a resumed training continues exactly as if it had not been interrupted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import msgspec
import torch

from capfilt.cluster.training.trainer import LocalTrainingStop, Worker
from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import AugmentConfig
from capfilt.models.precision import uses_bfloat16
from capfilt.models.tasks.micro_batches import is_out_of_memory
from capfilt.models.training.augment import TrainAugment
from capfilt.models.training.collectives import parallelize, without_exchange
from capfilt.models.training.objectives import Objective, PairBatch
from capfilt.models.training.optimizer import build_optimizer, clip_gradient, learning_rate, set_learning_rate
from capfilt.models.training.throughput import peak_flops, training_flops
from capfilt.pipeline.training.batches import (
    Batch,
    MakePiece,
    assemble_batches,
    divide,
    make_pairs,
    prefetch,
)
from capfilt.pipeline.training.initial_model import build_initial_model
from capfilt.pipeline.training.seeds import derive_seed
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.step_metrics import StepMetrics, read_metrics
from capfilt.pipeline.training.validation import Validation
from capfilt.stages.pairs.cut import OpenedWindow, WindowCut
from capfilt.stages.pairs.draw import DrawConfig
from capfilt.stages.pairs.order import Position
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, Part
from capfilt.stages.pairs.samples import SampleSource, pair_source
from capfilt.stages.pairs.stream import SampleStream, StreamConfig
from capfilt.stages.storage.errors import explain_disk_errors
from capfilt.stages.storage.layout import model_folder

STATE_FILE = "learner.pt"


class PairLearner:
    """Trains a MED, or the part of it that its node needs, on pairs. Implements
    `cluster.training.trainer.Learner`."""

    def __init__(self, spec: LearnerSpec, worker: Worker) -> None:
        self.spec, self.worker = spec, worker
        self.step, self.total_steps = 0, spec.total_steps
        self.position = Position()
        torch.manual_seed(spec.seed)
        self.med, self.tokenizer = build_initial_model(spec)
        self.image_size = spec.train.image_size or self.med.config.vision.image_size
        self.objective = self.build_objective().to(worker.device)
        self.parallel = parallelize(self.objective)
        self.optimizer = build_optimizer(self.med, spec.train.optimizer)
        self.bfloat16 = uses_bfloat16(spec.train.precision, worker.device)
        self.metrics = StepMetrics(spec, worker)
        self.validation: Validation | None = None
        if spec.validation is not None:
            self.validation = Validation(spec.validation, spec, worker, self.med, self.tokenizer)
            self._held_out = self.open_held_out()
        self._batches: Iterator[Batch] | None = None

    def build_objective(self) -> Objective:
        """The losses of the training, with the model in them."""
        return Objective(self.med, self.tokenizer, self.spec.train.objective, self.spec.seed)

    def train_step(self) -> Callable[[], dict[str, float]]:
        """Take one optimizer step on the next batch.

        Returns:
            A function that reads the losses of the step from the device.

        Raises:
            TrainingStopped: a loss is not finite (detected up to `workers.log_every` steps later, on all
                workers at once).
            LocalTrainingStop: the device or the host is out of memory, and would be again in the same step.
        """
        batch: Batch | None = None
        try:
            if self._batches is None:
                self._batches = self.open_batches()
            batch = next(self._batches)
            return self._step(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise LocalTrainingStop(self._out_of_memory_advice(reading=batch is None)) from error
            raise

    def _step(self, batch: Batch) -> Callable[[], dict[str, float]]:
        train = self.spec.train
        if self.metrics.step_flops is None:
            with self._autocast():
                piece_flops = training_flops(self.objective, batch.pieces[0])
            self.metrics.step_flops = len(batch.pieces) * piece_flops
            self.metrics.peak_flops = peak_flops(self.worker.device, self.bfloat16)
        lr = learning_rate(train.optimizer, self.step, self.total_steps, self.spec.steps_per_epoch)
        set_learning_rate(self.optimizer, lr)
        losses = self.compute_gradients(batch.pieces)
        losses["grad_norm"] = clip_gradient(self.med.parameters(), train.optimizer)
        self.optimizer.step()
        self.objective.update_momentum()
        self.step += 1
        self.position = batch.position
        if self.validation is not None and self.validation.is_due(self.step):
            self._validate(self.validation)
        self.metrics.add(self.step, lr, losses, batch.epoch_bytes)
        return partial(read_metrics, losses, lr)

    def _validate(self, validation: Validation) -> None:
        """Measure the model on held-out pairs. If the loss has not fallen for long, this step is the last."""
        plain = TrainAugment(self.image_size, AugmentConfig(min_scale=1.0, hflip=False, randaugment=False))
        own, make_piece = self._held_out.batches(), partial(make_pairs, plain)
        batches = assemble_batches(own, 0, self.spec, self.worker, make_piece)
        losses = validation.measure(batches, self._autocast())
        self.metrics.add_validation(self.step, losses)
        if validation.record(self.step, losses["loss"]):
            self.total_steps = self.step

    def _out_of_memory_advice(self, *, reading: bool) -> str:
        """What did not fit into memory, and which settings reduce it."""
        train, key, vision = self.spec.train, self.spec.section, self.med.config.vision
        pairs = f"the {train.batch_size:,} pairs ({key}.batch_size) of step {self.step + 1}"
        if reading:
            return (
                f"{self.spec.node}: the host is out of memory while reading {pairs}; lower "
                f"{key}.window_shards ({train.window_shards}) "
                f"or {key}.decode_threads ({train.decode_threads})"
            )
        at_once = train.batch_size // (train.accumulate * self.worker.world_size)
        remedies = [f"raise {key}.accumulate ({train.accumulate}; ITC and ITM compare within a piece)"]
        if vision.checkpoint_layers < vision.depth:
            layers = f"{vision.checkpoint_layers} of {vision.depth}"
            remedies.insert(0, f"raise {key}.checkpoint_layers ({layers}; does not change the result)")
        if not self.bfloat16:
            remedies.append(f"set {key}.precision to bfloat16")
        return (
            f"{self.spec.node}: out of memory with {at_once:,} pairs at a time of {pairs}; "
            f"{', '.join(remedies)}, or lower {key}.batch_size"
        )

    def throughput(self, steps_per_second: float) -> dict[str, float]:
        """The speed in samples per second and, where it is known, as utilization of the devices; and what was
        read for a worker in the epoch, in MB."""
        return self.metrics.throughput(steps_per_second) | {"epoch_read_mb": self.metrics.epoch_read_mb}

    def flush_metrics(self) -> None:
        """Write the metrics of all steps so far (called on every worker, before `save` and `finish`)."""
        self.metrics.log_pending(flush=True)

    def save(self, folder: str) -> None:
        """Write the state of the training."""
        state = {
            "step": self.step,
            "position": asdict(self.position),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.validation is not None:
            state["validation"] = self.validation.state()
        path = os.path.join(folder, STATE_FILE)
        with explain_disk_errors(path), open(path, "wb") as stream:  # given a path, torch hides the cause
            torch.save(state, stream)

    def load(self, folder: str) -> None:
        """Restore the state of the training."""
        path = os.path.join(folder, STATE_FILE)
        state = torch.load(path, map_location=self.worker.device, weights_only=True)
        self.step, self.position = state["step"], Position(**state["position"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.validation is not None:
            self.validation.load_state(state["validation"])
        self._batches = None

    def finish(self) -> None:
        """Write the checkpoint folder `models/<node>/`; provenance.json, which makes it count, comes last."""
        target = self.spec.run_dir / model_folder(self.spec.node)
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            provenance = self.spec.provenance | {"steps": self.step, "node": self.spec.node}
            if self.validation is not None:
                self.validation.restore_best()
                provenance["validation"] = self.validation.result(self._held_out.samples)
            save_checkpoint(folder, self.med, self.tokenizer, provenance)
            files = []
            for name in sorted(set(os.listdir(folder)) - {"provenance.json"}):
                with open(os.path.join(folder, name), "rb") as stream:
                    files.append(target.put(name, stream.read()))
            target.put_json("provenance.json", provenance | {"files": msgspec.to_builtins(files)})

    def compute_gradients(self, pieces: list[PairBatch]) -> dict[str, torch.Tensor]:
        """Set the parameters' gradients to the mean over pieces and workers.

        Returns:
            Losses by name, 0-dim, as means over this worker's pieces.
        """
        # Dropout draws from the global generator; seeding it at each step makes a resumed training exact.
        torch.manual_seed(derive_seed(self.spec.seed, "dropout", self.step, self.worker.rank))
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, torch.Tensor] = {}
        for number, piece in enumerate(pieces, start=1):
            # Workers exchange the gradients of all pieces together, during the last backward pass.
            with without_exchange(self.parallel, number < len(pieces)):
                with self._autocast():
                    losses = self.parallel(piece, epoch=self.step / self.spec.steps_per_epoch)
                (losses["loss"] / len(pieces)).backward()
            for name, value in losses.items():
                part = value.detach().float() / len(pieces)
                means[name] = means[name] + part if name in means else part
        return means

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def open_batches(self) -> Iterator[Batch]:
        """This worker's part of each global batch, from the current step and position on."""
        augment = TrainAugment(self.image_size, self.spec.train.augment)
        first = self.step * self.spec.train.batch_size
        own = self.open_stream().batches(self.position, first)
        batches = assemble_batches(own, self.step, self.spec, self.worker, self.piece_maker(augment))
        return prefetch(batches) if self.spec.train.decode_threads else batches

    def piece_maker(self, augment: TrainAugment) -> MakePiece:
        """What makes pieces of batches from the samples of the stream."""
        return partial(make_pairs, augment)

    def open_stream(self) -> SampleStream:
        """This worker's samples of the training, without end."""
        return self._stream(self.spec.shards, self.training_source())

    def open_held_out(self) -> SampleStream:
        """This worker's samples of the held-out pairs."""
        human = tuple(ref for ref in self.spec.shards if ref.kind == "human")
        draw = DrawConfig(seed=self.spec.seed)
        return self._stream(human, pair_source("validation", self._pairs("validation"), draw), once=True)

    def training_source(self) -> SampleSource:
        """Where the samples come from."""
        spec = self.spec
        draw = DrawConfig(seed=spec.seed, per_image=spec.per_image, sentences=spec.sentences)
        return pair_source("training", self._pairs("training"), draw)

    def _pairs(self, part: Part) -> PairsConfig:
        """Which texts are read."""
        spec = self.spec
        return PairsConfig(
            run_dir=spec.run_dir,
            round=spec.round,
            verdicts=spec.verdicts,
            verdict_set=spec.verdict_set,
            min_itc=spec.min_itc,
            weights=spec.weights,
            per_image=spec.per_image,
            without_surplus=spec.without_surplus,
            hold_out=spec.hold_out,
            validation=0.0 if spec.validation is None else spec.validation.share,
            part=part,
        )

    def _stream(
        self, shards: tuple[ShardRef, ...], source: SampleSource, *, once: bool = False
    ) -> SampleStream:
        config = StreamConfig(
            seed=self.spec.seed,
            window_shards=self.spec.train.window_shards,
            division=divide(self.spec, self.worker),
            once=once,
        )
        return SampleStream(shards, source, partial(request_window, self.worker), config)


def request_window(worker: Worker, window: WindowCut) -> OpenedWindow:
    """Ask for a worker's part of a window, without waiting for it."""
    assert worker.feed is not None, "`cluster.training.trainer.fit` gives every worker a feed"
    return worker.feed.request(window, worker.rank)
