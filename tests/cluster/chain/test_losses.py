"""Errors of Ray that tell of lost machines."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from capfilt.cluster.chain.losses import MachinesLost, PassEnded, losses_named

GONE = ["00" * 28, "127.0.0.1", "a call"]


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ActorUnavailableError("RPC error", b"0" * 16),
        NodeDiedError("gone"),
        ObjectLostError(*GONE),
        ObjectReconstructionFailedError(*GONE),
        WorkerCrashedError(),
    ],
)
def test_lost_machines_are_named(error):
    with pytest.raises(MachinesLost) as raised, losses_named():
        raise error
    assert isinstance(raised.value, PassEnded) and raised.value.__cause__ is error
    assert str(raised.value) == f"machines or processes were lost ({type(error).__name__})"


@pytest.mark.parametrize("error", [ValueError("a row"), OutOfMemoryError("leaks"), StopIteration()])
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as raised, losses_named():
        raise error
    assert error in (raised.value, raised.value.__cause__)


def test_a_loss_that_ray_has_wrapped_is_found():
    wrapper = RuntimeError("the execution failed")
    wrapper.__cause__ = NodeDiedError("gone")
    with pytest.raises(MachinesLost, match=r"\(NodeDiedError\)$"), losses_named():
        raise wrapper
