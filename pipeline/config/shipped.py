"""Files under `configs/` are shipped with the program and found from any working directory."""

from __future__ import annotations

from pathlib import Path

SHIPPED_ROOT = Path(__file__).parents[2]
"""Folder that holds `configs/`: the repository root in a checkout, the package folder in an installed
wheel."""


def resolve_shipped(address: str) -> str:
    """Path of the shipped file that `address` names, unless that path exists in the working directory.

    Any other address is returned unchanged.
    """
    shipped = SHIPPED_ROOT / address
    if address.startswith("configs/") and not Path(address).exists() and shipped.exists():
        return str(shipped)
    return address


def shipped_configs() -> list[str]:
    """Names of the shipped configs, as `capfilt run` takes them."""
    return sorted(str(path.relative_to(SHIPPED_ROOT)) for path in (SHIPPED_ROOT / "configs").rglob("*.yaml"))
