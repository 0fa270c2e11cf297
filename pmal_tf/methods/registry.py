"""The methods by name: every file or folder of `methods/` that has a `METHOD`."""

from __future__ import annotations

import dataclasses
import functools

from pmal_tf import methods
from pmal_tf.methods.method import Method
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.plugins import found_in
from pmal_tf.runtime.settings import settings_in

DEFAULT = "pmal"


@functools.cache
def all_methods() -> dict[str, Method]:
    """Returns every method by its name, without loading TensorFlow."""
    return {method.name: method for method in found_in(methods, "METHOD")}


def get_method(name: str) -> Method:
    """Returns a method by its name.

    Raises:
        PmalError: If there is none.
    """
    if name not in all_methods():
        raise PmalError(
            f"A method must be one of {', '.join(all_methods())}. Received: {name!r}"
        )
    return all_methods()[name]


def owners() -> dict[str, tuple[str, dataclasses.Field]]:
    """Returns, by name of setting, the method that it belongs to, and its field.

    Raises:
        ValueError: If two methods have a setting of one name.
    """
    found: dict[str, tuple[str, dataclasses.Field]] = {}
    for method in all_methods().values():
        for field in settings_in(method.Settings):
            if field.name in found:
                raise ValueError(
                    f"{method.name} and {found[field.name][0]} both have a setting "
                    f"{field.name}; one of them must call it otherwise"
                )
            found[field.name] = method.name, field
    return found
