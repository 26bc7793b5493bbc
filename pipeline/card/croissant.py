"""Descriptions of exports and runs as Croissant (JSON-LD), which search engines and data loaders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from msgspec.structs import replace

from capfilt.pipeline.card.facts import CardFacts
from capfilt.pipeline.rundir.contents.round_files import find_round_files
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.export.tables import IMAGE_TYPE
from capfilt.stages.storage.layout import EXPORT_DATA, candidates_folder, rounds_folder
from capfilt.stages.storage.store import FileEntry

CROISSANT = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of Croissant 1.0, as its specification has it."""


@dataclass(frozen=True)
class Described:
    """Parquet files of one schema."""

    records: str
    """Name of their rows: `images` or `candidates`."""
    files: Sequence[FileEntry]
    """With names relative to the description."""
    pattern: str
    """Pattern of their names."""
    schema: pa.Schema


def describe_export(facts: CardFacts, files: Sequence[FileEntry], schema: pa.Schema) -> dict[str, Any]:
    """The description of the Parquet files of an export, with one row per image."""
    return make_croissant(facts, Described("images", files, f"{EXPORT_DATA}/*.parquet", schema))


def describe_run(facts: CardFacts, run_dir: RunDir) -> dict[str, Any]:
    """The description of the candidates of a round, with one row per image and text; its place is the run
    directory. Rows that were dropped are among them, with `kept` false."""
    found = find_round_files(run_dir, facts.round, carried=True)
    files = [
        replace(file, name=f"{folder}/{file.name}")
        for folder in (candidates_folder(facts.round, source) for source in run_dir.config.of_kind("web"))
        for record in run_dir.ledger.records(folder)
        for file in record.files
    ]
    pattern = f"{rounds_folder(facts.round)}/*/*.parquet"
    return make_croissant(facts, Described("candidates", files, pattern, found.schema))


def make_croissant(facts: CardFacts, data: Described) -> dict[str, Any]:
    """The description of Parquet files as Croissant 1.0."""
    records = data.records
    distribution = [
        {
            "@type": "cr:FileObject",
            "@id": file.name,
            "name": file.name,
            "contentUrl": file.name,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": file.sha256,
        }
        for file in data.files
    ]
    together = {
        "@type": "cr:FileSet",
        "@id": "parquet-files",
        "name": "parquet-files",
        "encodingFormat": "application/x-parquet",
        "includes": data.pattern,
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.name,
        "description": f"Image-text pairs, bootstrapped by captioning and filtering; round {facts.round}.",
        "conformsTo": CROISSANT,
        "distribution": [*distribution, together],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": records,
                "name": records,
                "field": [_field(field, records) for field in data.schema],
            }
        ],
    }


def _field(field: pa.Field, records: str) -> dict[str, Any]:
    type_, is_list = field.type, pa.types.is_list(field.type)
    found: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"{records}/{field.name}",
        "name": field.name,
        "dataType": _data_type(type_.value_type if is_list else type_),
        "source": {"fileSet": {"@id": "parquet-files"}, "extract": {"column": field.name}},
    }
    if is_list:
        found["repeated"] = True
    if type_ == IMAGE_TYPE:
        found["source"]["transform"] = {"jsonPath": "bytes"}
    return found


def _data_type(type_: pa.DataType) -> str:
    if type_ == IMAGE_TYPE:
        return "sc:ImageObject"
    if pa.types.is_integer(type_):
        return "sc:Integer"
    if pa.types.is_floating(type_):
        return "sc:Float"
    if pa.types.is_boolean(type_):
        return "sc:Boolean"
    return "sc:Date" if pa.types.is_date(type_) else "sc:Text"
