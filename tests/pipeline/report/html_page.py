"""A report page as a browser parses it: elements with their attributes, texts and places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "img", "input", "meta", "link", "hr", "source", "wbr"}
"""Elements without an end tag."""
BLOCKS = {"li", "td", "th", "tr", "div", "p", "article", "dt", "dd", "h1", "h2", "h3", "br"}
"""Elements whose text does not run into that of their neighbors."""


@dataclass
class Element:
    """One element and what is in it."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    content: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        """The text that is shown, with single spaces; words that only screen readers read are left out."""
        return re.sub(r"[ \n]+", " ", "".join(self._words())).strip(" \n")

    def _words(self) -> Iterator[str]:
        if "unseen" in self.classes:
            return
        for each in self.content:
            if isinstance(each, str):
                yield each
            else:
                yield from each._words()
                yield " " if each.tag in BLOCKS or each.classes & {"text", "interval", "meta"} else ""

    def all(self, tag: str | None = None, *classes: str) -> list[Element]:
        """Elements inside, in the order of the page: with this tag, and with one of the classes if any is
        given."""
        found = []
        for each in self.content:
            if isinstance(each, Element):
                if (tag is None or each.tag == tag) and (not classes or each.classes & set(classes)):
                    found.append(each)
                found += each.all(tag, *classes)
        return found

    def ancestors(self) -> Iterator[Element]:
        above = self.parent
        while above is not None:
            yield above
            above = above.parent


class Page(Element):
    """The root of a page."""

    def table(self, title: str) -> list[dict[str, str]]:
        """The rows of the table whose caption begins with this title: {heading of the column: text}."""
        (table,) = [t for t in self.all("table") if t.all("caption")[0].text.startswith(title)]
        heads = [each.text for each in table.all("thead")[0].all("th")]
        rows = [[each for each in row.content if isinstance(each, Element)] for row in table.all("tr")[1:]]
        assert all(len(row) == len(heads) for row in rows), title
        return [dict(zip(heads, (cell.text for cell in row), strict=True)) for row in rows]

    def section(self, id_: str) -> Element:
        """What follows the heading with this id, up to the next heading of the same level."""
        (heading,) = [e for e in self.all("h2") if e.attributes.get("id") == id_]
        assert heading.parent is not None
        beside = heading.parent.content
        place = next(i for i, each in enumerate(beside) if each is heading) + 1
        after = [i for i, e in enumerate(beside) if i > place and isinstance(e, Element) and e.tag == "h2"]
        return Element("section", {}, content=beside[place : min(after, default=len(beside))])


class _Parser(HTMLParser):
    """Builds the tree; a tag that is not closed where it should be is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Page("page", {})
        self.open: list[Element] = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs}, self.open[-1])
        self.open[-1].content.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].content.append(data)


def parse_page(html: str) -> Page:
    """The elements of a page.

    Raises:
        AssertionError: its tags are not nested correctly.
    """
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert [each.tag for each in parser.open] == ["page"], "a tag is not closed"
    return parser.root
