"""What one line says of an error that came a long way."""

from ray.exceptions import RayTaskError, UserCodeException

from capfilt.pipeline.errors import origin, root_cause
from capfilt.stages.storage.store import StoreError

TRACE = """Traceback (most recent call last):
  File "/ray/_raylet.pyx", line 1, in execute_task
  File "stages/shards/write.py", line 87, in _write_corpus
    files = [store.put(f"{name}.{ending}", data) for ending, data in corpus_files(batch)]
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`.
"""


class Failed(Exception):
    """As Ray Train's, which has the errors of the workers by rank."""

    def __init__(self, **failures):
        super().__init__("training failed on 1 worker")
        self.worker_failures = failures


def of_a_stage(cause=None):
    """As Ray Data raises it."""
    of_ray = cause or UserCodeException("UDF failed.\nTo change retry attempts, configure ...")
    return RayTaskError("MapBatches", TRACE, of_ray).as_instanceof_cause()


def test_a_stages_error_and_not_the_engines_advice():
    assert root_cause(of_a_stage()) == "OSError: [Errno 28] No space left on device"
    assert root_cause(Failed(rank_0=of_a_stage())) == "OSError: [Errno 28] No space left on device"


def test_a_line_for_the_user_is_what_it_is():
    error = StoreError("s3://b/x: cannot write it (NoSuchBucket)")
    assert origin(of_a_stage(error)) is error
    assert root_cause(of_a_stage(error)) == "StoreError: s3://b/x: cannot write it (NoSuchBucket)"


def test_the_first_of_errors_raised_from_each_other():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        assert root_cause(error) == "KeyError: 'first'"
    assert root_cause(ValueError()) == "ValueError"
    assert root_cause(ValueError("two\n\nlines")) == "ValueError: lines"
