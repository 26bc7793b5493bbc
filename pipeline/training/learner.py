"""The learner that the training nodes run: a MED, an objective, an optimizer, and the stream of pairs.

Everything random is keyed by (run seed, step, rank) or by the sample's number, so that a resumed training goes
on as if it had never stopped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial

import msgspec
import torch

from capfilt.cluster.chain.engine import Step, stream_blocks
from capfilt.cluster.training.trainer import LocalTrainingStop, Worker
from capfilt.models.checkpoints.load import (
    save_checkpoint,
)
from capfilt.models.precision import uses_bfloat16
from capfilt.models.tasks.micro_batches import is_out_of_memory
from capfilt.models.training.augment import TrainAugment
from capfilt.models.training.collectives import average_gradients
from capfilt.models.training.objectives import Objective, PairBatch
from capfilt.models.training.optimizer import build_optimizer, clip_gradient, learning_rate, set_learning_rate
from capfilt.models.training.throughput import peak_flops, training_flops
from capfilt.pipeline.training.batches import Batch, assemble, prefetch
from capfilt.pipeline.training.initial_model import start_model
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.step_metrics import StepMetrics, read_metrics
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.pairs.stream import PairStream, Position
from capfilt.stages.storage.layout import model_folder

STATE_FILE = "learner.pt"


class PairLearner:
    """Trains a MED's part on pairs; satisfies `cluster.training.trainer.Learner`."""

    def __init__(self, spec: LearnerSpec, worker: Worker) -> None:
        self.spec, self.worker = spec, worker
        self.step, self.total_steps = 0, spec.total_steps
        self.position = Position()
        torch.manual_seed(spec.seed)
        self.med, self.tokenizer = start_model(spec)
        self.size = spec.train.image_size or self.med.config.vision.image_size
        self.objective = Objective(self.med, self.tokenizer, spec.train.objective, spec.seed).to(
            worker.device
        )
        self.optimizer = build_optimizer(self.med, spec.train.optimizer)
        self.bfloat16 = uses_bfloat16(spec.train.precision, worker.device)
        self.numbers = StepMetrics(spec, worker)
        self._batches: Iterator[Batch] | None = None

    def train_step(self) -> Callable[[], dict[str, float]]:
        """One optimizer step on the next batch; the result reads its losses when called.

        Raises:
            TrainingStopped: the loss is no finite number (seen some steps later, on all workers alike).
            StoppedAlone: device or host lack memory, and would lack it in the same step again.
        """
        batch: Batch | None = None
        try:
            if self._batches is None:
                self._batches = self._loader()
            batch = next(self._batches)
            return self._step(batch)
        except Exception as error:
            if is_out_of_memory(error):
                raise LocalTrainingStop(self._shortage(reading=batch is None)) from error
            raise

    def _step(self, batch: Batch) -> Callable[[], dict[str, float]]:
        train = self.spec.train
        if self.numbers.flops is None:
            pieces = len(batch.pieces)
            with self._autocast():
                self.numbers.flops = pieces * training_flops(self.objective, batch.pieces[0])
            self.numbers.peak = peak_flops(self.worker.device, self.bfloat16)
        rate = learning_rate(train.optimizer, self.step, self.total_steps, self.spec.steps_per_epoch)
        set_learning_rate(self.optimizer, rate)
        losses = self._gradients(batch.pieces)
        losses["grad_norm"] = clip_gradient(self.med.parameters(), train.optimizer)
        self.optimizer.step()
        self.objective.update_momentum()
        self.step += 1
        self.position = batch.position
        self.numbers.add(self.step, rate, losses)
        return partial(read_metrics, losses, rate)

    def _shortage(self, *, reading: bool) -> str:
        """What there is no memory for, and which settings take less of it."""
        train, key, vision = self.spec.train, self.spec.section, self.med.config.vision
        pairs = f"the {train.batch_size:,} pairs ({key}.batch_size) of step {self.step + 1}"
        if reading:
            return (
                f"{self.spec.node}: the host is out of memory while it reads {pairs}; lower {key}.window_shards "
                f"({train.window_shards}) or {key}.decode_threads ({train.decode_threads})"
            )
        at_once = train.batch_size // (train.accumulate * self.worker.world)
        ways = [f"raise {key}.accumulate ({train.accumulate}; ITC and ITM compare within a piece)"]
        if vision.checkpoint_layers < vision.depth:
            layers = f"{vision.checkpoint_layers} of {vision.depth}"
            ways.insert(0, f"raise {key}.checkpoint_layers ({layers}; changes no result)")
        if not self.bfloat16:
            ways.append(f"set {key}.precision to bfloat16")
        return (
            f"{self.spec.node}: out of memory with {at_once:,} pairs at a time of {pairs}; {', '.join(ways)}, "
            f"or lower {key}.batch_size"
        )

    def speed(self, steps_per_second: float) -> dict[str, float]:
        """What a number of steps a second means in samples and in use of the devices."""
        return self.numbers.speed(steps_per_second)

    def save(self, folder: str) -> None:
        state = {
            "step": self.step,
            "position": asdict(self.position),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, os.path.join(folder, STATE_FILE))

    def settle(self) -> None:
        """Write the numbers of all steps so far (called on every worker, before `save` and `finish`)."""
        self.numbers.settle(flush=True)

    def load(self, folder: str) -> None:
        state = torch.load(
            os.path.join(folder, STATE_FILE), map_location=self.worker.device, weights_only=True
        )
        self.step, self.position = state["step"], Position(**state["position"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._batches = None

    def finish(self) -> None:
        """Write the checkpoint folder `models/<node>/`; provenance.json last."""
        target = self.spec.run / model_folder(self.spec.node)
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            provenance = self.spec.provenance | {"steps": self.step, "node": self.spec.node}
            save_checkpoint(folder, self.med, self.tokenizer, provenance)
            files = []
            for name in sorted(set(os.listdir(folder)) - {"provenance.json"}):
                with open(os.path.join(folder, name), "rb") as stream:
                    files.append(target.put(name, stream.read()))
            target.put_json("provenance.json", provenance | {"files": msgspec.to_builtins(files)})

    def _gradients(self, pieces: list[PairBatch]) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch in the parameters, and its losses: means over pieces and workers (the
        losses over this worker's pieces)."""
        # Dropout draws from the global generator; seeding it per step makes resume exact.
        torch.manual_seed(hash((self.spec.seed, self.step, self.worker.rank)) & 0x7FFFFFFF)
        self.objective.train()
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, torch.Tensor] = {}
        for piece in pieces:
            with self._autocast():
                losses = self.objective(piece, epoch=self.step / self.spec.steps_per_epoch)
            (losses["loss"] / len(pieces)).backward()
            for name, value in losses.items():
                part = value.detach().float() / len(pieces)
                means[name] = means[name] + part if name in means else part
        average_gradients(self.med)
        return means

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.worker.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def _loader(self) -> Iterator[Batch]:
        spec = self.spec
        step = Step(
            name="pairs",
            make=partial(
                ReadPairs,
                PairsConfig(run_dir=spec.run, round=spec.round, without_surplus=spec.without_surplus),
            ),
            kind="read",
            cpus=0.0,
        )
        stream = PairStream(
            spec.shards,
            partial(stream_blocks, step=step),
            seed=spec.seed,
            window_shards=spec.train.window_shards,
            position=replace(self.position),
        )
        augment = TrainAugment(self.size, spec.train.augment)
        batches = assemble(stream, self.step, spec, self.worker, augment)
        return prefetch(batches) if spec.train.decode_threads else batches
