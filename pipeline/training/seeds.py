"""Seeds of a training's random draws, keyed by purpose and position, so that there is no state to save."""

from __future__ import annotations

import hashlib


def derive_seed(run_seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed that depends on the arguments only: the same on every machine, worker and resume.

    Args:
        run_seed: seed of the training.
        purpose: what is drawn, such as "dropout"; different purposes have independent seeds.
        counters: position of the draw, such as step and rank.
    """
    identity = ":".join(map(str, (purpose, run_seed, *counters)))
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
