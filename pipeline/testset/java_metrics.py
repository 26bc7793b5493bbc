"""METEOR and SPICE by pycocoevalcap, which starts Java programs for them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pycocoevalcap
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.spice.spice import Spice

from capfilt.pipeline.evaluation.caption_metrics import split_captions

SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"
"""The file of the parser that SPICE needs and pycocoevalcap does not contain."""
SPICE_DOWNLOAD = (
    'python -c "from pycocoevalcap.spice.get_stanford_models import get_stanford_models as get; get()"'
)
JAVA_TEST_SECONDS = 60.0


def compute_java_metrics(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], list[str]]:
    """METEOR and SPICE, in percent, as far as this machine can compute them.

    Args:
        candidates, references: as for `caption_metrics.compute_caption_metrics`.

    Returns:
        {"meteor", "spice"}, and one line about each one that is absent.
    """
    java = shutil.which("java")
    if java is None:
        return {}, ["METEOR and SPICE need Java, which is not installed; the other metrics do not"]
    hypotheses, truths = split_captions(candidates, references)
    scores, notes = dict[str, float](), list[str]()
    for name, compute in (("meteor", _meteor), ("spice", _spice)):
        try:
            scores[name] = 100 * compute(truths, hypotheses)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            notes.append(f"no {name.upper()}: {_describe(error)}")
    return scores, notes


Captions = dict[str, list[str]]


def _meteor(truths: Captions, hypotheses: Captions) -> float:
    _check_java()
    return float(Meteor().compute_score(truths, hypotheses)[0])


def _spice(truths: Captions, hypotheses: Captions) -> float:
    if not (Path(pycocoevalcap.__path__[0]) / "spice" / "lib" / SPICE_MODELS).is_file():
        raise ValueError(f"its parser is not installed; download it with {SPICE_DOWNLOAD}")
    return float(Spice().compute_score(truths, hypotheses)[0])


def _check_java() -> None:
    """Raise an error if `java` does not run; a failure inside METEOR would say nothing about it."""
    subprocess.run(["java", "-version"], check=True, capture_output=True, timeout=JAVA_TEST_SECONDS)


def _describe(error: Exception) -> str:
    stderr = getattr(error, "stderr", None) or b""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1] if lines else " ".join(str(error).split())
