"""An image with all its texts, as lines for a terminal and as an HTML page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.console.summary import field_line
from capfilt.pipeline.inspection.images import FoundImage
from capfilt.pipeline.report.formats.addresses import show_address
from capfilt.stages.status import SUCCESS

VERDICTS = {True: "kept", False: "dropped", None: "-"}
COLORS = {"kept": "green", "dropped": "red"}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
img { max-width: 100%; } td, th { padding: .2rem .6rem; text-align: left; vertical-align: top; }
.text { overflow-wrap: anywhere; }
</style>
<h1>{{ title }}</h1>
{% for image in images %}
<section><h2>{{ image.name }}</h2>
{% if image.data %}<img alt="image {{ image.name }}" src="data:image/*;base64,{{ image.data }}">{% endif %}
<p class="text">{{ image.about }}</p>
<table><tr><th>round</th><th>origin</th><th>ITM</th><th>verdict</th><th>flags</th><th>text</th></tr>
{% for row in image.rows %}<tr>
{% for cell in row[:-1] %}<td>{{ cell }}</td>{% endfor %}<td class="text">{{ row[-1] }}</td></tr>
{% endfor %}</table></section>
{% endfor %}
"""


def image_block(image: FoundImage) -> RenderableType:
    """Where an image is, and a line for each of its texts in each round."""
    row = image.row
    lines: list[RenderableType] = [field_line("image", f"{row['source']}/{row['key']}", style="bold")]
    if (address := show_address(row["url"])) is not None:
        lines.append(field_line("url", address.text))
    if image.place is not None:
        lines.append(field_line("stored", f"{image.place}, member {image.member}, {_size(row)}"))
    else:
        lines.append(field_line("status", f"{row['status']}: {row['error_message']}"))
    if not image.candidates:
        lines += [field_line("text", text) for text in row["texts"] or []]
        return Group(*lines)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("round", "origin", "ITM", "ITC", "verdict", "flags"):
        table.add_column(name)
    table.add_column("text", overflow="fold")
    for each in text_rows(image):
        *before, verdict, flags, text = each
        colored = Text(verdict, style=COLORS.get(verdict, ""))
        table.add_row(*before, colored, flags, Text(text))
    return Group(*lines, table)


def text_rows(image: FoundImage) -> list[tuple[str, str, str, str, str, str, str]]:
    """(round, origin, ITM probability, ITC similarity, verdict, flags, text) of each candidate."""
    return [
        (
            str(each["round"]),
            each["origin"],
            _number(each["itm_prob"]),
            _number(each["itc_sim"]),
            VERDICTS[each["kept"]],
            ", ".join(each["flags"] or []),
            each["text"],
        )
        for each in image.candidates
    ]


def html_page(images: Sequence[FoundImage], read: Callable[[str, str], bytes | None]) -> str:
    """A page of its own with images and texts; it loads nothing.

    Args:
        read: (source, key) → the stored image, None if there is none.
    """
    environment = jinja2.Environment(autoescape=True)
    shown = []
    for image in images:
        row = image.row
        data = read(row["source"], row["key"]) if row["status"] == SUCCESS else None
        address = show_address(row["url"])
        rows = [(r[0], r[1], r[2], r[4], r[5], r[6]) for r in text_rows(image)]
        rows = rows or [("", "as it came", "", "", "", text) for text in row["texts"] or []]
        shown.append(
            {
                "name": f"{row['source']}/{row['key']}",
                "data": base64.b64encode(data).decode() if data else None,
                "about": f"{address.text if address else ''} {_size(row) if data else row['status']}",
                "rows": rows,
            }
        )
    return environment.from_string(PAGE).render(title="Images of a run", images=shown)


def _size(row: dict[str, Any]) -> str:
    return f"{row['width']} x {row['height']} pixels"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
