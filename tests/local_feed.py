"""The input of a training without Ray: windows are read and cut in this process."""

from types import SimpleNamespace

from capfilt.cluster.training import feed


class LocalWindow:
    """Stands for `cluster.training.feed.OpenedWindow`: reads for one worker alone."""

    def __init__(self, window, rank):
        read = [window.read(item) for item in window.items]
        tables = [table for table, _ in read]
        self.counts = [window.count(table) for table in tables]
        self.read_bytes = sum(size for _, size in read)
        self._parts = [window.cut(table, n, self.counts)[rank] for n, table in enumerate(tables)]

    def parts(self):
        yield from self._parts


def request_local(worker, window):
    """`pipeline.training.learner.request_window` in this process."""
    return LocalWindow(window, worker.rank)


class LocalRay:
    """Stands for the module `ray` in `cluster.training.feed`: a call is made when its result is waited for.
    `most` is the largest number of reads that were at work at a time."""

    exceptions, ObjectRef = feed.ray.exceptions, feed.ray.ObjectRef
    cloudpickle = SimpleNamespace(dumps=lambda value: value, loads=lambda value: value)

    def __init__(self):
        self.at_work, self.most = 0, 0

    def remote(self, **options):
        return lambda function: self._task(function, options)

    def _task(self, function, options):
        def call(*arguments):
            call_ = Call(self, function, arguments)
            count = options.get("num_returns", 1)
            if count == 1:
                return Reference(call_, None)
            return [Reference(call_, number) for number in range(count)]

        return SimpleNamespace(remote=call, options=lambda **others: self._task(function, options | others))

    def put(self, value):
        return value

    def get(self, reference):
        if isinstance(reference, list):
            return [self.get(each) for each in reference]
        return reference.value() if isinstance(reference, Reference) else reference

    def wait(self, references, *, num_returns, fetch_local):
        waiting = [each for each in references if not each.call.is_done]
        for reference in waiting[: num_returns - (len(references) - len(waiting))]:
            self.get(reference)


class Call:
    """One call of a task."""

    def __init__(self, ray, function, arguments):
        self.ray, self.function, self.arguments = ray, function, arguments
        self.is_done, self.result = False, None
        self.ray.at_work += function is feed._read
        self.ray.most = max(self.ray.most, self.ray.at_work)

    def run(self):
        if not self.is_done:
            arguments = [self.ray.get(argument) for argument in self.arguments]
            self.is_done = True
            self.ray.at_work -= self.function is feed._read
            self.result = self.function(*arguments)
        return self.result


class Reference:
    """A result of a call, or one of several."""

    def __init__(self, call, number):
        self.call, self.number = call, number

    def value(self):
        result = self.call.run()
        return result if self.number is None else result[self.number]


class LocalFeed:
    """Stands for `cluster.training.feed.Feed`: its actor in this process, shared by all workers."""

    def __init__(self, monkeypatch):
        self.ray = LocalRay()
        monkeypatch.setattr(feed, "ray", self.ray)
        self.cutter = feed.WindowCutter()

    def request(self, window, rank, attempt=1):
        worker = f"worker {rank} of attempt {attempt}"
        return feed.OpenedWindow(self.cutter.open(feed.Request.of(window), rank, worker))
