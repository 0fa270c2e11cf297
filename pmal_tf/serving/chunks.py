"""Requests of any length, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

Outputs = dict[str, tf.Tensor]


def in_chunks(
    function: Callable[..., Outputs], inputs: Sequence[tf.Tensor], chunk: int
) -> Outputs:
    """Applies a function to rows, so many at a time, inside a graph.

    A server's memory must not depend on how much a client sends: ten thousand images
    in one request would need ten thousand times the network's activations. Nor may the
    function see an empty batch, which TensorFlow's CPU convolutions give a wrong shape.

    Args:
        function: Takes one tensor of at most `chunk` rows, and at least one, for each
            input; gives a dict of tensors with as many rows.
        inputs: Tensors with equal numbers of rows, none included.
        chunk: Largest number of rows at a time.

    Returns:
        The function's outputs for all rows.
    """
    total = tf.shape(inputs[0])[0]
    concrete = tf.function(function).get_concrete_function(
        *(tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs)
    )
    expected: Outputs = concrete.structured_outputs
    names = sorted(expected)

    def at_once() -> list[tf.Tensor]:
        outputs = concrete(*inputs)
        return [outputs[name] for name in names]

    def one_by_one() -> list[tf.Tensor]:
        rows = [_at_least_one(x) for x in inputs]
        parts = [
            tf.TensorArray(
                expected[name].dtype,
                size=tf.maximum((total + chunk - 1) // chunk, 1),
                infer_shape=False,
                element_shape=[None, *expected[name].shape[1:]],
            )
            for name in names
        ]

        def step(start: tf.Tensor, *parts: tf.TensorArray) -> tuple:
            outputs = concrete(*(x[start : start + chunk] for x in rows))
            written = [
                part.write(start // chunk, outputs[name])
                for name, part in zip(names, parts, strict=True)
            ]
            return (start + chunk, *written)

        # The first step is taken in any case: it may be the one on a row of nothing.
        _, *parts = tf.while_loop(
            lambda start, *_: (start < total) | (start == 0),
            step,
            (tf.constant(0), *parts),
            parallel_iterations=1,
        )
        return [part.concat()[:total] for part in parts]

    # Most requests are short, and do without the loop's cost.
    collected = tf.cond((total > 0) & (total <= chunk), at_once, one_by_one)
    return dict(zip(names, collected, strict=True))


def _at_least_one(rows: tf.Tensor) -> tf.Tensor:
    """Returns rows, or a row of nothing where there are none."""
    shape = [1, *(1 if side is None else side for side in rows.shape[1:])]
    nothing = tf.constant("" if rows.dtype == tf.string else 0, rows.dtype)
    return tf.cond(tf.shape(rows)[0] > 0, lambda: rows, lambda: tf.fill(shape, nothing))
