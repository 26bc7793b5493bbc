"""The config as a tree of sections and keys."""

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import PretrainSection, SourceSection
from capfilt.pipeline.config.training import RoleSection
from capfilt.pipeline.config.tree import (
    accepts_list,
    accepts_null,
    accepts_text,
    alternatives,
    annotation_at,
    named_section_of,
    section_keys,
    section_of,
)
from capfilt.stages.fetch.config import FetchConfig
from tests.config_keys import leaf_paths


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("", Config),
        ("sources.any", SourceSection),
        ("sources.any.fetch", FetchConfig),
        ("pretrain", PretrainSection),
        ("captioner.finetune", RoleSection),
        ("run.dir", None),
        ("run.storage_options", None),
        ("run.unknown", None),
        ("run.dir.unknown", None),
    ],
)
def test_section_at_a_path(path, section):
    assert section_of(annotation_at(path.split(".") if path else [])) is section


def test_sections_have_the_keys_of_their_bases_and_of_no_class_variables():
    assert section_keys(SourceSection)[:2] == ["kind", "rows"]
    assert {"deadline_s", "backend"} <= set(section_keys(FetchConfig))
    assert "__pydantic_config__" not in section_keys(FetchConfig)
    assert section_keys(int) == section_keys(None) == []


def test_named_sections_are_mappings_to_sections():
    assert named_section_of(dict[str, SourceSection]) is SourceSection
    assert named_section_of(dict[str, Any]) is None and named_section_of(SourceSection) is None


def test_alternatives_are_without_constraints():
    assert alternatives(Annotated[int, Ge(1)] | None) == [int, type(None)]
    assert alternatives(str) == [str]


@pytest.mark.parametrize(
    ("annotation", "text", "list_", "null"),
    [
        (str, True, False, False),
        (str | None, True, False, True),
        (Literal["a", "b"], True, False, False),
        (Literal["a", 1], False, False, False),
        (str | tuple[str, ...], True, True, False),
        (tuple[str, ...] | None, False, True, True),
        (Annotated[int, Ge(1)] | None, False, False, True),
        (str | int, False, False, False),
        (dict[str, Any], False, False, False),
        (None, False, False, False),
    ],
)
def test_what_a_key_accepts(annotation, text, list_, null):
    assert (accepts_text(annotation), accepts_list(annotation), accepts_null(annotation)) == (
        text,
        list_,
        null,
    )


def test_leaf_paths_name_every_key_once():
    paths = list(leaf_paths())
    assert len(paths) == len(set(paths)) > 300
    assert {
        "run.dir",
        "sources.NAME.rows.manifest",
        "pretrain.workers.workers",
        "run.storage_options",
    } <= set(paths)
    assert not {"run", "sources", "sources.NAME.rows", "pretrain.workers"} & set(paths)
