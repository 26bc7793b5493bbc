"""The nodes of the downstream tasks: reading of the data, finetuning, evaluation."""

from __future__ import annotations

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.tasks import TaskSection
from capfilt.pipeline.node import Node
from capfilt.pipeline.tasks.data import DATA
from capfilt.pipeline.tasks.evaluate import EVALUATE_TASK
from capfilt.pipeline.tasks.finetune import FINETUNE


def plan_tasks(config: Config, nodes: dict[str, Node], round_: int) -> list[str]:
    """Add the nodes of all tasks that belong to a round.

    Args:
        nodes: the nodes planned so far, among them `pretrain.<round>`.

    Returns:
        The names of the nodes that evaluate.
    """
    found = []
    for name, task in config.tasks.items():
        if round_ not in _rounds_of(config, task):
            continue
        suffix = f"{name}.{round_}" if task.checkpoint is None else name
        start = [f"pretrain.{round_}"] if task.checkpoint is None else []
        data, finetune, evaluate = f"data.{name}", f"finetune.{suffix}", f"task.{suffix}"
        nodes[data] = Node(data, DATA, 0, (), task=name)
        needs = [data, *start]
        if task.finetune is not None:
            nodes[finetune] = Node(finetune, FINETUNE, round_, (*start, data), task=name)
            needs.append(finetune)
        nodes[evaluate] = Node(evaluate, EVALUATE_TASK, round_, tuple(needs), task=name)
        found.append(evaluate)
    return found


def _rounds_of(config: Config, task: TaskSection) -> tuple[int, ...]:
    """The rounds to which a task belongs; 0 for the model before the first round."""
    if task.checkpoint is None and task.rounds is not None:
        return task.rounds
    return (0 if config.only_downloads else config.last_round,)
