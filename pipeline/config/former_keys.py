"""Keys of earlier versions, read at their present places, so that old configs and runs stay readable.

`mixing` and `verdicts` are `pretrain.texts` now.
"""

from __future__ import annotations

from typing import Any

TEXTS = "pretrain.texts"
_DEFAULTS: dict[str, Any] = {"human": 1, "web": 1, "synthetic": 1, "verdicts": "default"}


def move_former_keys(data: dict[str, Any]) -> dict[str, Any]:
    """The data of a config with former keys at their present places; `data` itself is not changed.

    Raises:
        ValueError: a former key contradicts the present one, or belongs to a section that is not there.
    """
    if "mixing" not in data and "verdicts" not in data:
        return data
    rest = {key: value for key, value in data.items() if key not in ("mixing", "verdicts")}
    former = _former_values(data)
    pretrain = rest.get("pretrain")
    if pretrain is None:
        for name, (where, value) in former.items():
            if value != _DEFAULTS.get(name):
                raise ValueError(
                    f"{where}: is now {TEXTS}.{name}, but there is no section pretrain; remove it"
                )
        return rest
    texts = pretrain.get("texts") if isinstance(pretrain, dict) else None
    if not isinstance(pretrain, dict) or not (texts is None or isinstance(texts, dict)):
        return rest  # the section itself is a mistake
    moved = dict(texts or {})
    for name, (where, value) in former.items():
        if moved.setdefault(name, value) != value:
            raise ValueError(
                f"{where} is {value!r}, and {TEXTS}.{name}, which replaces it, is {moved[name]!r}; "
                f"remove {where}"
            )
    return rest | {"pretrain": pretrain | {"texts": moved}}


def _former_values(data: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """{present name: (former key, value)}."""
    mixing = data.get("mixing")
    if mixing is not None and not isinstance(mixing, dict):
        raise ValueError(f"mixing: is now {TEXTS}, a section with human, web and synthetic; got {mixing!r}")
    found = {str(name): (f"mixing.{name}", value) for name, value in (mixing or {}).items()}
    if data.get("verdicts") is not None:
        found["verdicts"] = ("verdicts", data["verdicts"])
    return found
