"""Configs of any text: a `ConfigError` of lines that name the file or the key, or a config; what is a string
arrives as it was written."""

import json

import pytest
import yaml

from capfilt.pipeline.config.load import ConfigError, apply_override, load_config, parse_config
from capfilt.pipeline.config.schema import Config
from tests.properties import damage, draws, numbers_of_cases, phrase, text

TOKENS = (
    "run:",
    "\n",
    "  ",
    "dir: x",
    "sources:",
    "web: {kind: web}",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "&a ",
    "*a",
)
TOKENS += (
    "!!int x",
    "!!timestamp x",
    "!!binary é",
    "!!python/name:os.system ",
    "2024-13-45",
    "0x_",
    "1:99",
    "<<: ",
)
TOKENS += (
    "? [a]",
    "|",
    ">",
    "'",
    '"',
    "# c",
    "...",
    "---",
    "%YAML 9",
    "~",
    "yes",
    "1e400",
    ".nan",
    "\t",
    "\0",
)
GOOD = b"""
run: {dir: run, seed: 3}
sources: {web: {kind: web, rows: {manifest: m.csv}}}
captioner: {checkpoint: c}
filter: {checkpoint: f, judge: {threshold: 0.4}}
"""
PATHS = (
    "run.dir",
    "run.seed",
    "run.rounds",
    "sources.web.kind",
    "sources.web.rows.manifest",
    "fetch.max_bytes",
)
PATHS += (
    "sources.web.rows.columns",
    "filter.judge.threshold",
    "fetch.allow_private",
    "fetch.blocked",
    "run.nothing",
)
PATHS += (
    "cluster.address",
    "duplicates.policy",
    "captioner.generate.sampling.top_p",
    "run.storage_options.key",
)
VALUES = (
    None,
    True,
    -1,
    0,
    7,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    ["a"],
    [[]],
    {},
    {"a": 1},
    {1: 2},
)


def check_error(error, start=""):
    lines = str(error).splitlines()
    assert lines and all(line.startswith(start) for line in lines), lines


@numbers_of_cases
def test_files_of_any_text_are_configs_or_errors(count, tmp_path):
    file = tmp_path / "c.yaml"
    for rng in draws("config file", count):
        data = damage(rng, GOOD) if rng.random() < 0.5 else phrase(rng, TOKENS, 16).encode()
        file.write_bytes(data)
        try:
            assert isinstance(load_config(file), Config)
        except ConfigError as error:
            check_error(error, str(file))


@numbers_of_cases
def test_overrides_of_any_text_are_set_or_errors(count):
    for rng in draws("overrides", count):
        written = phrase(rng, (*TOKENS, *PATHS, "=", "="), 6)
        data = yaml.safe_load(GOOD)
        try:
            apply_override(data, written)
        except ConfigError as error:
            check_error(error, "--set ")


@numbers_of_cases
def test_values_of_any_type_are_accepted_or_named(count):
    for rng in draws("values", count):
        data = yaml.safe_load(GOOD)
        path = rng.choice(PATHS)
        *parents, last = path.split(".")
        section = data
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = rng.choice(VALUES)
        try:
            assert isinstance(parse_config(data, "c.yaml"), Config)
        except ConfigError as error:
            check_error(error, "c.yaml: ")


@numbers_of_cases
def test_text_of_a_string_key_is_taken_as_given(count):
    for rng in draws("strings", count):
        value, data = "x" + text(rng), {}
        apply_override(data, f"run.dir={value}")
        apply_override(data, f"captioner.checkpoint={value}")
        assert data == {"run": {"dir": value}, "captioner": {"checkpoint": value}}


@numbers_of_cases
def test_other_values_are_read_as_yaml(count):
    for rng in draws("yaml values", count):
        value = rng.choice([rng.randrange(-9, 10**6), round(rng.random(), 6), True, False])
        data = {}
        apply_override(data, f"filter.judge.threshold={json.dumps(value)}")
        assert data["filter"]["judge"]["threshold"] == pytest.approx(value)
