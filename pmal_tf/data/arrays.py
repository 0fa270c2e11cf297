"""Images and labels that a user hands in: checked, and brought to one form."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmal_tf.runtime.errors import PmalError


def collected(X: Any, y: Any = None) -> tuple[Any, Any]:
    """Returns images and labels, out of a `tf.data.Dataset` if `X` is one.

    That is finite, and of images or (image, label), batched or not.
    """
    spec = getattr(X, "element_spec", None)
    if spec is None:
        return X, y
    pairs = isinstance(spec, tuple) and len(spec) == 2
    shape = getattr(spec[0] if pairs else spec, "shape", None)
    if shape is None or X.cardinality() == -1:
        raise PmalError(
            "A dataset must be finite, and of images or (image, label), as "
            "tfds.load(..., as_supervised=True) makes it. Received: "
            f"{X}"
        )
    if shape.rank == 4:
        X = X.unbatch()
    elements = list(X.as_numpy_iterator())
    images = [element[0] for element in elements] if pairs else elements
    if len({image.shape for image in images}) != 1:
        raise PmalError(f"A dataset must have images, of one size. Received: {X}")
    if pairs:
        y = np.array([element[1] for element in elements])
        y = np.char.decode(y, "utf-8") if y.dtype.kind == "S" else y
    return np.stack(images), y


def checked_images(X: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Returns [n, h, w, 3] images, of a shape if one is given, as uint8 or float32.

    Raises:
        PmalError: If they are not finite numbers on the 0-255 scale.
    """
    image = np.asarray(X)
    if image.ndim != 4 or image.shape[1:] != (shape or (*image.shape[1:3], 3)):
        expected = ", ".join(map(str, shape or ("h", "w", 3)))
        raise PmalError(
            f"`X` must have the shape [n, {expected}]; repeat a grey channel three "
            f"times. Received: X of shape {image.shape}"
        )
    low, high = (image.min(), image.max()) if image.size else (np.nan, np.nan)
    # NaN is on no scale.
    if image.dtype.kind not in "iuf" or not (low >= 0 and high <= 255):
        raise PmalError(
            "`X` must hold at least one image, and finite numbers on the 0-255 scale. "
            f"Received: {len(image)} of type {image.dtype}, from {low} to {high}"
        )
    # Of a single image it may be dark.
    if shape is None and image.dtype.kind == "f" and high <= 1:
        raise PmalError(
            "`X` of floating-point numbers must lie on the 0-255 scale; the model "
            f"scales it itself. Received: values from {low:g} to {high:g}"
        )
    return image.astype(np.float32 if image.dtype.kind == "f" else np.uint8)


def checked_labels(y: Any, count: int, unknown: tuple[int, str]) -> np.ndarray:
    """Returns one label of a known class for each image, [count] int64 or strings.

    `unknown` is what stands for unknown, among integers and among strings.

    Raises:
        PmalError: If they are not so, or there are fewer than two classes.
    """
    label = np.asarray(y)
    if label.dtype.kind == "O" and all(isinstance(name, str) for name in label.flat):
        label = label.astype(str)
    if label.shape != (count,) or label.dtype.kind not in "iuU":
        raise PmalError(
            "`y` must hold one label per image, all integers or all strings. Received: "
            f"y of shape {label.shape} and type {label.dtype} for {count} images"
        )
    label = label.astype(str if label.dtype.kind == "U" else np.int64)
    classes = np.unique(label).tolist()
    if len(classes) < 2 or set(unknown) & set(classes):
        raise PmalError(
            "`y` must name two known classes or more, and no image of an unknown one, "
            f"for which {unknown[0]} and {unknown[1]!r} stand. Received: {classes}"
        )
    return label
