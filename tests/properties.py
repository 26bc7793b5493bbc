"""Random cases for tests of properties: the same ones in every test run, 1,000 by default, 10,000 in the long
form."""

import random
from collections.abc import Iterator

import pytest

CASES, LONG_CASES = 1_000, 10_000
numbers_of_cases = pytest.mark.parametrize("count", [CASES, pytest.param(LONG_CASES, marks=pytest.mark.long)])
"""Parametrizes a test with the number of its cases."""

CHARACTERS = ("a", "Z", "0", "9", " ", "\t", "\n", "\r", "\0", '"', "'", ",", ";", ":", "/", "\\", "#", "%")
CHARACTERS += ("{", "}", "[", "]", "<", ">", "&", "?", "=", "-", "_", ".", "*", "|", "~", "!", "@", "$", "^")
CHARACTERS += ("é", "名", "\u200b", "\ufeff", "\u2028", "\x85", "\x1b", "\U0001f600", "İ", "ß", "\ufffd")


def draws(name: str, count: int) -> Iterator[random.Random]:
    """A generator of random numbers for each case of the test `name`."""
    for number in range(count):
        yield random.Random(f"{name} {number}")


def text(rng: random.Random, most: int = 20) -> str:
    """Random characters, among them all that have a meaning in some format."""
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randrange(most + 1)))


def phrase(rng: random.Random, tokens: tuple[str, ...], most: int = 12) -> str:
    """Random tokens of a format, with random characters between them."""
    parts = (
        text(rng, 3) if rng.random() < 0.2 else rng.choice(tokens) for _ in range(rng.randrange(most + 1))
    )
    return "".join(parts)


def damage(rng: random.Random, data: bytes) -> bytes:
    """Data with up to three changes: bytes replaced, removed, doubled or zeroed, or the end cut off."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.randrange(1, 12))
        kind = rng.randrange(6)
        if kind == 0:
            changed[start:end] = rng.randbytes(end - start)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = changed[start:end]
        elif kind == 3:
            changed[start:end] = bytes(end - start)
        elif kind == 4:
            changed[start:end] = b"\xff" * (end - start)
        else:
            del changed[start:]
    return bytes(changed)
