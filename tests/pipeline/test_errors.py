"""One line about an error that Ray and other libraries have wrapped several times."""

import traceback

import pytest
from ray.data.exceptions import SystemException
from ray.exceptions import RayTaskError, UserCodeException

from capfilt.cluster.config import ClusterError
from capfilt.models.checkpoints.files import CheckpointError
from capfilt.pipeline.errors import NodeFailed, first_error, is_user_error, quoted_user_error, root_cause
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.storage.store import StoreError

TRACE = """Traceback (most recent call last):
  File "/ray/_raylet.pyx", line 1, in execute_task
  File "stages/shards/write.py", line 87, in _write_corpus
    files = [store.put(f"{name}.{suffix}", data) for suffix, data in corpus_files(batch)]
OSError: [Errno 28] No space left on device

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`.
"""


class TrainingFailed(Exception):
    """Like Ray Train's error, which holds the errors of the workers by rank."""

    def __init__(self, **failures):
        super().__init__("training failed on 1 worker")
        self.worker_failures = failures


def stage_error(cause=None, trace=TRACE):
    """The error that Ray Data raises when a stage fails."""
    wrapped = cause or UserCodeException("UDF failed.\nTo change retry attempts, configure ...")
    return RayTaskError("MapBatches", trace, wrapped).as_instanceof_cause()


def trace_of(error):
    """The trace that Ray Data keeps of the error of a stage."""
    try:
        try:
            raise error from OSError(28, "No space left on device")
        except Exception as raised:
            raise UserCodeException("UDF failed to process a data block.") from raised
    except UserCodeException:
        return traceback.format_exc()


def test_root_cause_of_a_stage_is_the_error_of_the_stage_without_the_advice_of_ray():
    assert root_cause(stage_error()) == "OSError: [Errno 28] No space left on device"
    assert root_cause(TrainingFailed(rank_0=stage_error())) == "OSError: [Errno 28] No space left on device"


@pytest.mark.parametrize("kind", [StoreError, ManifestError, CheckpointError, ClusterError])
def test_a_user_error_that_only_the_trace_of_a_wrapper_has(kind):
    """Not what caused it: its message says more."""
    error = stage_error(trace=trace_of(kind("/x/run/a.tar: cannot write it (No space left on device); free")))
    assert not is_user_error(first_error(error))
    message = "/x/run/a.tar: cannot write it (No space left on device); free"
    for each in (error, TrainingFailed(rank_0=error)):
        assert quoted_user_error(each) == (kind.__name__, message)
        assert root_cause(each) == f"{kind.__name__}: {message}"
    assert quoted_user_error(stage_error(trace=trace_of(ValueError("a defect")))) is None
    assert root_cause(stage_error(trace=trace_of(ValueError("a defect")))).startswith("OSError: [Errno 28]")


def test_a_user_error_inside_a_wrapper_is_found_unchanged():
    error = StoreError("s3://b/x: cannot write it (NoSuchBucket)")
    assert first_error(stage_error(error)) is error
    assert root_cause(stage_error(error)) == "StoreError: s3://b/x: cannot write it (NoSuchBucket)"


def test_the_search_ends_at_a_user_error_although_it_has_a_cause():
    try:
        raise StoreError("cannot write it") from OSError("quota")
    except StoreError as error:
        assert first_error(error) is error


def test_first_of_errors_that_are_raised_from_each_other():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        assert root_cause(error) == "KeyError: 'first'"
    assert root_cause(ValueError()) == "ValueError"
    assert root_cause(ValueError("two\n\nlines")) == "ValueError: lines"


@pytest.mark.parametrize("kind", [StoreError, NodeFailed, CheckpointError, ClusterError])
def test_user_errors_are_those_of_the_program_and_not_wrappers_of_them(kind):
    class RayError(Exception):
        pass

    class Wrapper(RayError, kind):
        """Derived from two classes, as the class that Ray makes for the error of a worker."""

        def __init__(self, cause):
            super().__init__(f"a trace of many lines\n{cause}")
            self.cause = cause

    Wrapper.__module__ = "ray.exceptions"
    error = kind("one line")
    assert is_user_error(error) and not is_user_error(Wrapper(error))
    assert first_error(Wrapper(error)) is error
    assert not is_user_error(OSError("a defect"))


def test_the_wrapper_of_ray_itself_is_no_user_error():
    wrapper = stage_error(StoreError("cannot write it"))
    assert isinstance(wrapper, StoreError) and not is_user_error(wrapper)


def test_the_name_from_which_ray_data_raises_hides_no_error():
    def fail():
        raise ValueError("the cluster has no such node") from SystemException()

    with pytest.raises(ValueError) as raised:
        fail()
    assert root_cause(raised.value) == "ValueError: the cluster has no such node"
    assert first_error(raised.value) is raised.value
