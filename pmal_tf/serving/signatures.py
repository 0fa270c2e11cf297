"""The named signatures of an exported model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from pmal_tf.serving.answers import Answering, checked_shape
from pmal_tf.serving.chunks import Outputs, in_chunks
from pmal_tf.serving.image_bytes import decode_images

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
    height, width, channels = answering.input_shape
    chunk = _MOST_AT_A_TIME
    if height is not None and width is not None:
        chunk = max(1, min(chunk, _PIXELS_AT_A_TIME // (height * width)))

    def serve_images(by: Answering) -> Callable[..., Outputs]:
        def serve(images: tf.Tensor) -> Outputs:
            images = by.checked_images(images)
            return in_chunks(lambda x: by.answer(x, by.threshold), [images], chunk)

        return serve

    def serve_threshold(images: tf.Tensor, threshold: tf.Tensor) -> Outputs:
        images = answering.checked_images(images)
        threshold = answering.checked_threshold(threshold, images)
        return in_chunks(answering.answer, [images, threshold], chunk)

    def embed(images: tf.Tensor) -> Outputs:
        outputs, sound = answering.embed(images)
        # What has no embedding has zeros.
        return {"embedding": tf.where(sound[:, None], outputs["embedding"], 0.0)}

    def serve_embedding(images: tf.Tensor) -> Outputs:
        return in_chunks(embed, [answering.checked_images(images)], chunk)

    images = answering.image_spec
    threshold = tf.TensorSpec((None,), tf.float32, name="threshold")
    serve = serve_images(answering)
    endpoints: dict[str, Endpoint] = {
        "serving_images": (serve, [images]),
        "serving_default": (serve, [images]),
        "serving_images_threshold": (serve_threshold, [images, threshold]),
        "embed": (serve_embedding, [images]),
    }
    if channels == 3 and height is not None and height == width:
        size = height

        def answer_files(contents: tf.Tensor) -> Outputs:
            pixels, error = decode_images(contents, size)
            images = tf.cast(pixels, tf.float32)
            answers = answering.answer(images, answering.threshold, error == "")
            return {**answers, "error": error}

        def serve_files(image_bytes: tf.Tensor) -> Outputs:
            files = checked_shape(
                image_bytes,
                lambda x: (x[0] >= 0) & (x[1] == -1),
                "`image_bytes` must be a list of files, [batch].",
            )
            return in_chunks(answer_files, [files], chunk)

        image_bytes = tf.TensorSpec((None,), tf.string, name="image_bytes")
        endpoints["serving_bytes"] = (serve_files, [image_bytes])
    if xla:
        compiled = dataclasses.replace(answering, compiled=True)
        endpoints[XLA_SIGNATURE] = (serve_images(compiled), [images])
    return endpoints
