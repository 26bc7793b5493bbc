"""Web images that no training reads, so that the filter can be measured on pairs that no model has seen."""

from __future__ import annotations

import hashlib


def is_held_out(source: str, key: str, share: float) -> bool:
    """Whether an image belongs to the share of a source's images that is held out.

    The choice depends on the image alone: it is the same in every round and for every seed, and a larger
    share contains a smaller one.

    Args:
        source: the image's source.
        key: the image's key in it.
        share: share of the images to hold out, 0 to 1.
    """
    digest = hashlib.blake2b(f"hold out/{source}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
