"""METEOR and SPICE through a program that stands for `java`: what it is given, and failures."""

import json
import sys

import pycocoevalcap
import pytest

from capfilt.pipeline.testset import java_metrics as module
from capfilt.pipeline.testset.java_metrics import SPICE_MODELS, compute_java_metrics

CANDIDATES = {"1": "A dog.", "2": "Two cats"}
REFERENCES = {"1": ["a dog", "One dog, alone."], "2": ["cats"]}
JAVA = """#!{python}
import json, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    if "-version" in arguments:
        sys.exit({version})
    if "meteor-1.5.jar" in arguments:
        for line in sys.stdin:
            log.write(line)
            log.flush()
            parts = line.rstrip("\\n").split(" ||| ")
            if parts[0] == "SCORE":
                print(len(parts), flush=True)
            else:
                print("\\n".join(["0.5"] * len(parts[1:]) + ["0.25"]), flush=True)
    else:
        with open(arguments[arguments.index("spice-1.0.jar") + 1]) as stream:
            records = json.load(stream)
        log.write(json.dumps(records))
        result = [{{"image_id": r["image_id"], "scores": {{"All": {{"f": 0.125}}}}}} for r in records]
        with open(arguments[arguments.index("-out") + 1], "w") as stream:
            json.dump(result, stream)
"""


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Makes a program that stands for `java`; returns a function that reads what it was given."""

    def make(version=0):
        folder, log = tmp_path / "bin", tmp_path / "log"
        folder.mkdir()
        (folder / "java").write_text(JAVA.format(python=sys.executable, log=str(log), version=version))
        (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return lambda: log.read_text()

    return make


def test_meteor_scores_split_captions(java):
    given = java()
    scores, notes = compute_java_metrics(CANDIDATES, REFERENCES)
    assert scores == {"meteor": 25.0}
    assert given().splitlines() == [
        "SCORE ||| a dog ||| one dog alone ||| a dog",
        "SCORE ||| cats ||| two cats",
        "EVAL ||| 4 ||| 3",
    ]
    assert len(notes) == 1 and notes[0].startswith("no SPICE: its parser is not installed; download it with")


def test_spice_is_computed_where_its_parser_is(java, tmp_path, monkeypatch):
    given = java()
    (tmp_path / "spice/lib").mkdir(parents=True)
    (tmp_path / "spice/lib" / SPICE_MODELS).touch()
    monkeypatch.setattr(pycocoevalcap, "__path__", [str(tmp_path)])
    monkeypatch.setattr(module.Spice, "__init__", lambda self: None)  # would download the parser
    monkeypatch.setattr("pycocoevalcap.spice.spice.__file__", str(tmp_path / "spice/spice.py"))
    scores, notes = compute_java_metrics(CANDIDATES, REFERENCES)
    assert scores == {"meteor": 25.0, "spice": 12.5} and notes == []
    assert json.loads(given().splitlines()[-1]) == [
        {"image_id": "1", "test": "a dog", "refs": ["a dog", "one dog alone"]},
        {"image_id": "2", "test": "two cats", "refs": ["cats"]},
    ]


def test_without_java_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compute_java_metrics(CANDIDATES, REFERENCES) == (
        {}, ["METEOR and SPICE need Java, which is not installed; the other metrics do not"],
    )  # fmt: skip


def test_java_that_does_not_run_costs_only_its_metrics(java):
    java(version=3)
    scores, notes = compute_java_metrics(CANDIDATES, REFERENCES)
    assert scores == {} and notes[0].startswith("no METEOR: ") and "exit status 3" in notes[0]
