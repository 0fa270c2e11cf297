"""One seed per purpose, all derived from the one seed of the run."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns a seed in [0, 2^31) for a purpose, e.g. `("pretrain", trial, model)`.

    A hash of the run's seed, not a sum, so that neighbours share no stream.
    """
    text = repr((int(seed), *purpose)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31
