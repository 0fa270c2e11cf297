"""The named signatures of an exported model, for requests of any length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from pmal_tf.serving.answers import Answering, checked_shape
from pmal_tf.serving.image_bytes import decode_images

# Images times pixels that pass through the network at a time: 1,024 of 64 pixels, but
# never more than 256, and 83 of 224.
_PIXELS_AT_A_TIME = 2**22
_MOST_AT_A_TIME = 256

XLA_SIGNATURE = "serving_images_xla"

Outputs = dict[str, tf.Tensor]
Endpoint = tuple[Callable[..., Outputs], list[tf.TensorSpec]]


def build_signatures(answering: Answering, *, xla: bool) -> dict[str, Endpoint]:
    """Returns each signature's function and the tensors it takes.

    With `xla` there is a `serving_images_xla`, whose network XLA compiles, once for
    each number of images.
    """
    height, width, channels = answering.input_shape
    chunk = _MOST_AT_A_TIME
    if height is not None and width is not None:
        chunk = max(1, min(chunk, _PIXELS_AT_A_TIME // (height * width)))

    def serve_images(by: Answering) -> Callable[..., Outputs]:
        def serve(images: tf.Tensor) -> Outputs:
            images = by.checked_images(images)
            return _in_chunks(lambda x: by.answer(x, by.threshold), [images], chunk)

        return serve

    def serve_threshold(images: tf.Tensor, threshold: tf.Tensor) -> Outputs:
        images = answering.checked_images(images)
        threshold = answering.checked_threshold(threshold, images)
        return _in_chunks(answering.answer, [images, threshold], chunk)

    def embed(images: tf.Tensor) -> Outputs:
        outputs, sound = answering.embed(images)
        # What has no embedding has zeros.
        return {"embedding": tf.where(sound[:, None], outputs["embedding"], 0.0)}

    def serve_embedding(images: tf.Tensor) -> Outputs:
        return _in_chunks(embed, [answering.checked_images(images)], chunk)

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
            return _in_chunks(answer_files, [files], chunk)

        image_bytes = tf.TensorSpec((None,), tf.string, name="image_bytes")
        endpoints["serving_bytes"] = (serve_files, [image_bytes])
    if xla:
        compiled = dataclasses.replace(answering, compiled=True)
        endpoints[XLA_SIGNATURE] = (serve_images(compiled), [images])
    return endpoints


def _in_chunks(
    function: Callable[..., Outputs], inputs: Sequence[tf.Tensor], chunk: int
) -> Outputs:
    """Applies a function to rows, at least one and at most `chunk` at a time.

    A server's memory must not depend on how much a client sends: ten thousand images
    in one request would need ten thousand times the network's activations. Nor may the
    function see an empty batch, which TensorFlow's CPU convolutions give a wrong shape.
    The inputs have equal numbers of rows, perhaps none.
    """
    total = tf.shape(inputs[0])[0]
    concrete = tf.function(function).get_concrete_function(
        *(tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs)
    )

    def one_by_one() -> Outputs:
        rows = [_at_least_one(x) for x in inputs]
        arrays = {
            name: tf.TensorArray(
                output.dtype,
                size=tf.maximum((total + chunk - 1) // chunk, 1),
                infer_shape=False,
                element_shape=[None, *output.shape[1:]],
            )
            for name, output in concrete.structured_outputs.items()
        }

        def step(
            start: tf.Tensor, arrays: dict[str, tf.TensorArray]
        ) -> tuple[tf.Tensor, dict[str, tf.TensorArray]]:
            outputs = concrete(*(x[start : start + chunk] for x in rows))
            number = start // chunk
            written = {
                n: array.write(number, outputs[n]) for n, array in arrays.items()
            }
            return start + chunk, written

        # The first step is taken in any case: it may be the one on a row of nothing.
        _, arrays = tf.while_loop(
            lambda start, _: (start < total) | (start == 0),
            step,
            (tf.constant(0), arrays),
            parallel_iterations=1,
        )
        return {name: array.concat()[:total] for name, array in arrays.items()}

    # Most requests are short, and do without the loop's cost.
    is_short = (total > 0) & (total <= chunk)
    return tf.cond(is_short, lambda: concrete(*inputs), one_by_one)


def _at_least_one(rows: tf.Tensor) -> tf.Tensor:
    """Returns rows, or a row of nothing where there are none."""
    shape = [1, *(1 if side is None else side for side in rows.shape[1:])]
    nothing = tf.constant("" if rows.dtype == tf.string else 0, rows.dtype)
    return tf.cond(tf.shape(rows)[0] > 0, lambda: rows, lambda: tf.fill(shape, nothing))
