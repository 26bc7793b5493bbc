"""The rules of a policy as a user writes them: `itm >= 0.7`, `web: top 30% by itc per source`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from capfilt.stages.errors import UserError
from capfilt.stages.status import one_line, quote

ORIGINS = ("web", "synthetic")
"""Values of the column `origin`; as a scope each stands for itself."""
MOST_DECIMALS = 4
"""Decimals of a percentage."""

_VALUE = r"""(?:'(?:[^']|'')*'|[\w.\-/]+)"""
_TERM = rf"""[A-Za-z_]\w*(?:\s*=\s*{_VALUE})?"""
_SCOPE = re.compile(rf"\s*({_TERM}(?:\s*,\s*{_TERM})*)\s*:(?!:)\s*(.*)", re.DOTALL)
_TOP = re.compile(
    r"top\s+(?P<percent>[^\s%]+)\s*%\s+by\s+(?P<score>.+?)(?:\s+per\s+(?P<per>\w+(?:\s*,\s*\w+)*))?",
    re.DOTALL | re.IGNORECASE,
)
_TOP_FORM = "top N% by SCORE, or top N% by SCORE per COLUMN"


class PolicyError(UserError):
    """A rule of a policy is wrong; the message is one line with the rule and what is allowed."""


class PolicyText(Struct, frozen=True, kw_only=True):
    """A policy as the user wrote it: the form in which it is stored."""

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    drop_flags: tuple[str, ...] = ()

    def means_the_same(self, other: PolicyText) -> bool:
        """Whether both have the same rules, in any order."""
        mine, theirs = (
            (set(policy.keep), set(policy.drop), set(policy.drop_flags)) for policy in (self, other)
        )
        return mine == theirs

    def __str__(self) -> str:
        parts = [f"keep {rule}" for rule in self.keep] + [f"drop {rule}" for rule in self.drop]
        return "; ".join([*parts, *(f"drop flag {flag}" for flag in self.drop_flags)])


@dataclass(frozen=True)
class Top:
    """The candidates with the highest scores."""

    share: Annotated[int, Meta(gt=0, le=100 * 10**MOST_DECIMALS)]
    """Their percentage, in units of 0.0001 percent."""
    score: str
    """SQL expression of the score."""
    per: tuple[str, ...] = ()
    """Columns: each combination of their values has a percentage of its own."""


@dataclass(frozen=True)
class Rule:
    """One rule: for which candidates it is, and which of them it chooses."""

    option: str
    """The option with its value, for messages."""
    text: str
    scope: tuple[tuple[str, str], ...]
    """(column, value) that a candidate has to have; all candidates if empty."""
    chosen: str | Top
    """SQL condition, or the highest scores."""


def parse_rule(option: str, text: str) -> Rule:
    """Parse `[SCOPE:] CONDITION` or `[SCOPE:] top N% by SCORE [per COLUMN, …]`.

    A scope is an origin (`web`), `column=value`, or several of them with commas. SQL is checked later, when
    the columns are known (`stages.verdicts.conditions`).

    Args:
        option: the option that the rule comes from, for messages.

    Raises:
        PolicyError: the text is no rule.
    """
    text = text.strip()
    shown = f'{option} "{one_line(text)}"'
    scope: tuple[tuple[str, str], ...] = ()
    rest = text
    if (match := _SCOPE.fullmatch(text)) is not None:
        scope, rest = _parse_scope(shown, match[1]), match[2]
    if not rest.strip():
        raise PolicyError(f'{shown}: no condition; give one, for example {option} "itm >= 0.7"')
    if re.match(r"top\s", rest, re.IGNORECASE):
        return Rule(shown, text, scope, _parse_top(shown, rest))
    return Rule(shown, text, scope, rest)


def _parse_scope(shown: str, text: str) -> tuple[tuple[str, str], ...]:
    terms = []
    for name, value in re.findall(rf"([A-Za-z_]\w*)(?:\s*=\s*({_VALUE}))?", text):
        if value:
            plain = value[1:-1].replace("''", "'") if value.startswith("'") else value
            terms.append((name, plain))
        elif name in ORIGINS:
            terms.append(("origin", name))
        else:
            raise PolicyError(
                f"{shown}: unknown origin {quote(name)} before the colon; allowed: {' or '.join(ORIGINS)}, "
                "or column=value, for example source=cc12m"
            )
    return tuple(terms)


def _parse_top(shown: str, text: str) -> Top:
    match = _TOP.fullmatch(text)
    if match is None:
        raise PolicyError(f"{shown}: not of the form {_TOP_FORM}")
    number = match["percent"]
    if not re.fullmatch(rf"\d+(\.\d{{1,{MOST_DECIMALS}}})?", number) or not 0 < Decimal(number) <= 100:
        raise PolicyError(
            f"{shown}: {quote(number)} is no percentage; allowed: above 0, at most 100, with at most "
            f"{MOST_DECIMALS} decimals"
        )
    per = tuple(re.split(r"\s*,\s*", match["per"])) if match["per"] else ()
    return Top(int(Decimal(number) * 10**MOST_DECIMALS), match["score"].strip(), per)
