"""Files under configs/ come with the program: what names one is found wherever the program is called."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent.parent
"""The clone, or where packages are installed."""


def resolve_shipped(address: str) -> str:
    """The address of a shipped file if this names one and nothing of that name is here; else as it is."""
    beside = FOLDER / address
    if address.startswith("configs/") and not Path(address).exists() and beside.exists():
        return str(beside)
    return address


def shipped_configs() -> list[str]:
    """Names of the configs, as `capfilt run` takes them."""
    return sorted(str(path.relative_to(FOLDER)) for path in (FOLDER / "configs").rglob("*.yaml"))
