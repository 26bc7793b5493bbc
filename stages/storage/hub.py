"""Checkpoints on the Hugging Face hub (`hf://org/name@revision`), through the hub's own library.

The library keeps them in its own cache, takes the token of `hf auth login` or HF_TOKEN, and uses what the
cache has if there is no network or HF_HUB_OFFLINE is set.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from capfilt.stages.errors import UserError

PROTOCOL = "hf://"
SMALL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "provenance.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")
"""Both forms, if there are both: the digest of a checkpoint, and with it the fingerprint of a run, has both.
Weights of other libraries (TensorFlow, Flax, ONNX) are not downloaded."""

_ADDRESS = re.compile(
    r"hf://(?:models/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<path>[^@]+?))?/?"
)
_OTHER_KINDS = ("datasets/", "spaces/", "buckets/")


class HubError(UserError):
    """A repository of the hub cannot be used; the message has no config key."""


@dataclass(frozen=True)
class HubAddress:
    """A model repository, or a folder or file in it."""

    name: str
    """`org/name`."""
    revision: str | None
    """Branch, tag or commit; None for the default branch."""
    path: str
    """Of a folder or file in the repository; empty for all of it."""


def is_on_hub(address: str) -> bool:
    """Whether an address names a repository of the hub."""
    return address.startswith(PROTOCOL)


def parse_hub_address(address: str) -> HubAddress:
    """The parts of `hf://org/name@revision/path`; a revision with a slash is written with `%2F`.

    Raises:
        HubError: the address has another form, or names a data set.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or address.removeprefix(PROTOCOL).startswith(_OTHER_KINDS):
        raise HubError(f"{address} is no model on the hub; write hf://org/name or hf://org/name@revision")
    revision = found["revision"]
    path = (found["path"] or "").strip("/")
    return HubAddress(found["name"], revision and revision.replace("%2F", "/"), path)


def download(address: str, *, with_weights: bool = True) -> Path:
    """Local path of a checkpoint on the hub, in the library's cache; downloaded if it is not there.

    Args:
        with_weights: False for the small files of a folder alone, which show whether the repository can be
            read.

    Raises:
        HubError: the repository does not exist, may not be read, has none of the files, or cannot be reached.
    """
    import huggingface_hub  # takes a second; few runs need it
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

    wanted = parse_hub_address(address)
    check_cache(address)
    disable_progress_bars()  # the terminal shows the run's own progress
    logging.set_verbosity_error()
    try:
        folder = huggingface_hub.snapshot_download(
            wanted.name,
            revision=wanted.revision,
            allow_patterns=_patterns(wanted.path, with_weights=with_weights),
        )
    except Exception as error:  # of the hub's library, of its HTTP library, or a full disk
        raise HubError(_explain(error, address, wanted)) from error
    found = Path(folder) / wanted.path
    if not found.exists() or (found.is_dir() and not any(found.iterdir())):
        raise HubError(f"{address}: nothing there that could be a checkpoint; give a repository that has one")
    files = found.rglob("*") if found.is_dir() else [found]
    for each in (Path(folder), *files):  # links to files that lie elsewhere in the cache
        _check_private(each, address)
    return found


def check_cache(name: str) -> None:
    """Check that not every user of this machine can change the library's cache, which timm uses too.

    Args:
        name: what is to be loaded from it, for the message.

    Raises:
        HubError: everybody can.
    """
    from huggingface_hub import constants

    _check_private(Path(constants.HF_HUB_CACHE), name)


def _check_private(path: Path, address: str) -> None:
    """Check that not every user of this machine can change what a path in the cache leads to: the library
    trusts what is there. A folder of another user is trusted where not everybody could have made it, since a
    cache can be shared.

    Raises:
        HubError: everybody can change a folder on the way, or the file; or another user has made one in a
            folder where everybody may make files, such as /tmp.
    """
    anyone_may_add = False
    real = path.resolve()
    for part in (*reversed(real.parents), real):
        try:
            found = part.stat()
        except FileNotFoundError:  # the library will make it
            return
        is_foreign = anyone_may_add and found.st_uid not in (0, os.getuid())
        anyone_may_add = bool(found.st_mode & stat.S_IWOTH)
        keeps_owners = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if is_foreign or (anyone_may_add and not keeps_owners):
            reason = "belongs to another user" if is_foreign else "can be changed by every user"
            raise HubError(
                f"{part} {reason} of this machine, so {address} cannot be trusted from the hub's cache; set "
                "HF_HOME to a folder of your own, correct the rights (chmod o-w), or give the path of a "
                "checkpoint folder"
            )


def _patterns(path: str, *, with_weights: bool) -> list[str]:
    names = [*SMALL_FILES, *(WEIGHT_FILES if with_weights else ())]
    return [path, *(f"{path}/{name}" for name in names)] if path else names


def _explain(error: Exception, address: str, wanted: HubAddress) -> str:
    """One line about an error of the library."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{wanted.name}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{address} is gated: accept its terms at {page}, then log in with `hf auth login` or set "
            "HF_TOKEN on every machine"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no repository {wanted.name} on the hub, or it is private: check the name, or log in with "
            "`hf auth login` or HF_TOKEN on every machine"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{page} has no revision {wanted.revision!r}; give a branch, a tag or a commit of it"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        cause = (
            "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else _first_line(error.__cause__ or error)
        )
        return (
            f"{address} is not in the hub's cache on this machine, and the hub cannot be asked ({cause}); "
            "connect to it once, or copy the folder and give its path"
        )
    return f"cannot read {address} ({type(error).__name__}: {_first_line(error)})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
