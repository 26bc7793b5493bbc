"""The node that finds the image of each caption from elsewhere, before captions are judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.foreign.inputs import captions_of
from capfilt.pipeline.node import Node, NodeKind, NodeResult
from capfilt.pipeline.rundir.cutting import cut_manifest
from capfilt.stages.carried.fields import output_name
from capfilt.stages.manifest.index import Index
from capfilt.stages.storage.layout import (
    CAPTIONS_PARTS,
    CAPTIONS_RECORD,
    INDEX_PARTS,
    UNMATCHED_PARTS,
    captions_folder,
    corpus_folder,
    index_folder,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.stages.foreign.join import Joined
    from capfilt.stages.foreign.pairs import ForeignCaptions


def _outputs(node: Node) -> list[str]:
    folders = map(captions_folder, node.sources)
    return [
        place for each in folders for place in (each, f"{each}/{CAPTIONS_PARTS}", f"{each}/{UNMATCHED_PARTS}")
    ]


def _required_files(node: Node) -> list[str]:
    return [f"{captions_folder(source)}/{CAPTIONS_RECORD}" for source in node.sources]


def _inputs(fingerprints: Fingerprints, node: Node) -> dict[str, Any]:
    config = fingerprints.config
    data = to_json_data(config)["candidates"]
    return {
        "candidates": {
            name: {k: v for k, v in section.items() if k != "storage_options"}
            for name, section in data.items()
        },
        "sources": {source: {"rows": fingerprints.corpus_inputs(source)["rows"]} for source in node.sources},
    }


def run_join(context: RunContext, node: Node) -> NodeResult:
    """Join the captions from elsewhere to the images of each source."""
    from capfilt.stages.foreign.join import join_captions  # imports duckdb

    counts: dict[str, Any] = {}
    for source in node.sources:
        context.progress.describe(node.name, f"cutting the manifest of {source} into shards")
        index = cut_manifest(context.run_dir, source)
        context.progress.describe(node.name, f"finding the images of {source} that captions belong to")
        captions = captions_of(context.config, source)
        out = context.store / captions_folder(source)
        joined = join_captions(captions, lambda each, i=index: _places(context, each, i), out)  # type: ignore[misc]
        _tell(context, node, source, joined)
        counts |= {name: _as_dict(each) for name, each in joined.counts.items()}
    summary = ", ".join(
        f"{name}: {each['joined']:,} of {each['captions']:,}" for name, each in counts.items()
    )
    return NodeResult(f"captions with an image: {summary}", tuple(node.outputs), {"captions": counts})


def _places(context: RunContext, captions: ForeignCaptions, index: Index) -> Iterator[pa.RecordBatch]:
    """The images of a source that captions can find.

    Raises:
        NodeFailed: the images come from tars that have not been read.
    """
    from capfilt.stages.foreign.places import corpus_places, index_places

    source, join = captions.source, captions.config.join
    rows = context.config.sources[source].rows
    name = output_name(rows, rows.id_column) if rows.id_column is not None else None
    if not index.has_tars:
        parts = [f"{INDEX_PARTS}/{part.name}" for part in index.parts]
        return index_places(context.store / index_folder(source), parts, join, name)
    folder = corpus_folder(source)
    if len(context.ledger.committed_shards(folder)) < index.shards:
        raise NodeFailed(
            f"{captions.section}.join: the images of {source} come from tars, which have to be read before "
            f"captions can find them; set sources.{source}.rows.format: tar"
        )
    files = [
        file.name
        for record in context.ledger.records(folder)
        for file in record.files
        if file.name.endswith(".parquet")
    ]
    return corpus_places(context.store / folder, files, join, name)


def _tell(context: RunContext, node: Node, source: str, joined: Joined) -> None:
    for name, counts in joined.counts.items():
        if counts.unmatched:
            context.progress.say(
                node.name,
                f"{name}: {counts.unmatched:,} of {counts.captions:,} captions belong to no image of "
                f"{source}; they are listed in {captions_folder(source)}/{UNMATCHED_PARTS}/",
            )
        if counts.empty:
            context.progress.say(node.name, f"{name}: {counts.empty:,} rows have no caption")


def _as_dict(counts: Any) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__}


JOIN = NodeKind("join", outputs=_outputs, inputs=_inputs, run=run_join, required_files=_required_files)
