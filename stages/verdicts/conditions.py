"""Checks SQL that a user has written for the candidates: one expression over their columns, nothing else.

An expression must give the same for a candidate whatever shard it is evaluated with, so it has no subquery,
no aggregate, and no function that depends on the time or on chance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from capfilt.stages.status import quote
from capfilt.stages.verdicts.rules import PolicyError

ALIASES = {"itm": "itm_prob", "itc": "itc_sim"}
"""Short names of the scores."""
WORDS = "words"
"""Short name of the number of words of a text."""
_FORBIDDEN = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "a star",
}
_MOST_LISTED = 40


class Columns:
    """The columns that expressions may use, and the checks of expressions against them.

    Args:
        schema: columns of the candidates.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._sql = duckdb.connect(config={"enable_external_access": False, "threads": 1})
        self._sql.register("rows", schema.empty_table())
        self._sql.execute(f"CREATE VIEW candidates AS SELECT {self.select_list(schema.names)} FROM rows")
        self._unstable = {
            name
            for (name,) in self._sql.execute(
                "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
            ).fetchall()
        }

    @property
    def names(self) -> list[str]:
        """Names that an expression may use, short names first."""
        short = [name for name in (*ALIASES, WORDS) if name not in self.schema.names]
        return short + self.schema.names

    def select_list(self, names: Sequence[str]) -> str:
        """SQL list of these columns with the short names that go with them.

        32-bit scores become 64-bit numbers, so that `itm >= 0.7` compares as the filter itself does: with the
        decimal number, not with the 32-bit number next to it.
        """
        parts = []
        for name in names:
            is_float = pa.types.is_float32(self.schema.field(name).type)
            parts.append(f"{quoted(name)}::DOUBLE AS {quoted(name)}" if is_float else quoted(name))
        for alias, name in ALIASES.items():
            if name in names and alias not in self.schema.names:
                parts.append(f"{quoted(name)}::DOUBLE AS {alias}")
        if "text" in names and WORDS not in self.schema.names:
            parts.append(f"len(regexp_extract_all(text, '\\S+')) AS {WORDS}")
        return ", ".join(parts)

    def find(self, shown: str, name: str) -> str:
        """The name of a column as SQL, quoted.

        Raises:
            PolicyError: there is no such column.
        """
        for known in self.names:
            if known.lower() == name.lower():
                return quoted(known)
        raise self._unknown(shown, name)

    def check(self, shown: str, expression: str, kind: str) -> set[str]:
        """Check an expression.

        Args:
            shown: the rule that it comes from, for messages.
            expression: SQL.
            kind: "condition" (true or false) or "score" (a number).

        Returns:
            The columns of the candidates that it reads.

        Raises:
            PolicyError: it is no SQL, has an unknown column, or is of another kind.
        """
        nodes = list(_walk(self._parse(shown, expression)))
        for node in nodes:
            if (what := _FORBIDDEN.get(str(node.get("class")))) is not None:
                raise PolicyError(f"{shown}: has {what}; allowed: an expression over the columns of one row")
        functions = {node["function_name"].lower() for node in nodes if node.get("class") == "FUNCTION"}
        # `current_date` is a function without parentheses, which the parser takes for a column.
        functions |= {name for name in _column_names(nodes) if not self.sources_of(name)}
        for name in sorted(functions & self._unstable):
            raise PolicyError(f"{shown}: {name} gives another value each time; remove it")
        try:
            # An aggregate is refused in a WHERE clause only.
            self._sql.execute(f"SELECT 1 FROM candidates WHERE ({expression}\n) IS NOT NULL")
            found = self._sql.execute(f"SELECT ({expression}\n) AS x FROM candidates").description
        except duckdb.Error as error:
            raise self._explain(shown, error) from error
        type_ = str(found[0][1]) if found else ""
        is_right = type_ == "BOOLEAN" if kind == "condition" else _is_number(type_)
        if not is_right:
            wanted = "true or false, for example itm >= 0.7" if kind == "condition" else "a number"
            raise PolicyError(f"{shown}: {quote(expression)} is a {type_}; it must be {wanted}")
        return {column for name in _column_names(nodes) for column in self.sources_of(name)}

    def sources_of(self, name: str) -> list[str]:
        """The columns of the candidates that a name stands for; none for a name that is no column."""
        lower = name.lower()
        found = [column for column in self.schema.names if column.lower() == lower]
        if not found:
            short = {**ALIASES, WORDS: "text"}
            found = [short[lower]] if lower in short else []
        return found

    def _parse(self, shown: str, expression: str) -> Any:
        query = f"SELECT 1 FROM candidates WHERE ({expression}\n)"
        found = self._sql.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        assert found is not None, "the query has one row"
        tree = json.loads(found[0])
        if tree["error"]:
            raise PolicyError(f"{shown}: no SQL expression ({_first_line(tree['error_message'])})")
        node = tree["statements"][0]["node"]
        if "where_clause" not in node:  # a closing parenthesis, then another query
            raise PolicyError(f"{shown}: no SQL expression (it is more than one query)")
        return node["where_clause"]

    def _explain(self, shown: str, error: duckdb.Error) -> PolicyError:
        text = str(error)
        if (match := re.search(r'Referenced (?:column|table) "([^"]+)" not found', text)) is not None:
            return self._unknown(shown, match[1])
        return PolicyError(f"{shown}: {_first_line(text)}")

    def _unknown(self, shown: str, name: str) -> PolicyError:
        names = self.names
        more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
        listed = ", ".join(names[:_MOST_LISTED])
        return PolicyError(f"{shown}: unknown column {quote(name)}; the candidates have {listed}{more}")


def quoted(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in a tree of JSON."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from _walk(value)


def _column_names(nodes: Iterable[dict[str, Any]]) -> set[str]:
    """Every part of every name of a column, in lower case: of `text`, `candidates.text` or `point.x`."""
    references = (node["column_names"] for node in nodes if node.get("class") == "COLUMN_REF")
    return {name.lower() for names in references for name in names}


def _is_number(type_: str) -> bool:
    return type_.startswith(("DECIMAL", "FLOAT", "DOUBLE")) or type_.endswith(("INTEGER", "INT", "NUMBER"))


def _first_line(text: str) -> str:
    return " ".join(text.strip().split("\n")[0].split())
