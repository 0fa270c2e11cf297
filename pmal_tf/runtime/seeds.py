"""One seed per purpose, all derived from the one seed of the run."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns a seed in [0, 2^31) for one purpose, independent of those of all others.

    A hash is used, not a sum, so that neighbouring seeds and trials share no stream.

    Args:
        seed: The run's seed.
        *purpose: What the seed is for, e.g. `("pretrain", trial, model)`.
    """
    text = repr((int(seed), *purpose)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "little") % 2**31
