"""The folder of an export: what it holds, and the record that describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from capfilt import __version__
from capfilt.pipeline.export.plan import ExportError, ExportPlan
from capfilt.pipeline.rundir.changes import difference
from capfilt.stages.storage.layout import EXPORT_RECORD
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, encode_json

RECORD_VERSION = 1
State = Literal["new", "half", "done"]


class ExportSummary(Struct, kw_only=True, frozen=True):
    """`capfilt-export.json`: what an export was made of, and its files once it is done."""

    fingerprint: str
    inputs: dict[str, Any]
    """Everything that determines the export."""
    run: str
    """Address of the run directory."""
    name: str
    """`run.name` of its config."""
    form: str
    round: int
    verdicts: str
    """Name of the verdict set."""
    made_by: str = f"capfilt {__version__}"
    is_done: bool = False
    files: list[FileEntry] = []
    """Files of the export, once it is done."""
    images: int = 0
    pairs: dict[str, int] = {}
    """{origin: exported texts}."""
    most: dict[str, int] = {}
    """{origin: most exported texts of one image}."""
    status: dict[str, int] = {}
    """{what became of it: images}."""
    version: Annotated[int, Meta(ge=1)] = RECORD_VERSION


def describe(plan: ExportPlan, name: str) -> ExportSummary:
    """The record of an export that begins.

    Args:
        name: `run.name` of the config.
    """
    config = plan.config
    return ExportSummary(
        fingerprint=config.fingerprint,
        inputs=plan.inputs,
        run=config.run_dir.url,
        name=name,
        form=config.form,
        round=config.round,
        verdicts=config.verdicts,
    )


def read_summary(out: Store) -> ExportSummary | None:
    """The record of an export, None if the folder has none.

    Raises:
        ExportError: it is damaged.
    """
    data = out.find(EXPORT_RECORD)
    try:
        return None if data is None else msgspec.json.decode(data, type=ExportSummary)
    except DECODE_ERRORS as error:
        raise ExportError(
            f"{out.address(EXPORT_RECORD)}: damaged ({error}); remove the folder, or name another"
        ) from error


def check_target(plan: ExportPlan) -> State:
    """How far this export is in its folder.

    Raises:
        ExportError: the folder holds something else.
    """
    out = plan.config.out
    if (found := read_summary(out)) is None:
        if others := out.list():
            raise ExportError(
                f"OUT {out.url}: holds something else ({', '.join(others[:3])}); name an empty or new one"
            )
        return "new"
    if found.fingerprint != plan.config.fingerprint:
        path, old, new = difference(found.inputs, msgspec.json.decode(encode_json(plan.inputs)))
        change = f"{path} was {encode_short(old)} and is now {encode_short(new)}"
        if path.startswith("sources."):
            change = "the run has other verdicts or images now"
        raise ExportError(
            f"OUT {out.url}: holds another export ({change}); name another folder, or remove it"
        )
    return "done" if found.is_done else "half"


def encode_short(value: Any) -> str:
    """A value as JSON, at most 60 characters of it."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def save_summary(out: Store, summary: ExportSummary) -> None:
    """Write the record of an export."""
    out.put(EXPORT_RECORD, encode_json(msgspec.to_builtins(summary)))
