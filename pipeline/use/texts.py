"""The texts, questions and answers that a command is given."""

from __future__ import annotations

from collections.abc import Sequence

from capfilt.stages.errors import UserError


class TextError(UserError):
    """There are no texts to work with; the message names the option."""


def read_texts(given: Sequence[str], file: str | None, name: str) -> list[str]:
    """The texts of an option and then those of a file, without empty ones.

    Args:
        given: values of `--NAME`.
        file: value of `--NAMEs`: a file of UTF-8 with one text a line.
        name: the name of the option.

    Raises:
        TextError: there are none, or the file cannot be read.
    """
    texts = list(given)
    if file is not None:
        try:
            with open(file, encoding="utf-8-sig") as stream:
                texts += [line.strip() for line in stream]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8"
            raise TextError(
                f"--{name}s {file}: cannot be read ({reason}); give a file with one {name} a line"
            ) from error
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise TextError(f"--{name}: missing; give a {name}, or a file of them with --{name}s")
    return texts
