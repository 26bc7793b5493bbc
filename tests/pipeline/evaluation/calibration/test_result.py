"""What a calibration has found, in words."""

from types import SimpleNamespace

import pytest

from capfilt.pipeline.console.summary import _calibration
from capfilt.pipeline.evaluation.calibration.result import Calibration, NoiseEstimate
from capfilt.pipeline.nodes.calibrate import describe_calibration

UNRELATED, DETAILS = NoiseEstimate(1900, 0.5, 0.4, 0.6), NoiseEstimate(1900, 0.05, 0.03, 0.07)


@pytest.mark.parametrize("details", [None, DETAILS])
def test_each_estimated_share_is_named(details):
    found = Calibration(UNRELATED, 0.1, keeps_matching=0.9, keeps_noise=0.1, details=details)
    noise = ", 0.050 wrong in a detail (0.030 to 0.070)" if details else ""
    assert describe_calibration(found) == (
        f"web texts: 0.500 unrelated (0.400 to 0.600){noise}, suggested threshold 0.1"
    )
    shown = _calibration(SimpleNamespace(calibration=found))[0].plain
    noise = " 0.0500 wrong in a detail (0.0300 to 0.0700)," if details else ""
    assert shown.endswith(f"web 0.5000 unrelated (0.4000 to 0.6000),{noise} from 1,900 texts")
