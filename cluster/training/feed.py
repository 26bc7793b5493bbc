"""Reads the input of a training once for all of its workers.

One actor per training answers the workers' requests for windows of the input (`Window`): it has the items of
a window read by tasks, and each item cut into one part per worker. A worker fetches its own parts only. The
actor handles references, never data. Whatever it answers is a function of the request, so workers that start
again at an earlier window, also with another actor, receive the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

READERS = 2
"""Items that are read at a time for each worker. The tasks request no CPU: if the workers of a training hold
every CPU of the cluster, a reader that waited for one would block them all."""
MAX_RETRIES = 3
"""Retries of a task whose process died; then the training worker fails. Ray's default is unlimited."""
MAX_RESTARTS = 20
"""Restarts of the actor. Ray's default is none."""
MAX_OPEN = 64
"""Windows that wait for workers to ask for their parts. Workers are a few batches apart, which is one window
unless windows are smaller than batches. Whoever asks for a window that was dropped has it read again."""


class Window(Protocol):
    """Items that are read for one request, and how their content is divided among the workers."""

    @property
    def key(self) -> Hashable:
        """Equal for windows with equal parts."""

    @property
    def workers(self) -> int:
        """Number of workers, each of which asks once."""

    @property
    def items(self) -> Sequence[Any]: ...

    @property
    def is_kept(self) -> bool:
        """Whether what is read is kept for further windows."""

    def item_key(self, item: Any) -> Hashable:
        """Equal for items with equal content."""

    def read(self, item: Any) -> tuple[Any, int]:
        """The content of an item, and the bytes that were read for it. Like all that follow, it runs in a
        process of its own."""

    def count(self, content: Any) -> int:
        """The samples of an item."""

    def cut(self, content: Any, number: int, counts: Sequence[int]) -> list[bytes]:
        """The part of each worker of item `number`; `counts` are the samples of all items."""


@dataclass(frozen=True)
class Request:
    """A window as the actor receives it: pickled, because unpickling imports what the tasks need."""

    key: Hashable
    workers: int
    item_keys: tuple[Hashable, ...]
    is_kept: bool
    window: bytes

    @classmethod
    def of(cls, window: Window) -> Request:
        """The request for a window."""
        keys = tuple(window.item_key(item) for item in window.items)
        return cls(window.key, window.workers, keys, window.is_kept, ray.cloudpickle.dumps(window))


class OpenedWindow:
    """One worker's part of a window.

    Raises (all methods):
        ray.exceptions.RayTaskError: an item cannot be read. Training never skips data.
    """

    def __init__(self, answer: ray.ObjectRef) -> None:
        self._pending = answer

    @cached_property
    def _answer(self) -> tuple[list[int], int, list[ray.ObjectRef]]:
        answer: tuple[list[int], int, list[ray.ObjectRef]] = ray.get(self._pending)
        return answer

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each item; waits until all are read."""
        return self._answer[0]

    @property
    def read_bytes(self) -> int:
        """Bytes that were read for all workers; waits likewise."""
        return self._answer[1]

    def parts(self) -> Iterator[bytes]:
        """The worker's part of each item. Each is dropped from the object store once it is fetched."""
        waiting = self._answer[2]
        while waiting:
            yield ray.get(waiting.pop(0))


class Feed:
    """Handle to the actor of a training; picklable. Made by the driver, which closes it at the end."""

    def __init__(self) -> None:
        # Placed on the driver's node, so that it does not die with the node of a worker.
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(num_cpus=0, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RETRIES)(WindowCutter)
        self._actor = actor.options(scheduling_strategy=node).remote()

    def request(self, window: Window, rank: int) -> OpenedWindow:
        """Ask for a worker's part of a window, without waiting for it."""
        worker = ray.get_runtime_context().get_worker_id()
        return OpenedWindow(self._actor.open.remote(Request.of(window), rank, worker))

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)


@dataclass
class _Entry:
    """A window that is cut."""

    counts: list[int]
    read_bytes: int
    parts: list[list[ray.ObjectRef]]
    """Of each item those of the workers."""
    taken: set[int] = field(default_factory=set)
    """Ranks of the workers that have asked."""


class WindowCutter:
    """The actor: opens windows one at a time."""

    def __init__(self) -> None:
        options = {"num_cpus": 0, "max_retries": MAX_RETRIES}
        self._read = ray.remote(**options, num_returns=2, scheduling_strategy="SPREAD")(_read)
        self._count = ray.remote(**options)(_count)
        self._cut = ray.remote(**options)(_cut)
        self._open: dict[Hashable, _Entry] = {}
        self._kept: dict[Hashable, ray.ObjectRef] = {}
        self._workers: dict[int, str] = {}
        """Rank → id of the worker process."""

    def open(self, request: Request, rank: int, worker: str) -> tuple[list[int], int, list[ray.ObjectRef]]:
        """Samples of each item, bytes read for all workers, and references to the parts of one worker.

        Args:
            rank: of the worker.
            worker: id of its process.
        """
        if self._workers.get(rank, worker) != worker:  # all workers were started again
            self._open.clear()
            self._workers.clear()
        self._workers[rank] = worker
        entry = self._open.get(request.key)
        if entry is None or rank in entry.taken:  # a worker that asks again begins again
            self._open.pop(request.key, None)
            entry = self._open[request.key] = self._start(request)
        entry.taken.add(rank)
        if len(entry.taken) == request.workers:
            del self._open[request.key]
        while len(self._open) > MAX_OPEN:
            del self._open[next(iter(self._open))]
        return entry.counts, entry.read_bytes, [of_item[rank] for of_item in entry.parts]

    def _start(self, request: Request) -> _Entry:
        """Read the items of a window, and cut them."""
        window, limit = ray.put(request.window), READERS * request.workers
        contents: list[ray.ObjectRef] = []
        sizes: list[ray.ObjectRef] = []
        counts: list[ray.ObjectRef] = []
        for number, key in enumerate(request.item_keys):
            _wait_for_room(counts, limit)
            content = self._kept.get(key)
            if content is None:
                content, size = self._read.remote(window, number)
                sizes.append(size)
            if request.is_kept:
                self._kept[key] = content
            contents.append(content)
            counts.append(self._count.remote(window, content))
        counted = _get(counts)
        parts: list[list[ray.ObjectRef]] = []
        cut = self._cut.options(num_returns=request.workers)
        for number, content in enumerate(contents):
            _wait_for_room([of_item[0] for of_item in parts], limit)
            made = cut.remote(window, content, number, counted)
            parts.append(made if request.workers > 1 else [made])
        return _Entry(counted, sum(_get(sizes)), parts)


def _wait_for_room(references: list[ray.ObjectRef], limit: int) -> None:
    """Wait until fewer than `limit` of the tasks that make these objects are at work."""
    if len(references) >= limit:
        ray.wait(references, num_returns=len(references) - limit + 1, fetch_local=False)


def _get(references: list[ray.ObjectRef]) -> list[Any]:
    """The values.

    Raises:
        Exception: of a task, as the task has raised it.
    """
    try:
        values: list[Any] = ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None
    return values


def _read(window: bytes, number: int) -> tuple[Any, int]:
    loaded = _load(window)
    return loaded.read(loaded.items[number])


def _count(window: bytes, content: Any) -> int:
    return _load(window).count(content)


def _cut(window: bytes, content: Any, number: int, counts: list[int]) -> Any:
    parts = _load(window).cut(content, number, counts)
    return parts if len(parts) > 1 else parts[0]


def _load(window: bytes) -> Window:
    loaded: Window = ray.cloudpickle.loads(window)
    return loaded
