"""A policy as one SQL expression over the columns of a candidate.

Highest shares ("top 30% by itc") become thresholds first, which are exact over all candidates of the round:
the threshold is a score that a candidate has, and candidates with equal scores are kept or dropped together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from msgspec import Struct

from capfilt.stages.bootstrap.candidates import FLAGS
from capfilt.stages.verdicts.conditions import Columns, literal, quoted
from capfilt.stages.verdicts.rules import MOST_DECIMALS, PolicyError, PolicyText, Rule, Top, parse_rule

KEY_COLUMNS = ("key", "origin", "captioner", "caption_index")
"""Columns that tell a candidate of a source from the others."""
KEPT = "kept"
MOST_GROUPS = 1000
"""Combinations of values that `per` may have."""
MOST_SHOWN = 10
"""Values of a column that a message lists."""


class Cut(Struct, frozen=True, kw_only=True):
    """The threshold that a share has become, for one combination of the values of its `per`."""

    rule: str
    group: dict[str, str | None]
    """{column: value}; empty without `per`."""
    cut: float
    """The lowest score that is kept."""
    judged: int
    """Candidates with a verdict and a score, among which the share is."""
    kept: int
    """Those with at least this score: more than the share where scores are equal."""


@dataclass(frozen=True)
class Policy:
    """Rules whose columns are known, checked against the candidates of a round."""

    keep: tuple[Rule, ...]
    drop: tuple[Rule, ...]
    drop_flags: tuple[str, ...]
    columns: Columns
    used: frozenset[str]
    """Columns of the candidates that verdicts need, apart from `KEY_COLUMNS` and `kept`."""

    @classmethod
    def parse(cls, text: PolicyText, schema: pa.Schema) -> Policy:
        """Parse and check a policy.

        Args:
            schema: the columns of the candidates.

        Raises:
            PolicyError: a rule is wrong, an unknown column or flag is named, or there is no rule.
        """
        if not (text.keep or text.drop or text.drop_flags):
            raise PolicyError('no rule; give --keep, --drop or --drop-flag, for example --keep "itm >= 0.7"')
        for flag in text.drop_flags:
            if flag not in FLAGS:
                raise PolicyError(f"--drop-flag {flag}: unknown flag; allowed: {', '.join(FLAGS)}")
        keep = tuple(parse_rule("--keep", rule) for rule in text.keep)
        drop = tuple(parse_rule("--drop", rule) for rule in text.drop)
        columns = Columns(schema)
        used = {"flags"} if text.drop_flags else set()
        for rule in (*keep, *drop):
            used |= _check_rule(columns, rule)
        return cls(keep, drop, text.drop_flags, columns, frozenset(used))

    @property
    def has_shares(self) -> bool:
        """Whether a rule is a share of the candidates, which becomes a threshold."""
        return any(isinstance(rule.chosen, Top) for rule in (*self.keep, *self.drop))

    @property
    def read_columns(self) -> list[str]:
        """The columns of the candidates that verdicts are made from."""
        wanted = {*KEY_COLUMNS, KEPT, *self.used}
        return [name for name in self.columns.schema.names if name in wanted]

    def relation(self, table: str) -> str:
        """SQL of the candidates in `table`, which has `read_columns`, with short names."""
        return f"(SELECT {self.columns.select_list(self.read_columns)} FROM {table}) AS candidates"

    def find_cuts(self, sql: duckdb.DuckDBPyConnection, table: str) -> list[Cut]:
        """The thresholds of all shares.

        Args:
            sql: database with all candidates of the round.
            table: the name of their table there.

        Raises:
            PolicyError: a score cannot be computed, or `per` has too many combinations of values.
        """
        tops = [rule for rule in (*self.keep, *self.drop) if isinstance(rule.chosen, Top)]
        return [cut for rule in tops for cut in self._cuts_of(sql, table, rule)]

    def _cuts_of(self, sql: duckdb.DuckDBPyConnection, table: str, rule: Rule) -> list[Cut]:
        top = rule.chosen
        assert isinstance(top, Top)
        groups = [f"CAST({self.columns.find(rule.option, name)} AS VARCHAR)" for name in top.per]
        names = [f"g{i}" for i in range(len(groups))]
        listed = "".join(f"{group} AS {name}, " for group, name in zip(groups, names, strict=True))
        partition = f"PARTITION BY {', '.join(names)}" if names else ""
        whole = 100 * 10**MOST_DECIMALS
        query = f"""
            WITH scores AS (
                SELECT {listed} ({top.score}\n)::DOUBLE AS score, count(*) AS n
                FROM {self.relation(table)}
                WHERE kept IS NOT NULL AND {self._scope(rule)} AND ({top.score}\n) IS NOT NULL
                    AND NOT isnan(({top.score}\n)::DOUBLE)
                GROUP BY ALL
            ), places AS (
                SELECT *, (sum(n) OVER (up))::HUGEINT AS until,
                    (sum(n) OVER ({partition}))::HUGEINT AS total
                FROM scores WINDOW up AS ({partition} ORDER BY score DESC)
            )
            SELECT {"".join(name + ", " for name in names)} min(score), any_value(total)::BIGINT,
                max(until)::BIGINT
            FROM places WHERE until - n < (total * {top.share} + {whole - 1}) // {whole}
            GROUP BY {", ".join(names) or "()"} ORDER BY ALL LIMIT {MOST_GROUPS + 1}"""
        rows = _run(sql, query, rule.option)
        if len(rows) > MOST_GROUPS:
            raise PolicyError(
                f"{rule.option}: {', '.join(top.per)} has more than {MOST_GROUPS} different values; take "
                "columns with fewer"
            )
        width = len(names)
        return [
            Cut(
                rule=rule.text,
                group=dict(zip(top.per, row[:width], strict=True)),
                cut=row[width],
                judged=row[width + 1],
                kept=row[width + 2],
            )
            for row in rows
            if row[width] is not None
        ]

    def check_scopes(self, sql: duckdb.DuckDBPyConnection, table: str) -> None:
        """Check that each value that a scope names occurs in the round.

        Raises:
            PolicyError: a value occurs nowhere.
        """
        for rule in (*self.keep, *self.drop):
            for name, value in rule.scope:
                column = self.columns.find(rule.option, name)
                source = quoted(self.columns.sources_of(name)[0])
                (found,) = _run(
                    sql,
                    f"SELECT count(*) FROM {table} WHERE CAST({source} AS VARCHAR) = {literal(value)}",
                    rule.option,
                )
                if found[0]:
                    continue
                values = _run(
                    sql,
                    f"SELECT DISTINCT CAST({source} AS VARCHAR) AS v FROM {table} WHERE v IS NOT NULL "
                    f"ORDER BY v LIMIT {MOST_SHOWN + 1}",
                    rule.option,
                )
                shown = [str(row[0]) for row in values]
                listed = ", ".join(shown[:MOST_SHOWN]) + (", …" if len(shown) > MOST_SHOWN else "")
                raise PolicyError(
                    f"{rule.option}: no candidate has {column.strip(chr(34))}={value}; there is "
                    f"{listed or 'no value at all'}"
                )

    def expression(self, cuts: Sequence[Cut]) -> str:
        """SQL of the verdict: true, false, or NULL for a candidate on which the run has no verdict.

        A candidate is kept if every rule `keep` whose scope it is in chooses it, and no rule `drop` does. In
        no scope of a rule `keep`, its verdict is that of the run.
        """
        scopes = [self._scope(rule) for rule in self.keep]
        chosen = [
            f"(NOT {scope} OR coalesce({self._choice(rule, cuts)}, false))"
            for scope, rule in zip(scopes, self.keep, strict=True)
        ]
        kept = KEPT
        if self.keep:
            kept = f"CASE WHEN {' OR '.join(scopes)} THEN {' AND '.join(chosen)} ELSE {KEPT} END"
        dropped = [
            f"({self._scope(rule)} AND coalesce({self._choice(rule, cuts)}, false))" for rule in self.drop
        ]
        dropped += [f"coalesce(list_contains(flags, {literal(flag)}), false)" for flag in self.drop_flags]
        conditions = [f"({kept})", *(f"NOT {each}" for each in dropped)]
        return f"CASE WHEN {KEPT} IS NULL THEN NULL ELSE {' AND '.join(conditions)} END"

    def _scope(self, rule: Rule) -> str:
        terms = [
            f"coalesce(CAST({self.columns.find(rule.option, name)} AS VARCHAR) = {literal(value)}, false)"
            for name, value in rule.scope
        ]
        return f"({' AND '.join(terms)})" if terms else "true"

    def _choice(self, rule: Rule, cuts: Sequence[Cut]) -> str:
        if isinstance(rule.chosen, str):
            return f"({rule.chosen}\n)"
        score = f"({rule.chosen.score}\n)::DOUBLE"
        own = [cut for cut in cuts if cut.rule == rule.text]
        if not own:
            return "false"
        # NaN is greater than every number in DuckDB.
        return f"({score} >= {self._threshold(rule, own)} AND NOT isnan({score}))"

    def _threshold(self, rule: Rule, cuts: Sequence[Cut]) -> str:
        if not cuts[0].group:
            return _number(cuts[0].cut)
        branches = []
        for cut in cuts:
            terms = [
                f"CAST({self.columns.find(rule.option, name)} AS VARCHAR) IS NOT DISTINCT FROM "
                + ("NULL" if value is None else literal(value))
                for name, value in cut.group.items()
            ]
            branches.append(f"WHEN {' AND '.join(terms)} THEN {_number(cut.cut)}")
        return f"CASE {' '.join(branches)} END"


def _check_rule(columns: Columns, rule: Rule) -> set[str]:
    """Check a rule; returns the columns of the candidates that it reads."""
    names = [name for name, _ in rule.scope]
    if isinstance(rule.chosen, Top):
        used = columns.check(rule.option, rule.chosen.score, "score")
        names += rule.chosen.per
    else:
        used = columns.check(rule.option, rule.chosen, "condition")
    for name in names:
        columns.find(rule.option, name)
        used |= set(columns.sources_of(name))
    return used


def complete(table: pa.Table, schema: pa.Schema, names: Iterable[str]) -> pa.Table:
    """These columns of a table, null where it lacks them, in the types of `schema`."""
    fields = [schema.field(name) for name in names]
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in fields
    ]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _run(sql: duckdb.DuckDBPyConnection, query: str, shown: str) -> list[tuple[Any, ...]]:
    """The rows of a query.

    Raises:
        PolicyError: an expression of the user cannot be computed, for example a cast of a text.
    """
    try:
        return sql.execute(query).fetchall()
    except duckdb.Error as error:
        raise explain(shown, error) from error


def explain(shown: str, error: duckdb.Error) -> PolicyError:
    """The error of an expression that fails on a candidate."""
    line = " ".join(str(error).strip().split("\n")[0].split())
    return PolicyError(f"{shown}: fails on a candidate ({line}); use try_cast or a condition before it")


def _number(value: float) -> str:
    return f"{literal(repr(value))}::DOUBLE"
