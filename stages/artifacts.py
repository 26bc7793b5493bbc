"""Checkpoints and tokenizers by address: a local path as it is, anything else copied once per machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import fsspec


class ArtifactError(ValueError):
    """A checkpoint or tokenizer that cannot be had; the message names the config key, the address and the way out."""


def absolute(address: str) -> str:
    """The address in a form that means the same in every process: Ray's workers have their own directories."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def local_artifact(address: str, key: str) -> str:
    """Local path of a file or folder given by path or fsspec URL (s3://, gs://, hf://org/name).

    Args:
        address: what the user or the run's ledger named.
        key: the config key it came from, for the message.

    Raises:
        ArtifactError: nothing is there, or it cannot be reached.
    """
    if "://" not in address:
        path = Path(address).expanduser().absolute()
        if not path.exists():
            raise ArtifactError(
                f"{key}: nothing at {address}; give a checkpoint folder or file, or a URL such as hf://org/name"
            )
        return str(path)
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"capfilt-artifacts-{os.getuid()}" / digest
    if not target.exists():
        _download(address, target, key)
    return str(target)


def _download(address: str, target: Path, key: str) -> None:
    """Copy under a temporary name and rename, so that two processes of a machine never see half a checkpoint."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        fs, path = fsspec.core.url_to_fs(address)
        if not fs.exists(path):
            raise ArtifactError(f"{key}: nothing at {address}; give an existing checkpoint folder or file")
        fs.get(path.rstrip("/") + ("/" if fs.isdir(path) else ""), str(temporary), recursive=True)
        os.rename(temporary, target)
    except (OSError, ImportError) as error:
        if not target.exists():  # else another process was first, and its copy serves
            raise ArtifactError(f"{key}: cannot read {address} ({type(error).__name__}: {error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
