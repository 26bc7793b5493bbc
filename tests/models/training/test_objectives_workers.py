"""Two workers with half a batch each train like one worker with the whole batch, also piece by piece."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from capfilt.models.config import ObjectiveConfig
from capfilt.models.training.collectives import parallelize, without_exchange
from capfilt.models.training.objectives import Objective
from tests.models.training.objective_cases import IMAGE_IDS, TEXTS, make_batch, make_med, make_tokenizer

STEPS = 5
CONFIGS = {
    "queue": ObjectiveConfig(queue_size=10, negative_all_rank=True, alpha_ramp_epochs=1.0),
    "in_batch": ObjectiveConfig(queue_size=0, alpha=0.0, negative_all_rank=True),
    "own_batch": ObjectiveConfig(queue_size=0, alpha=0.0, contrast_all_workers=False, losses=("itc",)),
}
CONFIGS["accumulated"] = CONFIGS["queue"]
PIECES = {"accumulated": 3}
"""Pieces of gradient accumulation; 1 for the other names."""
# The order of sums differs; five SGD steps amplify the float32 rounding to about 1e-5.
TOLERANCE = 1e-4


def train(name: str, rank: int, workers: int) -> dict[str, list[float]]:
    """The values of each loss in each step, on this worker's share of the pairs."""
    tokenizer = make_tokenizer()
    objective = Objective(make_med(tokenizer), tokenizer, CONFIGS[name], seed=3).train()
    parallel = parallelize(objective)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.02)
    pieces = PIECES.get(name, 1)
    size = 6 // (pieces * workers)
    history: dict[str, list[float]] = {}
    for step in range(STEPS):
        whole = make_batch(TEXTS, IMAGE_IDS, seed=step)
        optimizer.zero_grad()
        losses: dict[str, float] = {}
        for number in range(pieces):
            first = (number * workers + rank) * size
            piece = {key: values[first : first + size] for key, values in whole.items()}
            with without_exchange(parallel, number < pieces - 1):
                got = parallel(piece, epoch=step / 4)
                (got["loss"] / pieces).backward()
            losses = {key: losses.get(key, 0.0) + value.item() / pieces for key, value in got.items()}
        optimizer.step()
        objective.update_momentum()
        for key, value in losses.items():
            history.setdefault(key, []).append(value)
    return history


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: train(name, rank, 2) for name in CONFIGS}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("workers")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ["queue", "in_batch", "accumulated"])
def test_losses_of_two_workers_average_to_those_of_one(histories: list[dict], name: str) -> None:
    single = train(name, 0, 1)
    for loss, values in single.items():
        both = [sum(pair) / 2 for pair in zip(*(history[name][loss] for history in histories), strict=True)]
        assert both == pytest.approx(values, rel=TOLERANCE), loss


def test_without_contrast_across_workers_each_uses_only_its_own_half(histories: list[dict]) -> None:
    tokenizer = make_tokenizer()
    whole = make_batch(TEXTS, IMAGE_IDS, seed=0)
    for rank, history in enumerate(histories):
        half = {key: values[3 * rank : 3 * rank + 3] for key, values in whole.items()}
        expected = Objective(make_med(tokenizer), tokenizer, CONFIGS["own_batch"])(half)["itc"].item()
        assert history["own_batch"]["itc"][0] == pytest.approx(expected, rel=TOLERANCE)
