"""The datasets by name. A new one is a file that makes a `Source`, and a line here."""

from __future__ import annotations

from pmal_tf.data import cifar10, digits, mnist
from pmal_tf.data.images import Source
from pmal_tf.errors import PmalError

SOURCES: dict[str, Source] = {
    source.name: source for source in (digits.SOURCE, mnist.SOURCE, cifar10.SOURCE)
}


def get_source(name: str) -> Source:
    """Returns the source of a name.

    Raises:
        PmalError: If there is none.
    """
    if name not in SOURCES:
        raise PmalError(
            f"`dataset` must be one of {', '.join(SOURCES)}. Received: dataset={name!r}"
        )
    return SOURCES[name]
