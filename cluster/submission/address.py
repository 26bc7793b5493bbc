"""Where jobs are submitted, and which job this process is. Imports no Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's variable for the address of a cluster's dashboard."""
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
SUBMITTED_TO = "CAPFILT_SUBMITTED_TO"
"""Variable that a submitted run has: the address to which it was submitted."""
SUBMITTED_BY = "CAPFILT_SUBMITTED_BY"
"""Variable that a submitted run has: the command that submitted it, which also resumes it."""


def default_address(environment: Mapping[str, str] = os.environ) -> str:
    """Address of a cluster's dashboard if none is given."""
    return environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def job_of_this_process(environment: Mapping[str, str] = os.environ) -> str | None:
    """Id of the Ray job of which this process is the driver; None if it is none."""
    config = environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if config is None:
        return None
    found = json.loads(config).get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)
