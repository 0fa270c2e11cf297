"""The named signatures of an exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from pmal_tf.serving.answers import Answering
from pmal_tf.serving.chunks import Outputs, in_chunks
from pmal_tf.serving.image_bytes import checked_files, decode_images

# Images times pixels that pass through the network at a time: 1,024 of 64 pixels, but
# never more than 256, and 83 of 224.
_PIXELS_AT_A_TIME = 2**22
_MOST_AT_A_TIME = 256

XLA_SIGNATURE = "serving_images_xla"

Endpoint = tuple[Callable[..., Outputs], list[tf.TensorSpec]]


def build_signatures(answering: Answering, *, xla: bool) -> dict[str, Endpoint]:
    """Returns each signature's function and the tensors it takes.

    Args:
        answering: What the model answers with.
        xla: Whether there is a `serving_images_xla`, whose network XLA compiles, once
            for each number of images.
    """
    images = answering.image_spec
    serve = _serve(answering)
    threshold = tf.TensorSpec((None,), tf.float32, name="threshold")
    endpoints: dict[str, Endpoint] = {
        "serving_images": (serve, [images]),
        "serving_default": (serve, [images]),
        "serving_images_threshold": (
            _serve_with_threshold(answering),
            [images, threshold],
        ),
        "embed": (_embed(answering), [images]),
    }
    height, width, channels = answering.input_shape
    if channels == 3 and height is not None and height == width:
        image_bytes = tf.TensorSpec((None,), tf.string, name="image_bytes")
        endpoints["serving_bytes"] = (_serve_bytes(answering, height), [image_bytes])
    if xla:
        compiled = dataclasses.replace(answering, compiled=True)
        endpoints[XLA_SIGNATURE] = (_serve(compiled), [images])
    return endpoints


def _serve(answering: Answering) -> Callable[..., Outputs]:
    """Returns the function of `serving_images`."""

    def serve(images: tf.Tensor) -> Outputs:
        return in_chunks(
            lambda images: answering.answer(images, answering.threshold),
            [answering.checked_images(images)],
            _at_a_time(answering),
        )

    return serve


def _serve_with_threshold(answering: Answering) -> Callable[..., Outputs]:
    """Returns the function of `serving_images_threshold`."""

    def serve(images: tf.Tensor, threshold: tf.Tensor) -> Outputs:
        images = answering.checked_images(images)
        threshold = answering.checked_threshold(threshold, images)
        return in_chunks(answering.answer, [images, threshold], _at_a_time(answering))

    return serve


def _serve_bytes(answering: Answering, size: int) -> Callable[..., Outputs]:
    """Returns the function of `serving_bytes`."""

    def answer(contents: tf.Tensor) -> Outputs:
        pixels, error = decode_images(contents, size)
        answers = answering.answer(
            tf.cast(pixels, tf.float32), answering.threshold, error == ""
        )
        return {**answers, "error": error}

    def serve(image_bytes: tf.Tensor) -> Outputs:
        files = checked_files(image_bytes)
        return in_chunks(answer, [files], _at_a_time(answering))

    return serve


def _embed(answering: Answering) -> Callable[..., Outputs]:
    """Returns the function of `embed`; what has no embedding has zeros."""

    def embed(images: tf.Tensor) -> Outputs:
        outputs, sound = answering.embed(images)
        return {"embedding": tf.where(sound[:, None], outputs["embedding"], 0.0)}

    def serve(images: tf.Tensor) -> Outputs:
        return in_chunks(
            embed, [answering.checked_images(images)], _at_a_time(answering)
        )

    return serve


def _at_a_time(answering: Answering) -> int:
    """Returns how many images pass through the network together."""
    height, width, _ = answering.input_shape
    if height is None or width is None:
        return _MOST_AT_A_TIME
    return max(1, min(_MOST_AT_A_TIME, _PIXELS_AT_A_TIME // (height * width)))
